"""The command line that asks for what a request asks for: people who see a result can make it again in a shell.

>>> command_of(Generate(given={"caption": "a red cone"}, targets=("rgb",), seed=7)).line
"open4m generate --caption 'a red cone' --to rgb --seed 7 --out again"
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.generate.changes import Change, Delete, Move, Moves, Rename, Swap, Values, Weights
from open4m.generate.masks import Cells, Masked
from open4m.generate.request import Edit, Inpaint, Outpaint, Probe, Request, Vary
from open4m.modalities.codecs import encode_png, mask_of_picture, write_array
from open4m.modalities.families import Modality
from open4m.types import Boxes, Marked, Value

FLAGS = (
    "scheme",
    "steps",
    "tokens",
    "schedule",
    "temperature",
    "choice_temperature",
    "top_p",
    "top_k",
    "guidance",
)
"""Options for all targets that have a flag."""

OUT = "again"

Files = dict[str, Callable[[], bytes]]


class _NoCommand(Exception):
    """There is no such option."""


@dataclass(frozen=True)
class Command:
    """``line`` is for a shell, in a folder with the files of ``parts``, functions by name that give their bytes."""

    line: str
    parts: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """The bytes of each file."""
        return {name: make() for name, make in self.parts.items()}


def command_of(request: Request) -> Command | None:
    """The command of a request, for the model of its name; None if the command line has no options for it, such as
    values that only guidance refers to. The weights and plans that a request may be pinned to are not part of it."""
    files: Files = {}
    try:
        words = [*_given(request, files), *_verb(request, files), *_options(request), *_weights(request)]
    except _NoCommand:
        return None
    if request.samples != type(request).__dataclass_fields__["samples"].default and not isinstance(request, Probe):
        words += ["--samples", str(request.samples)]
    for name in ("seed", "preset", "merge", "model"):
        if value := getattr(request, name, ""):
            words += [f"--{name}", str(value)]
    if request.fit != "crop":
        words += ["--fit", request.fit]
    for is_said, flag in ((request.entropies, "entropy"), (request.upscale, "upscale"), (request.resize, "resize")):
        words += [f"--{flag}"] * is_said
    if not request.paste:
        if not isinstance(request, Inpaint | Outpaint | Edit):
            return None
        words.append("--no-paste")
    return Command(shlex.join(["open4m", request.verb, *words, "--out", OUT]), files)


def _given(request: Request, files: Files) -> Iterator[str]:
    for name, value in request.given.items():
        modality, word = modalities.get(name), _word(name, value, files)
        if modality.flag is not None and name == modality.name:
            yield f"--{modality.flag.name}={word}"
        elif modality.is_text:
            raise _NoCommand
        else:
            yield from ("--given", f"{name}={word}")
        if isinstance(value, Marked):
            yield from ("--form", f"{name}=marked")


def _said(*words: str) -> tuple[str, ...]:
    """Words after a flag, none of which is taken for a flag: of words with a dash, numbers are not."""
    if any(word.startswith("-") and not re.fullmatch(r"-(\d+|\d*\.\d+)", word) for word in words):
        raise _NoCommand
    return words


def _word(name: str, value: Value, files: Files, stem: str = "") -> str:
    """A text itself, or the name of a file with the value. ``stem``: of a value without a flag of its own, where a text
    could be the name of a file, or a flag."""
    modality = modalities.get(name)
    if isinstance(value, Masked):
        raise _NoCommand
    if isinstance(value, str) and not (stem and re.search(r"^-|[./\\]", value)):
        return str(value)
    if isinstance(value, np.ndarray):
        is_picture = value.size and value.dtype == np.uint8 and (value.ndim == 2 or value.shape[2:] == (3,))
        make, end = (partial(encode_png, value), "png") if is_picture else (partial(write_array, value), "npy")
    else:
        data, end = _exact(modality, value), modality.extension.rpartition(".")[2] or "json"
        make = partial(bytes, data)
    file = f"given_{stem or name.replace('@', '_')}.{end}"
    files[file] = make
    return file


def _exact(modality: Modality, value: Value) -> bytes:
    """The bytes of a file from which the very value is read."""
    if isinstance(value, Boxes) and value.scores is None:  # with all digits
        rows = zip(value.corners.astype(float).tolist(), value.labels, strict=True)
        return json.dumps([{"box": row, "label": label} for row, label in rows]).encode()
    data = modality.write(value)
    if modality.read(data) != value:
        raise _NoCommand
    return data


def _verb(request: Request, files: Files) -> Iterator[str]:
    """The targets, and what only one verb has."""
    if isinstance(request, Inpaint | Outpaint):
        yield from ("--of", *request.targets)
        yield from (
            _mask(request.mask, files) if isinstance(request, Inpaint) else ("--box", *_said(_corners(request.box)))
        )
        return
    yield from ("--to", *request.targets)
    if isinstance(request, Vary):
        yield from ("--by", *request.by)
    if isinstance(request, Edit):
        yield from ("--of", request.of)
        for change in _ordered(request.changes):
            yield from _change(change)
        if request.keep:
            yield from ("--keep", *request.keep)
    if isinstance(request, Probe):
        yield from _sweep(request, files)


def _mask(mask: Any, files: Files) -> Iterator[str]:
    if isinstance(mask, Cells):
        yield from ("--cells", *map(str, mask.indices))
        return
    array = mask_of_picture(mask) if isinstance(mask, Image.Image) else np.asarray(mask)
    if array.dtype.kind == "b" and array.ndim == 2:
        files["mask.png"] = partial(encode_png, array.astype(np.uint8) * 255)
        yield from ("--mask", "mask.png")
    elif array.ndim in (1, 2) and array.shape[-1] == 4 and not isinstance(mask, np.ndarray):
        for corners in array.reshape(-1, 4).tolist():
            yield from ("--box", *_said(_corners(corners)))
    else:
        raise _NoCommand


KINDS = (Move, Rename, Delete, Swap)
"""Changes in the order in which the command line makes them."""


def _ordered(changes: Sequence[Change]) -> Sequence[Change]:
    places = [KINDS.index(type(change)) for change in changes]
    if places != sorted(places):
        raise _NoCommand
    return changes


def _change(change: Change) -> tuple[str, ...]:
    if isinstance(change, Move):
        return "--move", *_said(change.move, _corners(change.to))
    if isinstance(change, Delete):
        return "--delete", *_said(change.delete)
    flag, name = ("--rename", change.rename) if isinstance(change, Rename) else ("--swap", change.swap)
    return flag, *_said(name, change.to)


def _sweep(request: Probe, files: Files) -> Iterator[str]:
    sweep = request.sweep
    if isinstance(sweep, Values):
        words = [_word(request.of, value, files, f"value_{n}") for n, value in enumerate(sweep.values, 1)]
        if any(isinstance(value, Marked) for value in sweep.values):
            raise _NoCommand
        yield from ("--values", request.of, *words)
    elif isinstance(sweep, Weights):
        yield from ("--weights", request.of, *_said(*map(repr, sweep.weights)))
    else:
        places = map(_corners, sweep.to) if isinstance(sweep, Moves) else sweep.to
        label = sweep.move if isinstance(sweep, Moves) else sweep.swap
        yield from ("--of", request.of, "--move" if isinstance(sweep, Moves) else "--swap", *_said(label, *places))


def _corners(corners: Sequence[float]) -> str:
    return ",".join(repr(float(number)) for number in corners)


def _options(request: Request) -> Iterator[str]:
    for name, value in request.options.items():
        if isinstance(value, Mapping):
            for own, said in value.items():
                yield from ("--option", f"{name}.{own}={json.dumps(said)}")
        elif name in FLAGS:
            yield f"--{name.replace('_', '-')}"
            yield from _said(*map(str, value if isinstance(value, tuple) else (value,)))
        else:
            raise _NoCommand


def _weights(request: Request) -> Iterator[str]:
    if request.conditions:
        raise _NoCommand
    for name, weight in request.weights.items():
        yield from ("--weight", f"{name}={weight!r}")
    for text in request.avoid:
        yield f"--avoid={text}"
    if request.avoid:
        yield f"--avoid-weight={request.avoid_weight!r}"
