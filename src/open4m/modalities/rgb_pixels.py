"""RGB images as pixels: input only, projected patch by patch (paper 2.2 and C.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from open4m.modalities import rgb
from open4m.modalities.crops import Crop
from open4m.modalities.families import PixelGrid


@dataclass(frozen=True, kw_only=True)
class RGBPixels(PixelGrid):
    """A value is uint8 (H, W, 3), sRGB, as in :mod:`~open4m.modalities.rgb`; JPEG files in the token store."""

    def read(self, data: bytes) -> np.ndarray:
        return rgb.MODALITY.read(data)

    def write(self, value: np.ndarray) -> bytes:
        return rgb.encode_jpeg(self.convert(value))

    def convert(self, value) -> np.ndarray:
        return rgb.MODALITY.convert(value)

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        return rgb.MODALITY.crop(value, crop)

    def flip(self, value: np.ndarray) -> np.ndarray:
        return rgb.MODALITY.flip(value)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return rgb.MODALITY.render(value, size)


MODALITY = RGBPixels(
    name="rgb_pixels", description="RGB image (pixels, input only)", extension="jpg", source=rgb.MODALITY.name
)
