"""The mask of one object, cut to its box and stretched to a square: a part of 4M-21's sequences of instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import as_array, channels_last, load_array, loaded, mask_of_picture, write_array
from open4m.modalities.families import TokenGrid
from open4m.pictures import picture


@dataclass(frozen=True, kw_only=True)
class Mask(TokenGrid):
    """A value is bool (H, W): True is the object. Its tokenizer gives logits; what is above 0 is the object.

    Users give bool arrays, or pictures of it, in black and white or of 0 and 1.
    """

    better = {"iou": "higher"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(load_array(data, self.name))

    def write(self, value: np.ndarray) -> bytes:
        return write_array(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        if isinstance(value, Image.Image):
            value = mask_of_picture(loaded(value, self.name), self.name)
        array = channels_last(as_array(value, self.name), 1)
        if array.ndim != 2 or array.size == 0 or array.dtype != bool:
            raise self.error(f"expected a mask, a bool array (H, W), got {array.dtype} {array.shape}")
        return array

    def tensor(self, value: np.ndarray) -> np.ndarray:
        return value[None].astype(np.float32)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return tensor[0] > 0

    def blend(self, kept: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.where(weight > 0, made, kept)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        colors = np.where(value[..., None], np.uint8([0, 121, 140]), np.uint8([245, 245, 247]))
        return picture(colors, size, smooth=False)

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """Intersection over union: the mean over masks."""
        pairs = list(zip(predictions, labels, strict=True))
        return {
            "iou": float(np.mean([(p & t).sum() / max(1, (p | t).sum()) if (p | t).any() else 1 for p, t in pairs]))
        }

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.mean(labels, axis=0) > 0.5


MODALITY = Mask(
    name="sam_mask",
    description="mask of one object in its box",
    extension="sam_mask.npy",
    channels=1,
    loss="binary_cross_entropy",
    error_unit="wrong pixel",
)
