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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import __version__
from open4m import config as configs
from open4m.generate.masks import Cells, Masked
from open4m.generate.pipeline import FourM, Generation
from open4m.generate.plan import Step
from open4m.modalities.base import load_array, write_array
from open4m.types import Boxes, Open4MError, Value

NAME = "result.json"
FORMAT = "open4m result 1"
LARGEST = 1 << 28  # bytes that are read of a file
PLACES = 6  # decimals of log-probabilities and entropies


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

    def stored(value: Any) -> Any:
        if isinstance(value, Masked):
            return {"value": stored(value.value), "mask": stored_mask(value.mask)}
        if isinstance(value, str):
            return {"text": value}
        if isinstance(value, Boxes):
            rows = zip(value.corners.astype(float).tolist(), value.labels, strict=True)
            return {"objects": [{"box": row, "label": label} for row, label in rows], "scores": value.scores}
        data = write_array(value)
        file = f"given-{hashlib.sha256(data).hexdigest()[:12]}.npy"  # what several results were given is there once
        (folder / file).write_bytes(data)
        return {"array": file}

    def stored_mask(mask: Any) -> Any:
        if isinstance(mask, Cells):
            return {"cells": [int(i) for i in mask.indices]}
        return stored(np.asarray(mask.convert("L")) > 127 if isinstance(mask, Image.Image) else np.asarray(mask))

    def all_stored(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: stored(value) for key, value in values.items()}

    calls = [list(call) for _, call in itertools.groupby(results, lambda r: (id(r.plan), id(r.conditions)))]
    content = {
        "format": FORMAT,
        "model": name,
        "fingerprint": fingerprint,
        "made_with": {"open4m": __version__, "torch": torch.__version__, "device": device},
        "calls": [
            {
                "plan": [configs.to_dict(step) for step in call[0].plan],
                "conditions": {key: all_stored(values) for key, values in call[0].conditions.items()},
                "results": [
                    {
                        "seed": int(result.seed),
                        "given": all_stored(result.given),
                        "tokens": {key: tokens.tolist() for key, tokens in result.tokens.items()},
                        "log_probability": {key: _numbers(values) for key, values in result.log_probability.items()},
                        "entropy": {key: _numbers(values) for key, values in result.entropy.items()},
                    }
                    for result in call
                ],
            }
            for call in calls
        ],
    }
    path = folder / NAME
    path.write_text(json.dumps(content, allow_nan=False) + "\n")
    return path


def read(path: Path) -> Record:
    """A ``result.json``, from anywhere. Raises :class:`Open4MError` for what is none."""
    try:
        content = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise Open4MError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Open4MError(f"{path}: not the record of a result; expected the {NAME} that open4m writes ({FORMAT})")

    def value_of(stored: Any) -> Value | Masked:
        if "value" in stored:
            return Masked(value_of(stored["value"]), mask_of(stored["mask"]))
        if "text" in stored:
            return str(stored["text"])
        if "objects" in stored:
            corners = np.array([item["box"] for item in stored["objects"]], dtype=np.float32)
            return Boxes(corners, [item["label"] for item in stored["objects"]], stored["scores"])
        file = stored["array"]
        if not re.fullmatch(r"[\w-]+\.npy", file):
            raise Open4MError(f"{path}: arrays are .npy files in its own folder, got {file!r}")
        return load_array(read_bytes(path.parent / file), str(path.parent / file))

    def mask_of(stored: Any) -> Any:
        return Cells(tuple(int(i) for i in stored["cells"])) if "cells" in stored else value_of(stored)

    def all_of(stored: Mapping[str, Any]) -> dict[str, Value | Masked]:
        return {key: value_of(value) for key, value in stored.items()}

    try:
        calls = []
        for call in content["calls"]:
            if not call["results"]:
                raise ValueError("a call without results")
            plan = [Step(**step) for step in call["plan"]]
            conditions = {name: all_of(values) for name, values in call["conditions"].items()}
            calls.append([
                Generation(
                    values={},
                    tokens={key: np.array(ids, np.int64).reshape(len(ids)) for key, ids in result["tokens"].items()},
                    plan=plan,
                    seed=result["seed"],
                    log_probability={key: np.array(v, np.float32) for key, v in result["log_probability"].items()},
                    entropy={key: np.array(v, np.float32) for key, v in result["entropy"].items()},
                    given=all_of(result["given"]),
                    conditions=conditions,
                )
                for result in call["results"]
            ])  # fmt: skip
        made_with = {str(key): str(value) for key, value in content["made_with"].items()}
        return Record(str(content["model"]), str(content["fingerprint"]), made_with, calls)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Open4MError(f"{path}: not the record of a result, or a damaged one ({error!r})") from error


def replay(model: FourM, record: Record) -> list[Generation]:
    """The results made again; see :func:`differences`. Raises :class:`Open4MError` if another model made them."""
    if model.fingerprint != record.fingerprint:
        raise Open4MError(
            f"another model made this result: {record.model} with fingerprint {record.fingerprint}, this one has "
            f"{model.fingerprint}; name that model"
        )
    again: list[Generation] = []
    for call in record.calls:
        again += model.generate(
            [result.given for result in call], call[0].plan, seed=[result.seed for result in call],
            conditions=call[0].conditions, entropies=bool(call[0].entropy),
        )  # fmt: skip
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
    """A file's bytes. Raises :class:`Open4MError` if it cannot be read or is too large to be an input."""
    try:
        if path.stat().st_size > LARGEST:
            raise Open4MError(f"{path}: {path.stat().st_size} bytes, at most {LARGEST} are read")
        return path.read_bytes()
    except OSError as error:
        raise Open4MError(f"{path}: cannot be read ({error.strerror})") from error
