"""Results at rest: ``result.json`` holds a request and what came of it, so that it can be made again to the token.

>>> found = read(folder / NAME)
>>> differences(found, found.request.run(model).results)
[]

Of each result it holds tokens, log-probabilities, entropies, the plan, which task of the model's plans it follows, the
seed, the frame and all that it was made from. Arrays are files beside it (:mod:`open4m.generate.values`). Nothing in it
is ever executed or unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open4m import __version__, files
from open4m import config as configs
from open4m.generate import values
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.generate.request import Request
from open4m.generate.request_base import FORMAT, FORMATS, MAX_DESCRIBED
from open4m.generate.results import Generation
from open4m.generate.verbs import MAX_SAMPLES
from open4m.modalities.frames import Frame
from open4m.types import Open4MError

NAME = "result.json"

DECIMALS = 6
"""Of log-probabilities and entropies."""


@dataclass(frozen=True)
class Record:
    """What :func:`read` finds: a request that names the only weights it is for, and its results, without values.

    ``made_with``: versions of libraries and the device.
    """

    request: Request
    results: list[Generation]
    made_with: dict[str, str]


def write(folder: Path, model: FourM, request: Request, results: Sequence[Generation]) -> Path:
    """Write ``result.json`` and the arrays beside it. ``request.model`` should be a name that loads ``model`` again."""
    text = json.dumps(written(model, request, results, folder), allow_nan=False)
    files.write_text(folder / NAME, text + "\n")
    return folder / NAME


def written(
    model: FourM, request: Request, results: Sequence[Generation], folder: Path | None = None
) -> dict[str, Any]:
    """The content of ``result.json`` as plain JSON; arrays are files in ``folder``, or base64 if that is None."""
    return {
        "format": FORMAT,
        "made_with": {"open4m": __version__, "torch": torch.__version__, "device": str(model.device)},
        "request": request.pinned(model).to_json(folder),
        "results": [
            {
                "seed": int(result.seed),
                "plan": [configs.to_dict(step) for step in result.plan],
                "planned": result.planned,
                "frame": None if result.frame is None else configs.to_dict(result.frame),
                "given": values.VALUES.encode(result.given, folder),
                "conditions": values.CONDITIONS.encode(result.conditions, folder),
                "tokens": {key: tokens.tolist() for key, tokens in result.tokens.items()},
                "log_probability": {key: rounded(numbers) for key, numbers in result.log_probability.items()},
                "entropy": {key: rounded(numbers) for key, numbers in result.entropy.items()},
            }
            for result in results
        ],
    }


@dataclass(frozen=True)
class _Result:
    seed: int
    plan: list[dict[str, Any]]
    given: dict[str, Any]
    conditions: dict[str, dict[str, Any]]
    tokens: dict[str, list[int]]
    log_probability: dict[str, list[Any]]
    entropy: dict[str, list[Any]]
    frame: Frame | None = None  # which format 2 did not have
    planned: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Content:
    made_with: dict[str, str]
    request: dict[str, Any]
    results: list[_Result]


def read(path: Path) -> Record:
    """Read a ``result.json``, which anyone may have written.

    Raises :class:`Open4MError` for a file that is not a record, or has another format.
    """
    found = files.read_json(path)
    if not isinstance(found, dict) or "format" not in found:
        raise Open4MError(f"{path}: not the record of a result; expected the {NAME} that open4m writes")
    if (version := found.pop("format")) not in FORMATS:
        raise Open4MError(f"{path}: not a record that this open4m reads: {_other_format(version)}")
    try:
        content = configs.from_dict(_Content, found, "record")
        request = Request.from_json(content.request, path.parent, "record.request")
        if not 1 <= len(content.results) <= MAX_SAMPLES:
            raise Open4MError(f"expected 1 to {MAX_SAMPLES} results, got {len(content.results)}")
        results = [_generation(one, path.parent, f"record.results[{i}]") for i, one in enumerate(content.results)]
    except (Open4MError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error) if len(str(error)) <= MAX_DESCRIBED else f"{str(error)[:MAX_DESCRIBED]} ..."
        raise Open4MError(f"{path}: not the record of a result, or a damaged one: {reason}") from error
    return Record(request, results, content.made_with)


def _other_format(version: Any) -> str:
    if version == "open4m result 1":
        return "it has format 1, which holds no request; run the command that made it once more"
    return f"it has format {str(version)[:MAX_DESCRIBED]!r}, expected {FORMAT}; update open4m"


def _generation(result: _Result, folder: Path, where: str) -> Generation:
    plan = [Step(**step) for step in result.plan]
    targets = [step.target for step in plan]
    for made in (result.tokens, result.log_probability, result.entropy):
        if not made.keys() <= set(targets):
            raise Open4MError(f"expected tokens of {', '.join(targets)}, the targets, got those of {', '.join(made)}")
    if len(result.conditions) > MAX_SAMPLES:
        raise Open4MError(f"{where}.conditions: expected at most {MAX_SAMPLES}, got {len(result.conditions)}")
    return Generation(
        values={},
        tokens={key: np.array(ids, dtype=np.int64) for key, ids in result.tokens.items()},
        plan=plan,
        seed=result.seed,
        log_probability={key: np.array(v, dtype=np.float32) for key, v in result.log_probability.items()},
        entropy={key: np.array(v, dtype=np.float32) for key, v in result.entropy.items()},
        given=values.checked(values.VALUES.decode(result.given, f"{where}.given", folder)),
        conditions={
            name: values.checked(shown)
            for name, shown in values.CONDITIONS.decode(result.conditions, f"{where}.conditions", folder).items()
        },
        frame=result.frame,
        planned=result.planned,
    )


def differences(record: Record, again: Sequence[Generation]) -> list[str]:
    """Where results made again have other tokens than the record: one line per modality of a result."""
    if len(record.results) != len(again):
        return [f"{len(record.results)} results became {len(again)}"]
    found = []
    for number, (old, new) in enumerate(zip(record.results, again, strict=True), 1):
        for key in dict.fromkeys([*old.tokens, *new.tokens]):
            pair = [result.tokens.get(key, np.zeros(0, dtype=np.int64)) for result in (old, new)]
            shared = min(map(len, pair))
            wrong = int((pair[0][:shared] != pair[1][:shared]).sum()) + abs(len(pair[0]) - len(pair[1]))
            if wrong:
                found.append(f"result {number}, {key}: {wrong} of {len(pair[0])} tokens differ")
    return found


def rounded(numbers: np.ndarray) -> Any:
    """Nested lists of rounded numbers; None for NaN, which JSON does not have."""
    near = np.round(numbers.astype(np.float64), DECIMALS)
    return np.where(np.isfinite(near), near, None).tolist()
