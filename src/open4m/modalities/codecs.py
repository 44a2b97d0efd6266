"""How arrays and images become bytes, and back. Nothing that is read is ever executed or unpickled."""

from __future__ import annotations

import io
import tokenize

import numpy as np
from PIL import Image, UnidentifiedImageError

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


def write_array(array: np.ndarray) -> bytes:
    """The ``.npy`` bytes of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
