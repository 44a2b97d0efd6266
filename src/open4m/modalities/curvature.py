"""Principal curvatures of the scene's surface (Taskonomy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import as_array, channels_last, narrowed, read_array, write_array
from open4m.modalities.families import TokenGrid, mean_of
from open4m.pictures import hatched, picture


@dataclass(frozen=True, kw_only=True)
class Curvature(TokenGrid):
    """A value is float32 (H, W, 2): the two principal curvatures of the surface at each pixel, in 1/m or any one unit
    of the data; NaN where there is no measurement. Maps without any are refused.

    Files hold 16 bits per number where these keep each vector within a thousandth of it.
    """

    better = {"mean_absolute_error": "lower"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 3))

    def write(self, value: np.ndarray) -> bytes:
        curvatures = self.convert(value)
        valid = self.valid(curvatures)[..., None]
        numbers = np.where(valid, curvatures, 0)
        numbers = narrowed(numbers, np.abs(numbers).max(-1, keepdims=True))
        return write_array(np.where(valid, numbers, numbers.dtype.type(np.nan)))

    def convert(self, value: Any) -> np.ndarray:
        array = channels_last(as_array(value, self.name), 2)
        if array.ndim != 3 or array.shape[2] != 2 or array.size == 0 or array.dtype.kind != "f":
            raise self.error(f"expected two curvatures as floats (H, W, 2), got {array.dtype} {array.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            single = array.astype(np.float32)
        if np.isinf(single).any():
            raise self.error("expected curvatures that float32 holds, or NaN where there is no measurement")
        missing = np.isnan(single).any(-1)
        if missing.all():
            raise self.error("no pixel holds a measurement: leave the map out of the sample")
        return np.where(missing[..., None], np.float32(np.nan), single)

    def valid(self, value: np.ndarray) -> np.ndarray:
        return ~np.isnan(value[..., 0])

    def style(self, values: Sequence[np.ndarray], names: Sequence[str] = (), palette: Any = ()) -> float:
        """The curvature of the strongest color: all but a hundredth are below it."""
        measured = np.concatenate([np.abs(value[self.valid(value)]).ravel() for value in values])
        return max(float(np.percentile(measured, 99)) if measured.size else 0.0, 1e-6)

    def render(self, value: np.ndarray, size: int = 256, style: float | None = None) -> Image.Image:
        """The first is red, the second green, both gray where flat."""
        valid = self.valid(value)
        scaled = np.where(valid[..., None], value, 0) / (style or self.style([value]))
        colors = np.concatenate([scaled, np.zeros_like(scaled[..., :1])], -1).clip(-1, 1)
        return hatched(picture(((colors + 1) * 127.5).round().astype(np.uint8), size), valid)

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The mean absolute difference of both curvatures, 0 where the label has no measurement."""
        errors = super().error_map(prediction, np.nan_to_num(label))
        return np.where(self.valid(label), errors, 0.0)

    def metrics(self, predictions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> dict[str, float]:
        """The mean absolute difference: over maps, of each over the pixels whose label is measured."""
        found = []
        for prediction, label in zip(predictions, labels, strict=True):
            if (measured := self.valid(label)).any():
                found.append(self.error_map(prediction, label)[measured].mean())
        return {"mean_absolute_error": mean_of(found)}

    def trivial(self, labels: Sequence[np.ndarray]) -> np.ndarray:
        """The median of the measurements of each pixel; 0, which is flat, where no label measures it."""
        stack = np.stack(labels)
        measured = ~np.isnan(stack[..., 0])
        found = np.zeros(stack.shape[1:], dtype=np.float32)
        some = measured.any(0)
        found[some] = np.nanmedian(stack[:, some], axis=0)
        return found


MODALITY = Curvature(
    name="curvature",
    description="principal curvatures",
    extension="curvature.npy",
    aliases=("principal_curvature",),
    channels=2,
    loss="smooth_l1",
    normalization="fit",
    error_unit="of the data's unit",
)
