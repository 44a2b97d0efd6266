"""RandAugment (paper Table 6, [27]): a few random operations on a picture that keeps its class.

The operations and their strengths are those that trainings of ViT use under the name ``rand-m9-mstd0.5-inc1``: at a
larger magnitude each changes the picture more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from open4m.datasets.labelled.base import Example, Instances
from open4m.ranges import Amount, Length, Range, Share
from open4m.transfer.augment.base import Augmentation, with_picture
from open4m.transfer.augment.moves import GRAY
from open4m.types import Open4MError

MOST = 10.0
"""The largest magnitude."""

_EMPTY = (GRAY, GRAY, GRAY)

Operation = Callable[[Image.Image, float], Image.Image]
"""Of a picture and a level: from -1 to 1 for those with two directions, else from 0 to 1."""


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Place (x, y) shows what was at the place that the first and the second row of a 2 × 3 matrix give."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_EMPTY)


def _rotated(image: Image.Image, level: float) -> Image.Image:
    return image.rotate(30 * level, Image.Resampling.BILINEAR, fillcolor=_EMPTY)


def _posterized(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.posterize(image, max(1, 4 - int(4 * level)))


def _solarized(image: Image.Image, level: float) -> Image.Image:
    return ImageOps.solarize(image, 256 - int(256 * level))


def _added(image: Image.Image, level: float) -> Image.Image:
    """What is darker than 128 becomes lighter."""
    return image.point([min(255, v + int(110 * level)) if v < 128 else v for v in range(256)] * 3)


def _enhanced(kind: Callable) -> Operation:
    return lambda image, level: kind(image).enhance(1 + 0.9 * level)


TWO_WAYS: dict[str, Operation] = {
    "rotate": _rotated,
    "shear_x": lambda image, level: _affine(image, (1, 0.3 * level, 0, 0, 1, 0)),
    "shear_y": lambda image, level: _affine(image, (1, 0, 0, 0.3 * level, 1, 0)),
    "translate_x": lambda image, level: _affine(image, (1, 0, 0.45 * level * image.width, 0, 1, 0)),
    "translate_y": lambda image, level: _affine(image, (1, 0, 0, 0, 1, 0.45 * level * image.height)),
    "saturate": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brighten": _enhanced(ImageEnhance.Brightness),
    "sharpen": _enhanced(ImageEnhance.Sharpness),
}
"""Operations whose level has a random sign."""

ONE_WAY: dict[str, Operation] = {
    "autocontrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "invert": lambda image, level: ImageOps.invert(image),
    "posterize": _posterized,
    "solarize": _solarized,
    "solarize_add": _added,
}
"""Operations with one direction; of the first three the level makes no difference."""

OPERATIONS = {**TWO_WAYS, **ONE_WAY}


@dataclass(frozen=True, kw_only=True)
class RandAugment(Augmentation):
    """``operations`` random ones after another, each with a ``probability``, at magnitudes around ``magnitude`` with a
    standard deviation of ``spread``, from 0 to 10. Only for examples without maps or objects, which it does not move.
    """

    magnitude: Annotated[float, Range(0, 10)] = 9.0
    spread: Amount = 0.5
    operations: Length = 2
    probability: Share = 0.5
    kind: Literal["randaugment"] = "randaugment"

    def apply(self, example: Example, rng: np.random.Generator) -> Example:
        _check_classified(example)
        chosen = []
        for _ in range(self.operations):
            name = _NAMES[rng.integers(len(_NAMES))]
            happens, sign = rng.uniform() < self.probability, rng.integers(2) * 2 - 1
            level = float(np.clip(rng.normal(self.magnitude, self.spread), 0, MOST)) / MOST
            if happens:
                chosen.append((OPERATIONS[name], level * sign if name in TWO_WAYS else level))
        if not chosen:
            return example
        image = Image.fromarray(example["rgb"])
        for operation, level in chosen:
            image = operation(image, level)
        return with_picture(example, np.array(image))


_NAMES = sorted(OPERATIONS)


def _check_classified(example: Example) -> None:
    picture = example["rgb"]
    others = [
        name
        for name, value in example.items()
        if value is not picture and (isinstance(value, Instances) or (isinstance(value, np.ndarray) and value.ndim > 1))
    ]
    if others:
        raise Open4MError(
            f"RandAugment: moves the picture alone, but the example has {', '.join(others)}: use ColorJitter and crops"
        )
