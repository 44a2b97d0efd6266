"""A modality of your own in one file: edges, the strength of the image's gradient.

Nothing else needs to know it. ``source`` and ``derive`` compute it from images; a modality with files of its own
would leave them out. See docs/new_modality.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import is_finite_float32, narrowed, read_array, write_array
from open4m.modalities.families import TokenGrid
from open4m.pictures import picture


@dataclass(frozen=True, kw_only=True)
class Edges(TokenGrid):
    """A value is float32 (H, W): the gradient's length, from 0 (flat) to 1 (black beside white)."""

    better = {"l1": "lower"}

    def derive(self, source: np.ndarray) -> np.ndarray:
        luminance = source.astype(np.float32) @ np.float32([0.299, 0.587, 0.114]) / 255
        return np.hypot(*np.gradient(luminance)).astype(np.float32)

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 2))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(narrowed(self.convert(value), 1.0))  # in 16 bits if that is off by at most 0.001

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 2 or array.dtype.kind != "f" or not is_finite_float32(array):
            raise self.error(f"expected a finite float array (H, W), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return tensor[0].clip(0, 1).astype(np.float32)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture((255 * (1 - (4 * value).clip(0, 1))).astype(np.uint8), size)

    def metrics(self, predictions, labels) -> dict[str, float]:
        return {"l1": float(np.mean([np.abs(p - t).mean() for p, t in zip(predictions, labels, strict=True)]))}

    def trivial(self, labels) -> np.ndarray:
        return np.mean(labels, axis=0)


MODALITY = Edges(
    name="edges",
    description="edge strength",
    extension="edges.npy",
    source="rgb",
    channels=1,
    loss="mse",
    resample="linear",
    normalization="fit",
)
