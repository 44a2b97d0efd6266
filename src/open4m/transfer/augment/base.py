"""What an augmentation is: a frozen configuration that makes an example of an example.

All maps of an example move together. Randomness is an argument: equal streams give equal examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from open4m import modalities
from open4m.datasets.labelled.base import Example
from open4m.ranges import Range, check_ranges
from open4m.transfer.augment.moves import Move, moved
from open4m.types import Open4MError

LARGEST_SIDE = 1 << 12
"""Pixels along the side of a square, at most: one takes 50 MB then."""


@dataclass(frozen=True, kw_only=True)
class Augmentation(ABC):
    """One step of a :class:`~open4m.transfer.augment.pipeline.Pipeline`.

    ``is_random``: whether it draws from its stream; evaluation takes none that do. Every subclass has a field ``kind``,
    by which files tell it from the others.
    """

    is_random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ranges(self)

    @abstractmethod
    def apply(self, example: Example, rng: np.random.Generator | None) -> Example:
        """A new example; the arrays of the given one are not changed, but may be shared."""


@dataclass(frozen=True, kw_only=True)
class Geometric(Augmentation):
    """A step that shows a region of the picture at another size, or its mirror image."""

    @abstractmethod
    def move(self, example: Example, rng: np.random.Generator | None) -> Move:
        """Which region, and where it lies in what the step makes."""

    def apply(self, example: Example, rng: np.random.Generator | None) -> Example:
        return moved(example, self.move(example, rng))


@dataclass(frozen=True, kw_only=True)
class Sizing(Geometric):
    """A geometric step that makes squares of ``side`` pixels."""

    side: Annotated[int, Range(1, LARGEST_SIDE)]


def picture_size(example: Example) -> tuple[int, int]:
    """Height and width of an example's picture, in pixels."""
    height, width = example["rgb"].shape[:2]
    return height, width


def with_picture(example: Example, picture: np.ndarray) -> dict[str, Any]:
    """The example with another picture, (H, W, 3) uint8, of the same size."""
    return {**example, "rgb": picture}


def can_be_mirrored(example: Example) -> bool:
    """Whether all values stay true in a mirror. A caption that says "left" does not."""
    known = ((modalities.get(name), value) for name, value in example.items() if modalities.is_known(name))
    return all(modality.can_flip(value) for modality, value in known)


def check_interval(config: Any, name: str) -> None:
    """Raise :class:`Open4MError` unless the field is a pair of numbers of which the first is not above the second."""
    low, high = getattr(config, name)
    if low > high:
        raise Open4MError(f"{type(config).__name__}: {name}: expected (lowest, highest), got ({low:g}, {high:g})")
