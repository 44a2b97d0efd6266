"""Results at rest: ``result.json`` says what was generated and of what, so that it can be made again to the token.

It holds tokens, log-probabilities, entropies, plans, seeds, what was given, and the model's name and fingerprint.
Texts, boxes and masks of cells are in it, arrays in ``.npy`` files beside it. Nothing in it is ever executed or
unpickled.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import __version__, files
from open4m import config as configs
from open4m.generate.masks import Cells, Masked
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.generate.results import Generation
from open4m.generate.verbs import MAX_SAMPLES
from open4m.modalities.codecs import load_array, write_array
from open4m.types import Boxes, Open4MError, Value

NAME = "result.json"
FORMAT = "open4m result 1"
LARGEST = 1 << 28  # bytes that are read of a file
PLACES = 6  # decimals of log-probabilities and entropies
LONGEST = 400  # characters of a damaged record that an error repeats


# ---- what result.json holds


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Box:
    box: tuple[float, float, float, float]
    label: str


@dataclass(frozen=True)
class Objects:
    objects: list[Box]
    scores: list[float] | None


@dataclass(frozen=True)
class Array:
    array: str  # the name of a .npy file in the same folder


@dataclass(frozen=True)
class Positions:
    cells: list[int]


@dataclass(frozen=True)
class Part:  # a value that was masked
    value: Text | Objects | Array
    mask: Positions | Array


@dataclass(frozen=True)
class Result:
    seed: int
    given: dict[str, Text | Objects | Array | Part]
    tokens: dict[str, list[int]]
    log_probability: dict[str, list[Any]]
    entropy: dict[str, list[Any]]


@dataclass(frozen=True)
class Call:
    plan: list[dict[str, Any]]
    conditions: dict[str, dict[str, Text | Objects | Array | Part]]
    results: list[Result]


@dataclass(frozen=True)
class Content:
    format: str
    model: str
    fingerprint: str
    made_with: dict[str, str]
    calls: list[Call]


# ---- to and from it


@dataclass(frozen=True)
class Record:
    """What :func:`read` finds: made by the model called ``model`` of this fingerprint. ``calls``: the results, without
    values, of each call of :meth:`FourM.generate`; those of one call were a batch."""

    model: str
    fingerprint: str
    made_with: dict[str, str]
    calls: list[list[Generation]]


def write(folder: Path, name: str, fingerprint: str, device: str, results: Sequence[Generation]) -> Path:
    """Write ``result.json`` and the arrays beside it; ``name`` is the model's, as the user would name it again."""

    def stored(value: Any) -> Text | Objects | Array | Part:
        if isinstance(value, Masked):
            return Part(stored(value.value), stored_mask(value.mask))
        if isinstance(value, str):
            return Text(value)
        if isinstance(value, Boxes):
            rows = zip(value.corners.astype(float).tolist(), value.labels, strict=True)
            return Objects([Box(tuple(row), label) for row, label in rows], value.scores)
        data = write_array(value)
        file = f"given-{hashlib.sha256(data).hexdigest()[:12]}.npy"  # what several results were given is there once
        (folder / file).write_bytes(data)
        return Array(file)

    def stored_mask(mask: Any) -> Positions | Array:
        if isinstance(mask, Cells):
            return Positions([int(i) for i in mask.indices])
        return stored(np.asarray(mask.convert("L")) > 127 if isinstance(mask, Image.Image) else np.asarray(mask))

    def all_stored(values: Mapping[str, Any]) -> dict[str, Text | Objects | Array | Part]:
        return {key: stored(value) for key, value in values.items()}

    calls = [list(call) for _, call in itertools.groupby(results, lambda r: (id(r.plan), id(r.conditions)))]
    content = Content(
        format=FORMAT,
        model=name,
        fingerprint=fingerprint,
        made_with={"open4m": __version__, "torch": torch.__version__, "device": device},
        calls=[
            Call(
                plan=[configs.to_dict(step) for step in call[0].plan],
                conditions={key: all_stored(values) for key, values in call[0].conditions.items()},
                results=[
                    Result(
                        seed=int(result.seed),
                        given=all_stored(result.given),
                        tokens={key: tokens.tolist() for key, tokens in result.tokens.items()},
                        log_probability={key: _numbers(values) for key, values in result.log_probability.items()},
                        entropy={key: _numbers(values) for key, values in result.entropy.items()},
                    )
                    for result in call
                ],
            )
            for call in calls
        ],
    )
    text = json.dumps(configs.to_dict(content), allow_nan=False) + "\n"
    files.write_text(folder / NAME, text)
    return folder / NAME


def read(path: Path) -> Record:
    """A ``result.json``, from anywhere. Raises :class:`Open4MError` for what is none."""
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Open4MError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise Open4MError(f"{path}: not the record of a result; expected the {NAME} that open4m writes ({FORMAT})")
    try:
        content = configs.from_dict(Content, found, "record")
        with np.errstate(over="ignore"):  # what is infinite in 32 bits is refused where it matters
            calls = [_results(call, path.parent) for call in content.calls]
    except (Open4MError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error) if len(str(error)) <= LONGEST else f"{str(error)[:LONGEST]} ..."
        raise Open4MError(f"{path}: not the record of a result, or a damaged one: {reason}") from error
    return Record(content.model, content.fingerprint, content.made_with, calls)


def _results(call: Call, folder: Path) -> list[Generation]:
    """The results of a call, the arrays of what they were given from ``folder``."""
    if not 1 <= len(call.results) <= MAX_SAMPLES or len(call.conditions) > MAX_SAMPLES:
        raise Open4MError(
            f"a call has 1 to {MAX_SAMPLES} results and at most as many conditions, got "
            f"{len(call.results)} and {len(call.conditions)}"
        )
    plan = [Step(**step) for step in call.plan]
    conditions = {name: _values(stored, folder) for name, stored in call.conditions.items()}
    targets = [step.target for step in plan]
    for made in (made for r in call.results for made in (r.tokens, r.log_probability, r.entropy)):
        if not made.keys() <= set(targets):
            raise Open4MError(f"expected tokens of {', '.join(targets)}, the targets, got those of {', '.join(made)}")
    return [
        Generation(
            values={},
            tokens={key: np.array(ids, dtype=np.int64) for key, ids in result.tokens.items()},
            plan=plan,
            seed=result.seed,
            log_probability={key: np.array(v, dtype=np.float32) for key, v in result.log_probability.items()},
            entropy={key: np.array(v, dtype=np.float32) for key, v in result.entropy.items()},
            given=_values(result.given, folder),
            conditions=conditions,
        )
        for result in call.results
    ]


def _values(stored: Mapping[str, Text | Objects | Array | Part], folder: Path) -> dict[str, Value | Masked]:
    def value_of(stored: Text | Objects | Array) -> Value:
        if isinstance(stored, Text):
            return stored.text
        if isinstance(stored, Objects):
            corners = np.array([item.box for item in stored.objects], dtype=np.float32)
            return Boxes(corners, tuple(item.label for item in stored.objects), stored.scores)
        if not re.fullmatch(r"[\w-]+\.npy", stored.array):
            raise Open4MError(f"arrays are .npy files in its own folder, got {stored.array!r}")
        array = load_array(read_bytes(folder / stored.array), stored.array)
        if array.dtype.kind not in "biuf":
            raise Open4MError(f"{stored.array}: expected an array of numbers, got {array.dtype}")
        return array

    def mask_of(stored: Positions | Array) -> Any:
        return Cells(tuple(stored.cells)) if isinstance(stored, Positions) else value_of(stored)

    return {
        key: Masked(value_of(own.value), mask_of(own.mask)) if isinstance(own, Part) else value_of(own)
        for key, own in stored.items()
    }


def replay(model: FourM, record: Record) -> list[Generation]:
    """The results made again; see :func:`differences`. Raises :class:`Open4MError` if another model made them."""
    if model.fingerprint != record.fingerprint:
        raise Open4MError(
            f"another model made this result: {record.model!r} with fingerprint {record.fingerprint!r}, this one has "
            f"{model.fingerprint}; name that model"
        )
    again: list[Generation] = []
    for call in record.calls:
        again += model.generate(
            [result.given for result in call],
            call[0].plan,
            seed=[result.seed for result in call],
            conditions=call[0].conditions,
            entropies=bool(call[0].entropy),
        )
    return again


def differences(record: Record, again: Sequence[Generation]) -> list[str]:
    """Where results made again have other tokens than the record: a line a modality of a result, none if all agree."""
    found = []
    for number, (old, new) in enumerate(zip(itertools.chain(*record.calls), again, strict=True), 1):
        for key in dict.fromkeys([*old.tokens, *new.tokens]):
            pair = [result.tokens.get(key, np.zeros(0, dtype=np.int64)) for result in (old, new)]
            shared = min(map(len, pair))
            wrong = int((pair[0][:shared] != pair[1][:shared]).sum()) + abs(len(pair[0]) - len(pair[1]))
            if wrong:
                found.append(f"result {number}, {key}: {wrong} of {len(pair[0])} tokens differ")
    return found


def _numbers(values: np.ndarray) -> Any:
    """Nested lists; None for NaN, which JSON has not."""
    rounded = np.round(values.astype(np.float64), PLACES)
    return np.where(np.isfinite(rounded), rounded, None).tolist()


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes. Raises :class:`Open4MError` if it cannot be read or is too large to be an input."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe may wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise Open4MError(f"{path}: cannot be read, it is {kind}")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise Open4MError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > LARGEST:
        raise Open4MError(f"{path}: larger than {LARGEST} bytes, which is the most that is read")
    return data
