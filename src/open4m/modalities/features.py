"""Modalities of a network's features: one vector per cell of a map, or one vector per image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import as_array, is_finite_float32, read_array, write_vectors
from open4m.modalities.crops import Crop
from open4m.modalities.families import Palette, TokenGrid
from open4m.pictures import Axes, picture, principal_axes, principal_components


@dataclass(frozen=True, kw_only=True)
class FeatureMap(TokenGrid):
    """A value is float32 (h, w, D): one feature vector per patch of an image, from a network's layer (paper B.1)."""

    better = {"cosine": "higher"}
    of_image = True

    channels: int = 0  # as many as the data has
    loss: str = "smooth_l1"
    resample: str = "linear"
    feature_map: bool = True
    normalization: str = "fit"
    error_unit: str = "1 - cosine"
    crop_scale: tuple[float, float] = (0.2, 1.0)

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 3))

    def write(self, value: np.ndarray) -> bytes:
        return write_vectors(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        array = as_array(value, self.name)
        if array.ndim != 3 or array.size == 0 or array.dtype.kind != "f" or not is_finite_float32(array):
            raise self.error(f"expected a finite float feature map (h, w, D), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def render(self, value: np.ndarray, size: int = 256, style: Axes | None = None) -> Image.Image:
        return picture(principal_components(value, style), size, smooth=False)

    def style(self, values: Sequence[np.ndarray], names: Sequence[str] = (), palette: Palette = ()) -> Axes | None:
        """One basis of principal components for all maps."""
        return principal_axes(values)

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """Cosine similarity of predicted and true features: the mean over cells."""
        errors = [self.error_map(p, t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"cosine": 1 - float(np.mean(errors))}

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(labels, axis=0)


@dataclass(frozen=True, kw_only=True)
class Vector(TokenGrid):
    """One vector per sample, float32 (C,), which does not change when the image is cropped.

    Its tokenizer is an MLP with one or several codebooks (:mod:`open4m.nn.mlp`). A picture of it is a square of cells
    in raster order, one per entry.
    """

    better = {"mean_absolute_error": "lower"}

    channels: int = 0  # as many as the data has
    loss: str = "smooth_l1"
    normalization: str = "fit"
    error_unit: str = "absolute error"  # of an entry

    def extent(self, value: np.ndarray) -> None:
        return None

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        return value

    def can_flip(self, value: np.ndarray) -> bool:
        return False  # the vector of the mirrored image is not known

    def flip(self, value: np.ndarray) -> np.ndarray:
        return value

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 1))

    def write(self, value: np.ndarray) -> bytes:
        return write_vectors(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        array = as_array(value, self.name)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind != "f" or not is_finite_float32(array):
            raise self.error(f"expected a finite float vector (C,), got {array.dtype} {array.shape}")
        if self.channels and len(array) != self.channels:
            raise self.error(f"expected a vector of {self.channels} numbers, got {len(array)}")
        return array.astype(np.float32)

    def tensor(self, value: np.ndarray) -> np.ndarray:
        """The tokenizer's input before normalization: float32 (C, 1, 1)."""
        return np.ascontiguousarray(value[:, None, None], dtype=np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return tensor[:, 0, 0].astype(np.float32)

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The absolute error of each entry, arranged as in the picture: float64 (side, side), 0 after the last."""
        return _as_square(np.abs(prediction.astype(np.float64) - label))

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        """Entries below 0 are blue, above 0 red; the entry of largest magnitude has the strongest color."""
        strength = _as_square(value.astype(np.float64) / max(float(np.abs(value).max()), 1e-9))[..., None]
        fades = np.where(strength > 0, [0.1, 0.8, 0.9], [0.9, 0.6, 0.1])  # of red, green and blue
        return picture((255 * (1 - np.abs(strength) * fades)).round().astype(np.uint8), size, smooth=False)

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """The mean absolute error over entries and vectors."""
        errors = [np.abs(p.astype(np.float64) - t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"mean_absolute_error": float(np.mean(errors))}

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(labels, axis=0)


@dataclass(frozen=True, kw_only=True)
class GlobalFeature(Vector):
    """A network's feature of a whole image. Only its direction has a meaning: tokens do not keep its length."""

    better = {"cosine": "higher"}
    of_image = True

    loss: str = "cosine"
    normalization: str = "fixed"  # at mean 0 and deviation 1: another mean would change directions
    error_unit: str = "absolute error of unit vectors"

    def convert(self, value: Any) -> np.ndarray:
        array = super().convert(value)
        if not array.any():
            raise self.error("expected a feature that has a direction, got zeros")
        return array

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The absolute error of each entry, of vectors scaled to unit length, arranged as in the picture."""
        return super().error_map(_unit(prediction), _unit(label))

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """Cosine similarity of predicted and true features: the mean over vectors."""
        return {"cosine": float(np.mean([_unit(p) @ _unit(t) for p, t in zip(predictions, labels, strict=True)]))}

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        """The mean direction, which has the highest mean cosine."""
        return np.mean([_unit(label) for label in labels], axis=0).astype(np.float32)


def _as_square(entries: np.ndarray) -> np.ndarray:
    """A vector's entries (C,) as the rows of the smallest square that holds them, padded with zeros."""
    side = math.isqrt(len(entries) - 1) + 1
    return np.pad(entries, (0, side**2 - len(entries))).reshape(side, side)


def _unit(vector: np.ndarray) -> np.ndarray:
    """The float64 vector of length 1 in its direction."""
    vector = vector.astype(np.float64)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)
