"""Several requests in one batch, each with the results that it has alone: for folders, and for users at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from open4m.generate.canvas import Canvas
from open4m.generate.drawing import Outcome
from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.request_base import Request
from open4m.generate.results import Snapshot
from open4m.types import Open4MError

OWN = ("given", "mask", "seed", "model", "fingerprint")
"""Fields in which requests of one batch may differ."""


def kind(request: Request, model: FourM) -> str | None:
    """What requests that one batch can hold have in common, as a text; None for one that is generated alone.

    Their results have the same bits alone and together if the model's engine is steady
    (:attr:`~open4m.generate.engine.Engine.steady`), which it is not for images that are shown as pixels in part, nor
    for vectors.
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
    shown = {name for values in (asked.given, *request.conditions.values()) for name in values}
    keys = {model.config.read_as(name) for name in shown}
    if any(spec.key in keys and spec.content == "vectors" for spec in model.config.modalities):
        return None
    return json.dumps([request.to_json(but=OWN), [*parts.items()]], sort_keys=True)


Watch = Callable[[Snapshot, Sequence[tuple[int, int]]], None]
"""Is called after every forward pass, with the request and the sample of it, from 0, that each row belongs to."""


def together(model: FourM, requests: Sequence[Request], watch: Watch | None = None) -> list[Outcome | Open4MError]:
    """What becomes of each of several requests of one :func:`kind`, or why it cannot be: what one cannot do, the others
    can."""
    if len(requests) == 1:
        return [_alone(model, requests[0], watch, 0)]
    first, count = requests[0], requests[0].samples
    seen = None if watch is None else _Rows(watch, lambda place: (place // count, place % count))
    try:
        own = [request.on(model) for request in requests]
        asked = [request.asked(own[0]) for request in requests]
        seeds = [request.seed + n for request in requests for n in range(count)]
        options = {**asked[0].options, "seed": seeds, "watch": seen}
        made = own[0].generate([one.given for one in asked], first.targets, samples=count, **options)
    except Open4MError:
        return [_alone(model, request, watch, number) for number, request in enumerate(requests)]
    each = len(made) // len(requests)  # one if several are merged
    return [request.outcome(made[n * each : (n + 1) * each]) for n, request in enumerate(requests)]


def _alone(model: FourM, request: Request, watch: Watch | None, number: int) -> Outcome | Open4MError:
    try:
        return request.run(model, None if watch is None else _Rows(watch, lambda place: (number, place)))
    except Open4MError as error:
        return error


class _Rows:
    """Tells which rows of a batch are whose. Several batches follow one another; one of larger grids has the rows of
    the batch before it."""

    def __init__(self, watch: Watch, whose: Callable[[int], tuple[int, int]]):
        self._watch, self._whose = watch, whose
        self._canvas: Canvas | None = None
        self._done = 0

    def __call__(self, progress: Snapshot) -> None:
        if progress.before is None and progress.canvas is not self._canvas:
            self._done += 0 if self._canvas is None else self._canvas.size
            self._canvas = progress.canvas
        self._watch(progress, [self._whose(self._done + row) for row in range(progress.canvas.size)])
