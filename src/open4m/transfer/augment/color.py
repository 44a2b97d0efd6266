"""Color jitter: one affine map of the three channels of each pixel.

With the factors b, c, s and the angle h that are drawn, of a pixel x = (R, G, B), in this order:

- brightness: x ← b · x;
- contrast: x ← c · x + (1 - c) · m, with m the mean luma of the (brightened) picture;
- saturation: x ← s · x + (1 - s) · y, with y the luma of the pixel, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601);
- hue: x is turned by h of a full turn around the gray axis R = G = B. A third of a turn makes red green.

Nothing is rounded or clipped before the end: the four are one product with a 3 × 4 matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from PIL import Image

from open4m.datasets.labelled.base import Example
from open4m.ranges import Amount, Range, Share
from open4m.transfer.augment.base import Augmentation, with_picture

LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Augmentation):
    """Random colors of the picture, with a ``probability``.

    Factors of brightness, contrast and saturation are from 1 - x, at least 0, to 1 + x; ``hue`` is from -x to x of a
    turn. ``gray``: the probability, drawn by itself, that the picture loses its colors.
    """

    brightness: Amount = 0.4
    contrast: Amount = 0.4
    saturation: Amount = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    probability: Share = 0.5
    gray: Share = 0.0
    kind: Literal["color_jitter"] = "color_jitter"

    def apply(self, example: Example, rng: np.random.Generator) -> Example:
        jitters, grays = rng.uniform(size=2) < (self.probability, self.gray)
        reach = (self.brightness, self.contrast, self.saturation)
        factors = [rng.uniform(max(0.0, 1 - x), 1 + x) for x in reach]
        turn = rng.uniform(-self.hue, self.hue)
        if not (jitters or grays):
            return example
        if not jitters:
            factors, turn = [1.0, 1.0, 1.0], 0.0
        brightness, contrast, saturation = factors
        image = Image.fromarray(example["rgb"])
        matrix = color_matrix(mean_luma(image), brightness, contrast, 0.0 if grays else saturation, turn)
        return with_picture(example, np.array(image.convert("RGB", tuple(matrix.ravel().tolist()))))


def color_matrix(mean: float, brightness: float, contrast: float, saturation: float, turn: float) -> np.ndarray:
    """The matrix (3, 4) of the map, columns R, G, B and 1, for colors on a scale of which ``mean`` is the mean luma."""
    gray = np.full((3, 3), 1 / 3)
    axis = math.sqrt(1 / 3) * np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])  # the cross product with the gray axis
    angle = 2 * math.pi * turn
    rotation = gray + math.cos(angle) * (np.eye(3) - gray) + math.sin(angle) * axis
    linear = rotation @ (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA))
    moved = linear @ np.full(3, (1 - contrast) * brightness * mean)
    return np.concatenate([linear * (contrast * brightness), moved[:, None]], 1)


def mean_luma(image: Image.Image) -> float:
    """Of an RGB picture, on its own scale of 0 to 255."""
    counts = np.array(image.histogram()).reshape(3, 256)
    return float(LUMA @ (counts @ np.arange(256)) / (image.width * image.height))
