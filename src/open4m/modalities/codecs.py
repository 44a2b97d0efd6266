"""How arrays and images become bytes, and back. Nothing that is read is ever executed or unpickled."""

from __future__ import annotations

import io
import tokenize

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from open4m.types import Open4MError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are read: others of PIL's many decoders see no bytes of users."""

MAX_PIXELS = 1 << 26
"""The most pixels of an image that is decoded: a small file may claim to hold any number."""


def decode_image(data: bytes, name: str) -> Image.Image:
    """The PIL image in a file's bytes. Its size is checked before its pixels are decoded.

    Raises :class:`Open4MError`, with the modality's ``name``, for other bytes and for more than ``MAX_PIXELS`` pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Open4MError(f"{name}: image of {image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
        image.load()
    except UnidentifiedImageError:
        raise Open4MError(f"{name}: not a readable image (formats: {', '.join(IMAGE_FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Open4MError(f"{name}: not a readable image ({error})") from error
    return image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what shows a picture upright."""


def is_turned(image: Image.Image) -> bool:
    """Whether the file's EXIF data ask for the picture to be rotated or mirrored when it is shown."""
    return image.getexif().get(ExifTags.Base.Orientation) in _TURNS


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF data ask to show it."""
    return image.transpose(_TURNS[image.getexif()[ExifTags.Base.Orientation]]) if is_turned(image) else image


def has_holes(image: Image.Image) -> bool:
    """Whether any pixel of a picture is transparent, in part or wholly."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def on_white(image: Image.Image) -> Image.Image:
    """The picture in mode RGB; what is transparent shows white behind it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of a uint8 or uint16 array (H, W) or (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def load_array(data: bytes, name: str) -> np.ndarray:
    """The array in ``.npy`` bytes. Raises :class:`Open4MError` for other bytes and for pickled objects."""
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        RecursionError,
        SyntaxError,
        tokenize.TokenError,
        OSError,
        EOFError,
        MemoryError,
    ) as error:
        raise Open4MError(f"{name}: not a readable .npy array ({error})") from error


def read_array(data: bytes, name: str, ndim: int) -> np.ndarray:
    """The float array of ``ndim`` dimensions in ``.npy`` bytes. Raises :class:`Open4MError` for all others."""
    array = load_array(data, name)
    if array.ndim != ndim or array.dtype.kind != "f":
        raise Open4MError(f"{name}: expected a float array of {ndim} dimensions, got {array.dtype} {array.shape}")
    return array


def is_finite_float32(array: np.ndarray) -> bool:
    """Whether all numbers are finite as float32, in which those of float64 may be infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.astype(np.float32, copy=False)).all())


CLOSE = 1e-3
"""What a narrower type may cost, as a part of a number's own scale."""


def narrowed(array: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """The numbers as float16 if each of them stays within ``CLOSE`` of its ``scale`` (broadcast), else as float32.

    So nothing becomes infinite, and what is small beside others of its scale is all that may become 0.
    """
    array = np.asarray(array, dtype=np.float32)
    with np.errstate(over="ignore", under="ignore"):
        half = array.astype(np.float16)
    return half if (np.abs(half.astype(np.float32) - array) <= CLOSE * np.asarray(scale)).all() else array


def write_array(array: np.ndarray) -> bytes:
    """The ``.npy`` bytes of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_vectors(vectors: np.ndarray) -> bytes:
    """The ``.npy`` bytes of vectors (..., C), of 16 bits per number if these are close, beside each one's largest."""
    return write_array(narrowed(vectors, np.abs(vectors).max(-1, keepdims=True)))
