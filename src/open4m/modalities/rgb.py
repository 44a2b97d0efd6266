"""RGB images as tokens."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from open4m.modalities.codecs import (
    as_array,
    channels_last,
    decode_image,
    encode_png,
    is_turned,
    loaded,
    on,
    upright,
)
from open4m.modalities.crops import Crop
from open4m.modalities.families import Flag, GenerationDefaults, TokenGrid
from open4m.pictures import picture


@dataclass(frozen=True, kw_only=True)
class RGB(TokenGrid):
    """A value is uint8 (H, W, 3), sRGB. Pictures are turned as their EXIF data ask; transparent pixels become white."""

    better = {"psnr": "higher", "ssim": "higher"}

    def read(self, data: bytes) -> np.ndarray:
        return self.convert(decode_image(data, self.name))

    def write(self, value: np.ndarray) -> bytes:
        return encode_png(self.convert(value))

    def convert(self, value: Any) -> np.ndarray:
        if isinstance(value, Image.Image):
            return self._of_picture(loaded(value, self.name))
        array = channels_last(as_array(value, self.name), 1, 3, 4)
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):  # gray
            array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
        if array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape) > 0:
            if array.dtype == np.uint8:
                return array if array.shape[2] == 3 else np.asarray(on("white", Image.fromarray(array)))
            if array.dtype.kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
                if array.shape[2] == 4:
                    array = array[..., :3] * array[..., 3:] + (1 - array[..., 3:])
                return (array * 255).round().astype(np.uint8)
        is_float = array.dtype.kind == "f" and array.ndim == 3 and array.size > 0
        extent = f" from {array.min():.3g} to {array.max():.3g}; undo its normalization" if is_float else ""
        raise self.error(
            f"expected a PIL image, uint8 (H, W, 3) or floats in [0, 1], got {array.dtype} {array.shape}{extent}"
            if array.dtype != object
            else f"expected a PIL image or an array (H, W, 3), got {type(value).__name__}"
        )

    def _of_picture(self, image: Image.Image) -> np.ndarray:
        if image.mode == "RGB" and not (is_turned(image) or image.has_transparency_data):
            return np.asarray(image)  # skips the copies that the conversions below make
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise self.error(
                f"expected an image of 8 or 16 bits per channel, got mode {image.mode}, whose range is not known: "
                "scale it to 0 to 255 or, as floats, to 0 to 1"
            )
        image = upright(image)
        if image.mode.startswith("I"):  # 16 bits per pixel, which older versions of PIL read from PNG files as mode I
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return np.asarray(on("white", image))

    def tensor(self, value: np.ndarray) -> np.ndarray:
        return super().tensor(value) / 255

    def value(self, tensor: np.ndarray) -> np.ndarray:
        return (tensor.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)

    def crop(self, value: np.ndarray, crop: Crop) -> np.ndarray:
        height, width = value.shape[:2]
        left, top = crop.left * width, crop.top * height
        box = (left, top, min(width, left + crop.width * width), min(height, top + crop.height * height))
        if box == (0, 0, width, height) and crop.size == (height, width):
            return value
        return np.asarray(Image.fromarray(value).resize(crop.size[::-1], Image.Resampling.BICUBIC, box=box))

    def blend(self, kept: np.ndarray, made: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return super().blend(kept, made, weight).round().astype(np.uint8)

    def render(self, value: np.ndarray, size: int = 256) -> Image.Image:
        return picture(value, size)

    def metrics(self, predictions, labels) -> dict[str, float]:
        """PSNR in dB and SSIM: means over images."""
        pairs = list(zip(predictions, labels, strict=True))
        errors = [np.mean((p.astype(np.float64) - t) ** 2) for p, t in pairs]
        return {
            "psnr": float(np.mean([10 * np.log10(255**2 / max(e, 1e-9)) for e in errors])),
            "ssim": float(np.mean([ssim(p, t) for p, t in pairs])),
        }

    def trivial(self, labels) -> np.ndarray:
        return np.mean([label.astype(np.float64) for label in labels], axis=0).round().astype(np.uint8)


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Structural similarity of two uint8 images (H, W, C), up to 1 (Wang et al., 2004, Image Quality Assessment).

    The mean over channels and over all windows within the image, Gaussian ones, 11 pixels wide with σ = 1.5. Images
    smaller than a window are mirrored at the border, and the mean is over the windows around the center.
    """
    from scipy.ndimage import gaussian_filter

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, axes=(0, 1), radius=5)

    x, y = first.astype(np.float64), second.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    variance_x, variance_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    margin = min(5, (min(x.shape[:2]) - 1) // 2)
    return float(similarity[margin : x.shape[0] - margin, margin : x.shape[1] - margin].mean())


def encode_jpeg(value: np.ndarray, quality: int = 95) -> bytes:
    """JPEG bytes of a uint8 (H, W, 3) image, without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(value).save(buffer, format="JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


MODALITY = RGB(
    name="rgb",
    description="RGB image (tokens)",
    role="photo",
    flag=Flag(name="input", metavar="IMAGE", help="an image file"),
    extension="png",
    aliases=("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "color", "jpg", "jpegimages"),
    channels=3,
    loss="mse",
    resample="linear",
    image=True,
    error_unit="of 255",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    generation=GenerationDefaults(scheme="roar", steps=16, temperature=1.0, top_p=0.9),
)
