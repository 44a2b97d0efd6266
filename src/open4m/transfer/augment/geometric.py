"""Crops, sizes and mirrors: each a move of the whole example (:mod:`open4m.transfer.augment.moves`).

The content has whole pixels, so that the scales of both directions may differ by rounding; moves hold them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from open4m.datasets.labelled.base import Example
from open4m.modalities.crops import Crop
from open4m.ranges import Positive, Range, Share
from open4m.transfer.augment.base import Geometric, Sizing, can_be_mirrored, check_interval, picture_size
from open4m.transfer.augment.moves import Move

AreaShare = Annotated[float, Range(0, 1, above=True)]
"""A share of a picture's area or side, above 0."""


@dataclass(frozen=True, kw_only=True)
class Stretch(Sizing):
    """The whole picture, as wide as high."""

    kind: Literal["stretch"] = "stretch"
    is_random: ClassVar[bool] = False

    def move(self, example: Example, rng: np.random.Generator | None) -> Move:
        square = (self.side, self.side)
        return Move((0, 0, *picture_size(example)), square, square)


@dataclass(frozen=True, kw_only=True)
class Fit(Sizing):
    """The whole picture, its longer side as long as the square; the rest, below or right of it, is empty."""

    kind: Literal["fit"] = "fit"
    is_random: ClassVar[bool] = False

    def move(self, example: Example, rng: np.random.Generator | None) -> Move:
        size = picture_size(example)
        return Move((0, 0, *size), _longer_side_is(self.side, size), (self.side, self.side))


@dataclass(frozen=True, kw_only=True)
class CenterCrop(Sizing):
    """The square in the middle whose side is a ``share`` of the shorter side of the picture."""

    share: AreaShare = 1.0
    kind: Literal["center_crop"] = "center_crop"
    is_random: ClassVar[bool] = False

    def move(self, example: Example, rng: np.random.Generator | None) -> Move:
        height, width = picture_size(example)
        length = self.share * min(height, width)
        return _square((height - length) / 2, (width - length) / 2, length, self.side)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Sizing):
    """A region of a random area, a share of the picture's from ``scale``, and a random aspect from ``ratio``, width by
    height. Where none fits in ten trials, the largest square in the middle."""

    scale: tuple[AreaShare, AreaShare] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    kind: Literal["random_resized_crop"] = "random_resized_crop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "scale")
        check_interval(self, "ratio")

    def move(self, example: Example, rng: np.random.Generator) -> Move:
        height, width = picture_size(example)
        crop = Crop.random(height, width, self.side, rng, self.scale, self.ratio)
        top, left = crop.top * height, crop.left * width
        return Move(
            (top, left, min(height, top + crop.height * height), min(width, left + crop.width * width)),
            crop.size,
            crop.size,
        )


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Sizing):
    """A random square of the picture whose shorter side was resized to ``side`` times a random factor of ``scale``."""

    scale: tuple[Annotated[float, Range(1, 100)], Annotated[float, Range(1, 100)]] = (1.0, 1.0)
    kind: Literal["random_crop"] = "random_crop"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "scale")

    def move(self, example: Example, rng: np.random.Generator) -> Move:
        height, width = picture_size(example)
        length = min(height, width) / rng.uniform(*self.scale)
        top, left = (rng.uniform() * (whole - length) for whole in (height, width))
        return _square(top, left, length, self.side)


@dataclass(frozen=True, kw_only=True)
class LargeScaleJitter(Sizing):
    """The picture whose longer side was resized to ``side`` times a random factor from ``scale`` (paper D, [41]): of
    what exceeds the square, a random part; where it is smaller, the rest, below or right of it, is empty."""

    scale: tuple[Annotated[float, Range(0.01, 100)], Annotated[float, Range(0.01, 100)]] = (0.1, 2.0)
    kind: Literal["large_scale_jitter"] = "large_scale_jitter"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self, "scale")

    def move(self, example: Example, rng: np.random.Generator) -> Move:
        size = picture_size(example)
        scaled = _longer_side_is(max(1, round(self.side * rng.uniform(*self.scale))), size)
        content = tuple(min(length, self.side) for length in scaled)
        starts = [int(rng.integers(length - shown + 1)) for length, shown in zip(scaled, content, strict=True)]
        step = [of / length for of, length in zip(size, scaled, strict=True)]  # pixels of the picture per scaled one
        top, left = (start * s for start, s in zip(starts, step, strict=True))
        ends = ((start + shown) * s for start, shown, s in zip(starts, content, step, strict=True))
        bottom, right = (min(end, of) for end, of in zip(ends, size, strict=True))
        return Move((top, left, bottom, right), content, (self.side, self.side))


@dataclass(frozen=True, kw_only=True)
class Flip(Geometric):
    """Left and right exchanged, with a ``probability``, unless a value of the example would become untrue by it."""

    probability: Share = 0.5
    kind: Literal["flip"] = "flip"

    def move(self, example: Example, rng: np.random.Generator) -> Move:
        size = picture_size(example)
        mirrored = bool(rng.uniform() < self.probability) and can_be_mirrored(example)
        return Move((0, 0, *size), size, size, mirrored)


def _longer_side_is(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the picture resized so that the longer one is ``side``; each at least one pixel."""
    height, width = (max(1, round(side * length / max(size))) for length in size)
    return height, width


def _square(top: float, left: float, length: float, side: int) -> Move:
    """A square region of a picture, resized to ``side``."""
    return Move((top, left, top + length, left + length), (side, side), (side, side))
