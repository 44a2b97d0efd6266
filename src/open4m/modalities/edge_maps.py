"""Maps of strengths: how strong an edge is at each pixel, how much it looks like a keypoint, how bright it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import LUMA, as_array, channels_last, decode_image, encode_png, loaded, on, upright
from open4m.modalities.families import TokenGrid
from open4m.pictures import picture


@dataclass(frozen=True, kw_only=True)
class EdgeMap(TokenGrid):
    """A value is uint8 (H, W): 0 is no edge, 255 the strongest one. ``measured``: what is, in an error.

    Users give such arrays, bool ones, floats in [0, 1], or gray pictures, white on black, whose transparent pixels are
    no edges. Pictures are turned as their EXIF data ask. A tokenizer that reads three channels is shown the same map in
    each.
    """

    better = {"mean_absolute_error": "lower"}

    measured: str = "strengths of edges"

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(decode_image(data, self.name))

    def write(self, value: np.ndarray) -> bytes:
        return encode_png(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        if isinstance(value, Image.Image):
            image = upright(loaded(value, self.name))
            if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
                raise self.error(f"expected a picture of 8 bits per channel, got mode {image.mode}")
            return np.asarray(image if image.mode == "L" else on("black", image).convert("L"))
        array = channels_last(as_array(value, self.name), 1)
        if array.ndim == 2 and array.size:
            if array.dtype == bool:
                return array.astype(np.uint8) * np.uint8(255)
            if array.dtype == np.uint8:
                return array
            if array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
                return (array * 255).round().astype(np.uint8)
        raise self.error(
            f"expected {self.measured} (H, W), uint8, bool or floats in [0, 1], got {array.dtype} {array.shape}"
        )

    def tensor(self, value: np.ndarray) -> np.ndarray:
        return super().tensor(value) / 255

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return (tensor.mean(0).clip(0, 1) * 255).round().astype(np.uint8)

    def crop(self, value: np.ndarray, crop: Any) -> np.ndarray:
        return super().crop(value, crop).round().astype(np.uint8)

    def blend(self, kept: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return super().blend(kept, made, weight).round().astype(np.uint8)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture(np.repeat(value[..., None], 3, 2), size)

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """The mean absolute difference of strengths, of 255: the mean over maps."""
        errors = [self.error_map(p, t).mean() for p, t in zip(predictions, labels, strict=True)]
        return {"mean_absolute_error": float(np.mean(errors))}

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        return np.median(np.stack(labels), axis=0).round().astype(np.uint8)


def edge_map(name: str, description: str) -> EdgeMap:
    """A modality of edges, which the authors' tokenizer of edges reads."""
    return EdgeMap(name=name, description=description, **_fields(name), repeated=True)


def strength_map(name: str, description: str, measured: str, made: type[EdgeMap] = EdgeMap, **more: Any) -> EdgeMap:
    """A modality of other strengths, whose tokenizer reads one channel. ``more``: fields of the class."""
    return made(name=name, description=description, measured=measured, **_fields(name), **more)


def _fields(name: str) -> dict[str, Any]:
    return {
        "extension": f"{name}.png",
        "channels": 1,
        "loss": "mse",
        "resample": "linear",
        "error_unit": "of 255",
        "mean": (0.5,),
        "std": (0.5,),
    }


def strengths(array: np.ndarray) -> np.ndarray:
    """A map of numbers (H, W) as a value: 0 and less is 0, 1 and more is 255."""
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def gray(image: np.ndarray) -> np.ndarray:
    """The luma of an image, uint8 (H, W, 3), from 0 to 1, float64 (H, W)."""
    return image @ np.array(LUMA) / 255
