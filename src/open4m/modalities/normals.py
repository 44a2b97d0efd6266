"""Surface normals in camera space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import as_array, channels_last, decode_image, encode_png, has_holes, is_turned, loaded
from open4m.modalities.families import Palette, TokenGrid, mean_of
from open4m.pictures import hatched, picture

# The signs of x, y and z that convert a form to opengl, and back.
_SIGNS = {"opengl": (1, 1, 1), "opencv": (1, -1, -1), "directx": (1, -1, 1)}

_ARRAY_TOLERANCE = 0.05
"""How far the lengths of unit vectors given as floats may be from 1."""

# Pictures: resizing and JPEG shorten vectors at edges, where they average several, and lengthen none.
_LONGEST, _SHORTEST = 1.25, 0.8
_SHORT_SHARE = 0.05
"""The most pixels of a picture of normals whose vectors are shorter than that."""


@dataclass(frozen=True, kw_only=True)
class Normals(TokenGrid):
    """A value is float32 (H, W, 3), unit vectors; x points right, y up, z toward the viewer. Where there is no
    measurement it is (0, 0, 0), which pictures show as black.

    =======  =====  ====  ==================  ===============================================================
    form     x      y     z                   unit vectors as floats (H, W, 3), or PIL images, 0..255 for -1..1
    =======  =====  ====  ==================  ===============================================================
    opengl   right  up    toward the viewer   the modality's own form; right-handed
    opencv   right  down  away, into the      right-handed; the camera looks along +z, so visible surfaces have z < 0
                          scene
    directx  right  down  toward the viewer   left-handed: opengl with its green channel inverted
    =======  =====  ====  ==================  ===============================================================

    A wall that faces the camera is (0, 0, 1), (0, 0, -1) and (0, 0, 1); a floor under a level camera is (0, 1, 0),
    (0, -1, 0) and (0, -1, 0).

    A picture whose colors are no unit vectors, such as a photo, is refused; its edges may be smoothed, and black pixels
    or those of the middle gray (a vector of length 0) hold no measurement (:meth:`valid`). Refused are maps without any
    measurement, pictures with transparent pixels, and those that EXIF data turn: their vectors would have to be turned
    too.
    """

    forms = tuple(_SIGNS)
    forms_look_alike = True
    better = {"mean_angle": "lower"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(decode_image(data, self.name))

    def write(self, value: np.ndarray) -> bytes:
        """A picture of 8 bits per component: what is read is off by less than half a degree."""
        value = self.convert(value)
        colors = ((value + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        return encode_png(np.where(self.valid(value)[..., None], colors, np.uint8(0)))

    def valid(self, value: np.ndarray) -> np.ndarray:
        return value.any(-1)

    def convert(self, value: Any) -> np.ndarray:
        if isinstance(value, Image.Image):
            return self._of_picture(value)
        array = channels_last(as_array(value, self.name), 3)
        shaped = array.ndim == 3 and array.shape[2] == 3 and array.size > 0
        if not shaped or array.dtype.kind != "f" or np.isinf(array).any():
            raise self.error(f"expected finite unit vectors (H, W, 3) as floats, got {array.dtype} {array.shape}")
        array = np.where(np.isnan(array).any(-1, keepdims=True), 0, array)
        length = np.linalg.norm(array, axis=-1)
        if ((np.abs(length - 1) > _ARRAY_TOLERANCE) & (length > 0)).any():
            raise self.error(
                "expected unit vectors, or zeros or NaN where there is no measurement, got lengths from "
                f"{length.min():.3f} to {length.max():.3f}"
            )
        return self._measured(array.astype(np.float32), length > 0)

    def _of_picture(self, image: Image.Image) -> np.ndarray:
        image = loaded(image, self.name)
        if image.mode not in ("RGB", "RGBA", "P"):
            raise self.error(f"expected a picture of three channels for x, y and z, got mode {image.mode}")
        if has_holes(image):
            raise self.error("a picture with transparent pixels, which hold no normal: fill them first")
        if is_turned(image):
            raise self.error("EXIF data turn the picture, but not its vectors: save it upright, its vectors turned too")
        colors = np.asarray(image.convert("RGB"))
        valid = colors.any(-1) & (np.abs(colors - np.float32(127.5)) > 1).any(-1)
        vectors = colors.astype(np.float32) / 127.5 - 1
        length = np.linalg.norm(vectors, axis=-1)
        long, short = int((valid & (length > _LONGEST)).sum()), int((valid & (length < _SHORTEST)).sum())
        if long or short > _SHORT_SHARE * length.size:
            raise self.error(
                f"expected a picture of unit vectors, 0 to 255 for -1 to 1, but {long + short} of {length.size} pixels "
                f"are none (lengths from {length.min():.2f} to {length.max():.2f}): give a picture of normals, with "
                "missing ones black"
            )
        return self._measured(vectors, valid)

    def _measured(self, vectors: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if not valid.any():
            raise self.error("no pixel holds a measurement: leave the map out of the sample")
        return np.where(valid[..., None], _unit(vectors), np.float32(0))

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> np.ndarray:
        self.check_form(form)
        return self.convert(value) * np.float32(_SIGNS[form])

    def to_form(self, value: np.ndarray, form: str, palette: Palette = ()) -> np.ndarray:
        self.check_form(form)
        return value * np.float32(_SIGNS[form])

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return _unit(super().value(tensor))

    def blend(self, kept: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mixed = super().blend(kept, made, weight)
        return np.where(self.valid(mixed)[..., None], _unit(mixed), np.float32(0))

    def flip(self, value: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(value[:, ::-1] * np.float32([-1, 1, 1]))  # a mirror turns x around

    def transposed(self, value: np.ndarray) -> np.ndarray:
        turned = value.swapaxes(0, 1)[..., [1, 0, 2]]  # what was down is right, and y counts upward
        return np.ascontiguousarray(turned * np.float32([-1, -1, 1]))

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        drawn = picture(((value + 1) * 127.5).round().clip(0, 255).astype(np.uint8), size)
        return hatched(drawn, self.valid(value))

    def metrics(self, predictions, labels) -> dict[str, float]:
        """The mean angle between predicted and true normals, in degrees: over images, of each over the pixels whose
        label is measured."""
        angles = []
        for prediction, label in zip(predictions, labels, strict=True):
            if (measured := self.valid(label)).any():
                errors = self.error_map(prediction, label)
                angles.append((errors if measured.all() else errors[measured]).mean())
        return {"mean_angle": mean_of(angles)}

    def error_map(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The angle between predicted and true normals, in degrees."""
        return np.degrees(np.arccos(np.clip((prediction.astype(np.float64) * label).sum(-1), -1, 1)))

    def consensus(self, values) -> np.ndarray:
        return _unit(np.mean(values, axis=0))

    def trivial(self, labels) -> np.ndarray:
        return _unit(np.mean(labels, axis=0))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors, scaled to length 1. Those of length 1 up to rounding stay bitwise the same."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    toward_viewer = np.float32([0, 0, 1])
    scaled = np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), toward_viewer)
    return np.where(np.abs(length - 1) > 1e-6, scaled, vectors).astype(np.float32)


MODALITY = Normals(
    name="normals",
    description="surface normals (x right, y up, z to the viewer)",
    role="shape",
    extension="normals.png",
    aliases=("normal", "surface_normal", "surface_normals"),
    channels=3,
    loss="mse",
    error_unit="degrees",
)
