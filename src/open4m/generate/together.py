"""Several requests in one batch, each with the results that it has alone: for folders, and for users at once."""

from __future__ import annotations

import json
from collections.abc import Sequence

from open4m.generate.drawing import Outcome
from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.request_base import Request, Watch
from open4m.types import Open4MError

OWN = ("given", "mask", "seed", "model", "fingerprint")
"""Fields in which requests of one batch may differ."""


def kind(request: Request, model: FourM) -> str | None:
    """What requests that one batch can hold have in common, as a text; None for one that is generated alone.

    Their results have the same bits alone and together if the model's engine is steady
    (:attr:`~open4m.generate.engine.Engine.steady`), which it is not for images that are shown as pixels in part.
    """
    try:
        asked = request.asked(model)
    except Open4MError:  # alone, it says so
        return None
    if asked is None or request.fit == "letterbox":
        return None
    parts = {name: isinstance(value, Masked) for name, value in asked.given.items()}
    if any(is_part and name not in request.targets for name, is_part in parts.items()):
        return None
    return json.dumps([request.to_json(but=OWN), [*parts.items()]], sort_keys=True)


def together(model: FourM, requests: Sequence[Request], watch: Watch | None = None) -> list[Outcome | Open4MError]:
    """What becomes of each of several requests of one :func:`kind`, or why it cannot be: what one cannot do, the others
    can. ``watch`` is shown the samples of all of them, those of the first request first."""
    if len(requests) == 1:
        try:
            return [requests[0].run(model, watch)]
        except Open4MError as error:
            return [error]
    first, count = requests[0], requests[0].samples
    try:
        own = [request.on(model) for request in requests]
        asked = [request.asked(own[0]) for request in requests]
        seeds = [request.seed + n for request in requests for n in range(count)]
        options = {**asked[0].options, "seed": seeds, "watch": watch}
        made = own[0].generate([one.given for one in asked], first.targets, samples=count, **options)
    except Open4MError:
        return [together(model, [request], watch)[0] for request in requests]
    each = len(made) // len(requests)  # one if several are merged
    return [request.outcome(made[n * each : (n + 1) * each]) for n, request in enumerate(requests)]
