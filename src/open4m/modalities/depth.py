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
from open4m.modalities.families import STANDARDIZED, Palette, TokenGrid
from open4m.pictures import color_bar, picture, ramp

# From near (warm and light) to far (dark blue), perceptually ordered.
_RAMP = np.array([[252, 253, 191], [254, 159, 109], [222, 73, 104], [140, 41, 129], [59, 15, 112], [0, 0, 4]])

_UINT16 = 65535

NEAREST = 1e-3
"""Meters: the least depth that a tokenizer's decoder gives, since depth is positive."""


@dataclass(frozen=True, kw_only=True)
class Depth(TokenGrid):
    """A value is float32 (H, W), meters along the optical axis, finite and positive.

    =============  ============================================================================================
    form           (H, W), (H, W, 1) or (1, H, W): arrays or PIL images with one channel of 8, 16 or 32 bits
    =============  ============================================================================================
    meters         the modality's own form; not the whole numbers of pictures, which do not say their unit
    millimeters    as in 16-bit PNGs of NYU or ScanNet; given back as uint16, rounded and at least 1
    inverse        1/m, which is disparity if baseline times focal length is 1; float32
    standardized   (meters - mean) / deviation of the map itself, float32; see :func:`_standardized`
    =============  ============================================================================================

    A depth of 0 (or an inverse of 0, infinitely far) marks pixels without a measurement: it is refused. Pictures are
    turned as their EXIF data ask. Files hold 16 bits per number where these keep each within a thousandth of it.
    """

    forms = ("meters", "millimeters", "inverse", STANDARDIZED)
    better = {"abs_rel": "lower", "standardized_l1": "lower"}
    unitless = ("standardized_l1",)

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(read_array(data, self.name, 2))

    def write(self, value: np.ndarray) -> bytes:
        meters = self.convert(value)
        return write_array(narrowed(meters, meters))

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
            self._positive(array, "inverse depth", "1/m")
            return self._positive(1 / array, "depth", "m")
        if form == STANDARDIZED:
            array = self._map(value, form)
            if not is_finite_float32(array):
                raise self.error("expected finite standardized depth; fill missing pixels first")
            return array.astype(np.float32)
        return super().from_form(value, form, palette)

    def to_form(self, value: np.ndarray, form: str, palette: Palette = ()) -> np.ndarray:
        if form == "millimeters":
            millimeters = (value.astype(np.float64) * 1000).round()
            if (beyond := millimeters > _UINT16).any():
                raise self.error(
                    f"{beyond.sum()} pixels are beyond the {_UINT16} mm that 16 bits hold, up to "
                    f"{value.max():.6g} m: take them in meters"
                )
            return millimeters.clip(1).astype(np.uint16)
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
        """As float32, in which nothing may be 0 or infinite."""
        with np.errstate(over="ignore", invalid="ignore"):  # bytes may hold signaling NaNs, which are invalid to cast
            array = array.astype(np.float32)
        if wrong := int((~((array > 0) & np.isfinite(array))).sum()):
            raise self.error(
                f"expected finite {what} above 0 {unit} everywhere, {wrong} of {array.size} pixels are "
                "not; fill or mask missing pixels first"
            )
        return array

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return np.maximum(tensor[0], NEAREST).astype(np.float32)

    def style(self, values, names=(), palette: Palette = ()) -> tuple[float, float]:
        """The range in meters that colors span: all but the lowest and highest hundredth."""
        low, high = np.percentile(np.concatenate([np.ravel(v) for v in values]), [1, 99])
        return float(low), float(high)

    def legend(self, style: tuple[float, float], width: int = 256) -> Image.Image:
        return color_bar(_RAMP, *(f"{end:.3g} m" for end in style), width)

    def render(self, value: np.ndarray, size: int = 256, style: tuple[float, float] | None = None) -> Image.Image:
        low, high = style or self.style([value])
        return picture(ramp((value - low) / max(high - low, 1e-6), _RAMP).round().astype(np.uint8), size)

    def metrics(self, predictions, labels) -> dict[str, float]:
        """AbsRel, and the L1 error after each map is standardized (paper Table 31): means over images."""
        relative, standardized = [], []
        for prediction, label in zip(predictions, labels, strict=True):
            relative.append(np.mean(np.abs(prediction - label) / label))
            standardized.append(np.mean(np.abs(_standardize(prediction) - _standardize(label))))
        return {"abs_rel": float(np.mean(relative)), "standardized_l1": float(np.mean(standardized))}

    def trivial(self, labels) -> np.ndarray:
        return np.mean(labels, axis=0)


def _standardized(depth: np.ndarray) -> np.ndarray:
    """The map less its trimmed mean, over its trimmed deviation, float32: the lowest and highest tenths are left out.

    The authors' public tokenizers read depth this way (``DepthTransform`` in ``fourm/data/modality_transforms.py`` of
    https://github.com/apple/ml-4m): of the n sorted numbers those from ⌊0.1 n⌋ up to ⌊0.9 n⌋ are kept, their variance
    is the unbiased one, and 1e-6 is added to it. (Their numbers are fractions of the greatest that 16 bits hold.)
    """
    ordered = np.sort(depth, axis=None).astype(np.float64)
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
    channels=1,
    loss="smooth_l1",
    normalization="fit",
    error_unit="m",
)
