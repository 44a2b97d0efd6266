"""Semantic segmentation maps."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.base import TokenGrid, decode_image, encode_png, picture


@dataclass(frozen=True, kw_only=True)
class Semseg(TokenGrid):
    """A value is an integer array (H, W) of class ids; the tokenizer's configuration names the classes."""

    better = {"miou": "higher", "pixel_accuracy": "higher"}

    def read(self, data: bytes) -> np.ndarray:
        image = decode_image(data, self.name)
        if image.mode not in ("L", "P", "I", "I;16"):
            raise self.error(f"expected a one-channel image of class ids, got mode {image.mode}")
        return self.convert(np.asarray(image))

    def write(self, value: np.ndarray) -> bytes:
        return encode_png(value.astype(np.uint8 if value.max(initial=0) < 256 else np.uint16))

    def convert(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "iu" or array.min() < 0:
            raise self.error(f"expected class ids, an integer array (H, W) from 0, got {array.dtype} {array.shape}")
        return array.astype(np.uint8 if array.max(initial=0) < 256 else np.int32)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture(_palette(int(value.max(initial=0)) + 1)[value], size, smooth=False)

    def metrics(self, predictions, labels) -> dict[str, float]:
        """Mean intersection over union of the classes that occur, and pixel accuracy, over all pixels together."""
        classes = 1 + max(int(max(p.max(), t.max())) for p, t in zip(predictions, labels, strict=True))
        confusion = np.zeros(classes * classes, dtype=np.int64)
        for prediction, label in zip(predictions, labels, strict=True):
            pairs = label.astype(np.int64) * classes + prediction
            confusion += np.bincount(pairs.ravel(), minlength=classes * classes)
        confusion = confusion.reshape(classes, classes)
        hit = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - hit
        occurs = confusion.sum(1) > 0
        return {
            "miou": float((hit[occurs] / union[occurs]).mean()),
            "pixel_accuracy": float(hit.sum() / confusion.sum()),
        }

    def trivial(self, labels) -> np.ndarray:
        stack = np.stack(labels)
        counts = np.stack([(stack == c).sum(0) for c in range(int(stack.max()) + 1)])
        return counts.argmax(0).astype(stack.dtype)


def _palette(classes: int) -> np.ndarray:
    """Distinct colors by class id: hues a golden angle apart, of alternating lightness."""
    colors = [colorsys.hls_to_rgb((0.58 + 0.381966 * c) % 1, (0.72, 0.5, 0.6)[c % 3], (0.35, 0.7)[c > 1])
              for c in range(classes)]  # fmt: skip
    return (np.array(colors) * 255).astype(np.uint8)


MODALITY = Semseg(
    name="semseg", description="semantic segmentation", extension="semseg.png",
    channels=16, loss="cross_entropy", categorical=True, error_unit="wrong class",
)  # fmt: skip
