"""Crops that all modalities of a sample share, and how arrays are resized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from open4m.types import Value

if TYPE_CHECKING:
    from open4m.modalities.families import Modality


@dataclass(frozen=True)
class Crop:
    """A region of the image, as fractions of its width and height, and the size in pixels that it is resized to.

    One ``Crop`` is applied to all modalities of a sample, so that they stay aligned.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    size: tuple[int, int] = (128, 128)  # (height, width) in pixels

    @property
    def inverse(self) -> Crop:
        """The image as a region of this region: cropping to both leaves positions as they were."""
        return Crop(-self.left / self.width, -self.top / self.height, 1 / self.width, 1 / self.height, self.size)

    def inside(self, outer: Crop) -> Crop:
        """This region of another region, as fractions of the whole image."""
        return Crop(
            outer.left + self.left * outer.width,
            outer.top + self.top * outer.height,
            self.width * outer.width,
            self.height * outer.height,
            self.size,
        )

    @staticmethod
    def center(height: int, width: int, size: int) -> Crop:
        """The largest centered square of an image of ``height`` × ``width`` pixels (paper Table 5)."""
        side = min(height, width)
        return Crop((width - side) / 2 / width, (height - side) / 2 / height, side / width, side / height, (size, size))

    @staticmethod
    def random(
        height: int,
        width: int,
        size: int,
        generator: np.random.Generator,
        scale: tuple[float, float] = (0.8, 1.0),
        ratio: tuple[float, float] = (0.75, 4 / 3),
    ) -> Crop:
        """A random resized crop: area fraction from ``scale``, aspect ratio from ``ratio`` (paper Table 3)."""
        for _ in range(10):
            area = height * width * generator.uniform(*scale)
            aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                left, top = generator.uniform(0, width - w), generator.uniform(0, height - h)
                return Crop(left / width, top / height, w / width, h / height, (size, size))
        return Crop.center(height, width, size)


def resample(array: np.ndarray, crop: Crop, how: str) -> np.ndarray:
    """A region of an array (H, W) or (H, W, C), resized to ``crop.size`` and sampled at pixel centers.

    ``how``: "nearest" takes whole pixels, "linear" interpolates, and averages where the region shrinks; float32 then.
    """
    height, width = array.shape[:2]
    ys = (crop.top + crop.height * (np.arange(crop.size[0]) + 0.5) / crop.size[0]) * height
    xs = (crop.left + crop.width * (np.arange(crop.size[1]) + 0.5) / crop.size[1]) * width
    if how == "nearest":
        rows = np.clip(ys.astype(int), 0, height - 1)
        columns = np.clip(xs.astype(int), 0, width - 1)
        return np.ascontiguousarray(array[rows][:, columns])
    out = np.einsum("yi,ij...->yj...", _linear_weights(ys, height), array.astype(np.float32))
    return np.ascontiguousarray(np.einsum("xj,yj...->yx...", _linear_weights(xs, width), out))


def filled(array: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """The array (H, W) or (H, W, C), in which pixels that are not ``valid``, bool (H, W), hold what the nearest valid
    one does; zeros if none is. None: all are valid."""
    if valid is None or valid.all():
        return array
    if not valid.any():
        return np.zeros_like(array)
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return np.ascontiguousarray(array[tuple(nearest)])


_MIN_VISIBLE = 0.1
"""The least visible part of a box's area after a crop: boxes of which less remains are dropped."""

_EDGE = 1e-6
"""A length that rounding makes, as a fraction of the picture."""


def seen(corners: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4), fractions of the image, relative to a region: as they are, and clipped to it, both float64; and
    whether at least a tenth of each is in the region, bool (n,). A side without length is seen if it lies in it, so
    that a region of everything leaves all boxes as they are."""
    moved = (np.asarray(corners, dtype=np.float64) - [crop.left, crop.top] * 2) / ([crop.width, crop.height] * 2)
    clipped = moved.clip(0, 1)
    lengths, left = (part[:, 2:] - part[:, :2] for part in (moved, clipped))
    inside = ((moved[:, :2] >= -_EDGE) & (moved[:, 2:] <= 1 + _EDGE)).astype(float)
    shares = np.where(lengths > _EDGE, left / np.maximum(lengths, _EDGE), inside)
    return moved, clipped, shares.prod(-1) >= _MIN_VISIBLE


def _linear_weights(centers: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation at ``centers`` as a matrix (out, in). Its tent is as wide as a step, against aliasing."""
    step = (centers[-1] - centers[0]) / max(len(centers) - 1, 1)
    support = max(1.0, abs(step))
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - 0.5 - np.arange(size)[None]) / support)
    weights = np.where(
        weights.sum(1, keepdims=True) > 0, weights, np.eye(size)[np.clip(centers.astype(int), 0, size - 1)]
    )
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def augment(sample: Mapping[str, Value], by_name: Mapping[str, Modality], crop: Crop, flip: bool) -> dict[str, Value]:
    """The sample with one crop applied to all its values, and one flip if every value stays true under it.

    ``by_name`` holds the modalities of the sample's values.
    """
    flip = flip and all(by_name[name].can_flip(value) for name, value in sample.items())
    cropped = {name: by_name[name].crop(value, crop) for name, value in sample.items()}
    return {name: by_name[name].flip(value) for name, value in cropped.items()} if flip else cropped
