"""Feature maps of a CLIP image encoder's last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.base import TokenGrid, picture, principal_components, read_array, write_array


@dataclass(frozen=True, kw_only=True)
class CLIP(TokenGrid):
    """A value is float32 (h, w, D): one feature vector a patch, as the labeller ``clip`` makes it (paper B.1)."""

    better = {"cosine": "higher"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 3))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(value.astype(np.float16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 3 or array.size == 0 or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise self.error(f"expected a finite float feature map (h, w, D), got {array.dtype} {array.shape}")
        return array.astype(np.float32)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture(principal_components(value), size, smooth=False)

    def metrics(self, predictions, labels) -> dict[str, float]:
        """Cosine similarity of predicted and true features: the mean over cells."""
        errors = [self.error_map(p, t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"cosine": 1 - float(np.mean(errors))}

    def trivial(self, labels) -> np.ndarray:
        return np.mean(labels, axis=0)


MODALITY = CLIP(
    name="clip", description="CLIP feature map", extension="clip.npy",
    channels=0, loss="smooth_l1", resample="linear", feature_map=True, normalization="fit",
    error_unit="1 - cosine", crop_scale=(0.2, 1.0),
)  # fmt: skip
