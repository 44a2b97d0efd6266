"""What a head gives is what :class:`~open4m.transfer.heads.base.Head` says that it gives: heads are files of users, and
what else they return would end a run far from where it was returned."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.datasets.labelled.base import Example
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Head
from open4m.types import Open4MError, shown


def check_class(head: type[Head], path: Path) -> None:
    """Raise :class:`Open4MError` that names the file unless a head defines all that it has to."""
    if missing := sorted(head.__abstractmethods__):
        raise Open4MError(f"{path}: {head.__name__} lacks {', '.join(missing)}")
    kind = getattr(head, "Config", None)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise Open4MError(f"{path}: {head.__name__}.Config: expected a dataclass of its settings, got {shown(kind)}")
    own = {field.name for field in dataclasses.fields(kind)}
    for name in ("name", "target"):
        value = getattr(head, name, None)
        if not (isinstance(value, str) and value) and not (name == "target" and name in own):
            raise Open4MError(f"{path}: {head.__name__}.{name}: expected a text, got {shown(value)}")


def loss(
    head: Head, outputs: Any, batch: Batch, generator: torch.Generator | None
) -> tuple[Tensor, Mapping[str, Tensor | float]]:
    """The loss of a head and what it logs. Raises :class:`Open4MError` unless they are a scalar and numbers by name."""
    found = head.loss(outputs, batch, generator)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise _broken(head, "loss", "a tensor and a dictionary of what is logged", found)
    cost, logged = found
    if not (isinstance(cost, Tensor) and cost.ndim == 0 and cost.is_floating_point()):
        raise _broken(head, "loss", "a scalar to minimize, a tensor of no dimensions", cost)
    if torch.is_grad_enabled() and not cost.requires_grad:
        raise _broken(head, "loss", "a scalar that depends on the outputs, with a gradient", cost)
    if not isinstance(logged, Mapping):
        raise _broken(head, "loss", "a dictionary of what is logged", logged)
    for name, value in logged.items():
        if not (isinstance(value, Real) or (isinstance(value, Tensor) and value.ndim == 0)):
            raise _broken(head, "loss", f"one number as {shown(name)}", value)
    return cost, logged


def predict(head: Head, outputs: Any, placed: Sequence[Placed]) -> Sequence[Any]:
    """The predictions of a head. Raises :class:`Open4MError` unless there is one for each sample."""
    found = head.predict(outputs, placed)
    if not isinstance(found, list | tuple) or len(found) != len(placed):
        raise _broken(head, "predict", f"a list of {len(placed)} predictions, one for each picture", found)
    return found


def measure(head: Head, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
    """The figures of a head. Raises :class:`Open4MError` unless they are numbers by name, one at least."""
    found = head.measure(predictions, examples)
    if not (isinstance(found, Mapping) and found):
        raise _broken(head, "measure", "a dictionary of one figure or more", found)
    for name, value in found.items():
        if not (isinstance(name, str) and isinstance(value, Real | np.number)):
            raise _broken(head, "measure", f"one number as {shown(name)}", value)
    return dict(found)


def draw(head: Head, example: Example, prediction: Any) -> Image.Image:
    """The picture of a head. Raises :class:`Open4MError` unless it is one."""
    found = head.draw(example, prediction)
    if not isinstance(found, Image.Image):
        raise _broken(head, "draw", "an image of Pillow", found)
    return found


def _broken(head: Head, method: str, expected: str, found: Any) -> Open4MError:
    """The error of a head's method, which says what it returned."""
    if isinstance(found, Tensor | np.ndarray):
        got = f"{found.dtype} {tuple(found.shape)}"
    elif isinstance(found, list | tuple):
        got = f"{type(found).__name__} of {len(found)}"
    else:
        got = f"{shown(found)} ({type(found).__name__})"
    return Open4MError(f"head {head.name}: {method} returns {got}; expected {expected}")
