"""Examples with labels that people made: what transfers are trained on and measured by (paper 3, D).

A data set is one file in this folder that defines ``LABELLED``, a subclass of :class:`Labelled`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from open4m.types import Open4MError, shown

IGNORED = 255
"""The class of a pixel that nobody labelled."""

PICTURE = "rgb"
"""What every example holds."""

Example = Mapping[str, Any]
"""One labelled image: ``rgb``, (H, W, 3) uint8, and any of

- ``label``: int, the class of the image, or float, a number;
- ``semseg``: (H, W) uint8 or int32, the class of each pixel, :data:`IGNORED` where it is not known;
- ``depth``: (H, W) float32, meters, NaN where it was not measured;
- ``instances``: :class:`Instances`;
- other maps, such as ``normals``, (H, W) or (H, W, C) float32, NaN where they were not measured.

All of them show the same picture: they have its height and width.
"""


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The n objects of an image of H × W pixels.

    ``boxes``: (n, 4) float32, columns x_min, y_min, x_max, y_max in pixels; the first pixel covers 0 to 1.
    ``classes``: (n,) int64, places in the names of the data set. ``masks``: (n, H, W) bool, or n run lengths of COCO;
    None if the data have none.
    ``crowd``: (n,) bool, regions of many objects: they are not learned, and what is found there is not counted as
    wrong. ``area``: (n,) float32 pixels, by which COCO sorts objects into small, medium and large ones.
    """

    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | Sequence[Mapping[str, Any]] | None
    crowd: np.ndarray
    area: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.boxes)
        columns = {"classes": self.classes, "crowd": self.crowd, "area": self.area}
        if self.masks is not None:
            columns["masks"] = self.masks
        for name, values in columns.items():
            if len(values) != n:
                raise Open4MError(f"instances: {n} boxes, but {len(values)} {name}")

    def __len__(self) -> int:
        return len(self.boxes)

    def chosen(self, keep: np.ndarray) -> Self:
        """The instances that ``keep`` names: (n,) bool, or places."""
        masks = None if self.masks is None else self.masks[keep]
        return type(self)(
            boxes=self.boxes[keep],
            classes=self.classes[keep],
            masks=masks,
            crowd=self.crowd[keep],
            area=self.area[keep],
        )


class NoSplit(Open4MError):
    """The data have no such split, and nothing is damaged: another one may be taken."""


class Labelled(ABC):
    """One split of a labelled data set, a sequence of examples; any process may open it again from its arguments.

    ``name``: of its file. ``targets``: what its examples hold besides ``rgb``; of the class, what they may hold.
    ``labels``: which of several things ``label`` may be, the first unless :meth:`open` is told by ``label=``; () if
    there is one, or none. ``general``: it fits much, and is taken where no other data set fits.
    """

    name: ClassVar[str]
    targets: tuple[str, ...]
    labels: ClassVar[tuple[str, ...]] = ()
    general: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder looks like this data set. Reads little of it."""

    @classmethod
    @abstractmethod
    def open(cls, root: Path, split: str) -> Self:
        """The split ``train``, ``validation`` or ``test`` of what lies in ``root``. Data sets with ``labels`` take one
        of them as ``label``.

        Raises :class:`NoSplit` that names what was expected where, if it is not there, and :class:`Open4MError` if what
        is there cannot be read.
        """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Example ``index``. Raises :class:`Open4MError`, which names its file, if it cannot be read."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The name of an example, by which errors and predictions call it; without reading it."""

    def classes(self, target: str) -> tuple[str, ...]:
        """The names of the classes of a target, () if it has none."""
        return ()

    def only(self, targets: Collection[str]) -> Self:
        """The same split, whose examples hold these targets: others are not read. Raises :class:`Open4MError` for a
        target that it does not have."""
        if missing := [target for target in targets if target not in self.targets]:
            raise Open4MError(
                f"{self.name}: no {', '.join(missing)} in these data (there is {', '.join(self.targets) or 'nothing'})"
            )
        found = copy.copy(self)
        object.__setattr__(found, "targets", tuple(target for target in self.targets if target in targets))
        return found


def check_example(example: Example, key: str) -> None:
    """Raise :class:`Open4MError` unless all maps of an example have the size of its image."""
    size = example["rgb"].shape[:2]
    for name, value in example.items():
        shape = None
        if isinstance(value, Instances):
            shape = size if value.masks is None else value.masks.shape[1:]
        elif isinstance(value, np.ndarray) and value.ndim >= 2:
            shape = value.shape[:2]
        if shape is not None and tuple(shape) != tuple(size):
            raise Open4MError(f"{key}: rgb is of {size[0]}×{size[1]} pixels, {name} of {shape[0]}×{shape[1]}")


def check_target(example: Example, target: str, classes: Sequence[str], key: str) -> None:
    """Raise :class:`Open4MError` unless an example holds the target, and no other classes of it than there are."""
    if target not in example:
        raise Open4MError(f"{key}: the example has no {target} (it has {', '.join(example)})")
    value = example[target]
    found = np.asarray(value.classes if isinstance(value, Instances) else value)
    if not classes or not found.size:
        return
    if found.dtype.kind not in "biu":
        raise Open4MError(f"{key}: {target}: expected places in the {len(classes)} classes, got {found.dtype}")
    if not isinstance(value, Instances) and found.ndim:
        found = found[found != IGNORED]
    if found.size and not (found.min() >= 0 and found.max() < len(classes)):
        wrong = int(found.min() if found.min() < 0 else found.max())
        raise Open4MError(f"{key}: {target}: expected classes from 0 to {len(classes) - 1}, got {wrong}")


def check_split(split: str) -> None:
    """Raise :class:`Open4MError` unless it is the name of a split."""
    if split not in ("train", "validation", "test"):
        raise Open4MError(f"split: expected train, validation or test, got {shown(split)}")


def check_label(label: str, kind: type[Labelled]) -> str:
    """The ``label`` that is meant, the first of a data set's if it is "". Raises :class:`Open4MError` for others."""
    if label not in ("", *kind.labels):
        allowed = ", ".join(kind.labels) or "it has one kind of label, or none: leave it out"
        raise Open4MError(f"{kind.name}: unknown label {shown(label)} (allowed: {allowed})")
    return label or (kind.labels[0] if kind.labels else "")
