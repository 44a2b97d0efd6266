"""Metric depth along the optical axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import (
    as_array,
    channels_last,
    is_finite_float32,
    loaded,
    narrowed,
    read_array,
    upright,
    write_array,
)
from open4m.modalities.families import STANDARDIZED, Palette, TokenGrid, mean_of
from open4m.pictures import color_bar, hatched, picture, ramp

# From near (warm and light) to far (dark blue), perceptually ordered.
_RAMP = np.array([[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]])

_UINT16 = 65535

NEAREST = 1e-3
"""Meters: the least depth that a tokenizer's decoder gives, since depth is positive."""


@dataclass(frozen=True, kw_only=True)
class Depth(TokenGrid):
    """A value is float32 (H, W), meters along the optical axis; NaN where there is no measurement.

    =============  ============================================================================================
    form           (H, W), (H, W, 1) or (1, H, W): arrays or PIL images with one channel of 8, 16 or 32 bits
    =============  ============================================================================================
    meters         the modality's own form; not the whole numbers of pictures, which do not say their unit
    millimeters    as in 16-bit PNGs of NYU or ScanNet; given back as uint16, rounded and at least 1, 0 where there is
                   no measurement
    inverse        1/m, which is disparity if baseline times focal length is 1; float32
    standardized   (meters - mean) / deviation of the map itself, float32; see :func:`_standardized`
    =============  ============================================================================================

    A depth of 0 or NaN (or such an inverse) marks pixels without a measurement (:meth:`valid`), except in what is given
    as standardized. Depths that are infinite or below 0 are refused, and maps without any measurement. Pictures are
    turned as their EXIF data ask. Files hold 16 bits per number where these keep each within a thousandth of it.
    """

    forms = ("meters", "millimeters", "inverse", STANDARDIZED)
    better = {"abs_rel": "lower", "standardized_l1": "lower"}
    unitless = ("standardized_l1",)

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 2))

    def write(self, value: np.ndarray) -> bytes:
        meters = self.convert(value)
        valid = self.valid(meters)
        numbers = np.where(valid, meters, 1)
        return write_array(np.where(valid, narrowed(numbers, numbers), np.float16(np.nan)))

    def convert(self, value: Any) -> np.ndarray:
        picture = isinstance(value, Image.Image)
        value = loaded(value, self.name) if picture else as_array(value, self.name)
        if value.mode.startswith(("L", "I")) if picture else value.dtype.kind == "u":
            what = f"a picture of mode {value.mode}" if picture else f"an array of {value.dtype}"
            raise self.error(
                f"{what} holds whole numbers, which do not say their unit: give meters as floats, such as "
                "np.asarray(image) / 1000 for millimeters, or name the form 'millimeters' or 'inverse'"
            )
        return self._positive(self._map(value, "meters"), "depth", "m")

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> np.ndarray:
        if form == "millimeters":
            return self._positive(self._map(value, form) / 1000, "depth", "mm")
        if form == "inverse":
            array = self._map(value, form)
            measured = ~np.isnan(self._positive(array, "inverse depth", "1/m"))
            return self._positive(1 / np.where(measured, array, np.nan), "depth", "m")
        if form == STANDARDIZED:
            array = self._map(value, form)
            if not is_finite_float32(array):
                raise self.error("expected finite standardized depth; fill missing pixels first")
            return array.astype(np.float32)
        return super().from_form(value, form, palette)

    def to_form(self, value: np.ndarray, form: str, palette: Palette = ()) -> np.ndarray:
        if form == "millimeters":
            millimeters = np.where(self.valid(value), (value.astype(np.float64) * 1000).round().clip(1), 0)
            if (beyond := millimeters > _UINT16).any():
                raise self.error(
                    f"{beyond.sum()} pixels are beyond the {_UINT16} mm that 16 bits hold, up to "
                    f"{value.max():.6g} m: take them in meters"
                )
            return millimeters.astype(np.uint16)
        if form == "inverse":
            return self._positive(1 / value.astype(np.float64), "inverse depth", "1/m")
        if form == STANDARDIZED:
            return _standardized(value)
        return super().to_form(value, form, palette)

    def _map(self, value: Any, form: str) -> np.ndarray:
        """The float64 numbers (H, W) of an array or a PIL image."""
        if isinstance(value, Image.Image):
            if value.mode == "P":
                raise self.error(f"expected depth in {form}, got a picture of mode P, whose numbers stand for colors")
            value = upright(loaded(value, self.name))
        array = channels_last(as_array(value, self.name), 1)
        if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiu":
            raise self.error(f"expected depth in {form} as an array (H, W), got {array.dtype} {array.shape}")
        return array.astype(np.float64)

    def _positive(self, array: np.ndarray, what: str, unit: str) -> np.ndarray:
        """As float32, NaN without a measurement; no measurement may become 0 or infinite."""
        with np.errstate(over="ignore", invalid="ignore"):  # bytes may hold signaling NaNs, which are invalid to cast
            single = array.astype(np.float32)
            unmeasured = np.isnan(array) | (array == 0)
            wrong = int((~(unmeasured | ((single > 0) & np.isfinite(single)))).sum())
        if wrong:
            raise self.error(
                f"expected finite {what} above 0 {unit}, or 0 or NaN where there is no measurement; {wrong} of "
                f"{array.size} pixels are neither"
            )
        if unmeasured.all():
            raise self.error("no pixel holds a measurement: leave the map out of the sample")
        return np.where(unmeasured, np.float32(np.nan), single)

    def valid(self, value: np.ndarray) -> np.ndarray:
        return ~np.isnan(value)

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return np.maximum(tensor[0], NEAREST).astype(np.float32)

    def style(self, values, names=(), palette: Palette = ()) -> tuple[float, float]:
        """The range in meters that colors span: all but the lowest and highest hundredth."""
        measured = np.concatenate([value[self.valid(value)] for value in values])
        low, high = np.percentile(measured if measured.size else [NEAREST], [1, 99])
        return float(low), float(high)

    def legend(self, style: tuple[float, float], width: int = 256) -> Image.Image:
        return color_bar(_RAMP, *(f"{end:.3g} m" for end in style), width)

    def render(self, value: np.ndarray, size: int = 256, style: tuple[float, float] | None = None) -> Image.Image:
        low, high = style or self.style([value])
        valid = self.valid(value)
        position = (np.where(valid, value, low) - low) / max(high - low, 1e-6)
        return hatched(picture(ramp(position, _RAMP).round().astype(np.uint8), size), valid)

    def facts(self, value: np.ndarray) -> dict[str, float]:
        measured = value[self.valid(value)]
        return {"nearest, m": float(measured.min()), "farthest, m": float(measured.max())} if measured.size else {}

    def metrics(self, predictions, labels) -> dict[str, float]:
        """AbsRel, and the L1 error after each map is standardized (paper Table 31): means over images, each over the
        pixels whose label is measured."""
        relative, standardized = [], []
        for prediction, label in zip(predictions, labels, strict=True):
            measured = self.valid(label)
            if measured.any():
                prediction, label = (prediction, label) if measured.all() else (prediction[measured], label[measured])
                relative.append(np.mean(np.abs(prediction - label) / label))
                standardized.append(np.mean(np.abs(_standardize(prediction) - _standardize(label))))
        return {"abs_rel": mean_of(relative), "standardized_l1": mean_of(standardized)}

    def trivial(self, labels) -> np.ndarray:
        """The mean of the measurements of each pixel; of those that no label measures, the mean of all."""
        measured = np.stack([self.valid(label) for label in labels])
        if measured.all():
            return np.mean(labels, axis=0)
        total, count = np.nansum(labels, axis=0), measured.sum(0)
        return np.where(count > 0, total / np.maximum(count, 1), total.sum() / max(count.sum(), 1)).astype(np.float32)


def _standardized(depth: np.ndarray) -> np.ndarray:
    """The map less its trimmed mean, over its trimmed deviation, float32: the lowest and highest tenths are left out,
    and what is not measured, which stays NaN.

    The authors' public tokenizers read depth this way (``DepthTransform`` in ``fourm/data/modality_transforms.py`` of
    https://github.com/apple/ml-4m): of the n sorted numbers those from ⌊0.1 n⌋ up to ⌊0.9 n⌋ are kept, their variance
    is the unbiased one, and 1e-6 is added to it. (Their numbers are fractions of the greatest that 16 bits hold.)
    """
    ordered = np.sort(depth[~np.isnan(depth)]).astype(np.float64)
    kept = ordered[int(0.1 * ordered.size) : max(int(0.9 * ordered.size), 1)]
    deviation = np.sqrt(kept.var(ddof=min(1, kept.size - 1)) + 1e-6)
    return ((depth - kept.mean()) / deviation).astype(np.float32)


def _standardize(depth: np.ndarray) -> np.ndarray:
    """Zero mean and unit deviation: removes the scale and shift that a relative depth estimate lacks."""
    return (depth - depth.mean()) / max(float(depth.std()), 1e-6)


MODALITY = Depth(
    name="depth",
    description="depth in meters",
    extension="depth.npy",
    aliases=("depths", "depth_map", "depth_maps"),
    channels=1,
    loss="smooth_l1",
    normalization="fit",
    error_unit="m",
)
