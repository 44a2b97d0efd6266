"""Metric depth along the optical axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.base import TokenGrid, picture, read_array, write_array

# A perceptually ordered ramp (near: warm and light, far: dark blue), interpolated when a map is drawn.
_RAMP = np.array([[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]])


@dataclass(frozen=True, kw_only=True)
class Depth(TokenGrid):
    """A value is float32 (H, W), meters, finite and positive."""

    better = {"abs_rel": "lower", "standardized_l1": "lower"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 2))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(value.astype(np.float16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiu":
            raise self.error(f"expected depth in meters as an array (H, W), got {array.dtype} {array.shape}")
        if not np.isfinite(array).all() or (array <= 0).any():
            raise self.error("expected finite depth above 0 m everywhere; fill or mask missing pixels first")
        return array.astype(np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return np.maximum(tensor[0], 1e-3).astype(np.float32)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        low, high = np.percentile(value, [1, 99])
        position = ((value - low) / max(high - low, 1e-6)).clip(0, 1) * (len(_RAMP) - 1)
        channels = [np.interp(position, np.arange(len(_RAMP)), _RAMP[:, c]) for c in range(3)]
        return picture(np.stack(channels, -1).astype(np.uint8), size)

    def metrics(self, predictions, labels) -> dict[str, float]:
        """AbsRel, and the L1 error after each map is standardized (paper Table 31): means over images."""
        relative, standardized = [], []
        for prediction, label in zip(predictions, labels, strict=True):
            relative.append(np.mean(np.abs(prediction - label) / label))
            standardized.append(np.mean(np.abs(_standardize(prediction) - _standardize(label))))
        return {"abs_rel": float(np.mean(relative)), "standardized_l1": float(np.mean(standardized))}

    def trivial(self, labels) -> np.ndarray:
        return np.mean(labels, axis=0)


def _standardize(depth: np.ndarray) -> np.ndarray:
    """Zero mean and unit deviation: removes the scale and shift that a relative depth estimate lacks."""
    return (depth - depth.mean()) / max(float(depth.std()), 1e-6)


MODALITY = Depth(
    name="depth",
    description="depth in meters",
    extension="depth.npy",
    channels=1,
    loss="smooth_l1",
    normalization="fit",
    error_unit="m",
)
