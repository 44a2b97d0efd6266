"""How arrays and images become bytes, and back. Nothing that is read is ever executed or unpickled."""

from __future__ import annotations

import io
import tokenize
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from open4m.types import Open4MError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are read: others of PIL's many decoders see no bytes of users."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by the orientation that its EXIF data name."""

MAX_PIXELS = 1 << 26
"""The most pixels of an image that is decoded: a small file may claim to hold any number."""


def decode_image(data: bytes, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """The PIL image in a file's bytes. Its size is checked before its pixels are decoded.

    Raises :class:`Open4MError`, with the modality's ``name``, for other bytes and for more than ``most`` pixels.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > most:
            raise Open4MError(f"{name}: image of {image.width}x{image.height} pixels, at most {most} are read")
        return loaded(image, name)
    except UnidentifiedImageError:
        raise Open4MError(f"{name}: not a readable image (formats: {', '.join(IMAGE_FORMATS)})") from None
    except Open4MError:
        raise
    except Exception as error:  # decoders of damaged files raise almost anything
        raise Open4MError(f"{name}: not a readable image ({error})") from error


def loaded(image: Image.Image, name: str) -> Image.Image:
    """The same image, whose pixels are read now: PIL opens a file without reading them.

    Colors that were multiplied by their alpha channel (modes La and RGBa) are divided by it again.
    Raises :class:`Open4MError`, with the modality's ``name``, for pixels that cannot be decoded, and for none.
    """
    try:
        image.load()
    except Exception as error:  # decoders of damaged files raise almost anything
        raise Open4MError(f"{name}: not a readable image ({error})") from error
    if 0 in image.size:
        raise Open4MError(f"{name}: the image is empty: {image.width}x{image.height} pixels")
    return image.convert(image.mode.upper()) if image.mode in ("La", "RGBa") else image


def orientation(image: Image.Image) -> int:
    """The orientation that the image's EXIF data ask for, 1 to 8; 1, upright, if there are none that can be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF data of cameras and editors are broken in many ways
        return 1
    return found if found in _TURNS else 1


def is_turned(image: Image.Image) -> bool:
    """Whether the file's EXIF data ask for the picture to be rotated or mirrored when it is shown."""
    return orientation(image) in _TURNS


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF data ask to show it. Unreadable EXIF data ask for nothing.

    PIL's own ``exif_transpose`` writes the EXIF data anew, which fails for some that it can read.
    """
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def has_holes(image: Image.Image) -> bool:
    """Whether any pixel of a picture is transparent, in part or wholly."""
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def on(color: str, image: Image.Image) -> Image.Image:
    """The picture in mode RGB; what is transparent shows the color behind it: white as on paper, or black where that
    means that there is nothing."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, color), image.convert("RGBA")).convert("RGB")


def mask_of_picture(image: Image.Image, name: str = "mask") -> np.ndarray:
    """The mask, bool (H, W), that a picture shows: its light half, or what is above 0 where it holds 0 and 1.

    Transparent pixels are black. Raises :class:`Open4MError` for a picture that is darker than gray, such as a map of
    classes: it does not say which part is meant.
    """
    image, is_wide = upright(image), image.mode.startswith(("I", "F"))
    if not is_wide and image.has_transparency_data:
        image = on("black", image)
    levels = np.asarray(image if is_wide else image.convert("L"))
    lightest = float(levels.max(initial=0))
    white = 255 if lightest <= 255 else 65535
    if lightest <= 1:
        return levels > 0
    if lightest <= white / 2:
        raise Open4MError(
            f"{name}: expected a mask in black and white, or of 0 and 1, got a picture whose lightest pixel is "
            f"{lightest:g} of {white}"
        )
    return levels > white / 2


def as_array(value: Any, name: str) -> np.ndarray:
    """The array of what users have: arrays, PIL images, lists, and tensors on any device, of any type, with gradients.

    Raises :class:`Open4MError`, with the modality's ``name``, for all else.
    """
    try:
        if isinstance(value, Image.Image):
            return np.asarray(loaded(value, name))
        if callable(getattr(value, "detach", None)):  # a torch tensor, wherever torch is
            value = value.detach().cpu()
            value = value.float() if "bfloat16" in str(value.dtype) else value  # which NumPy does not have
        return np.asarray(value)
    except Open4MError:
        raise
    except Exception as error:  # other people's array types raise almost anything
        raise Open4MError(f"{name}: expected an array, got {type(value).__name__} ({error})") from error


def as_ids(value: Any, name: str) -> np.ndarray:
    """Token ids (length,) int64 of what users have. Raises :class:`Open4MError`, with the modality's ``name``."""
    array = as_array(value, name)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.max() >= 1 << 62):
        raise Open4MError(f"{name}: expected tokens, whole numbers (length,), got {array.dtype} {array.shape}")
    return array.astype(np.int64)


def channels_last(array: np.ndarray, *counts: int) -> np.ndarray:
    """The array (H, W, C) of one (C, H, W), as torch has them, if C and not W is one of ``counts``; others as they are.

    Arrays (H, W, 1) and (1, H, W) of one channel, if 1 is all of ``counts``, become (H, W).
    """
    if array.ndim == 3 and array.shape[0] in counts and array.shape[2] not in counts:
        array = np.ascontiguousarray(np.moveaxis(array, 0, 2))
    return array[..., 0] if counts == (1,) and array.ndim == 3 and array.shape[2] == 1 else array


LUMA = (0.299, 0.587, 0.114)
"""How bright red, green and blue are (ITU-R BT.601)."""

LARGE = 1 << 24
"""Pixels above which a PNG is compressed in a hurry: a second for 24 million of them, instead of several."""


def encode_png(array: np.ndarray) -> bytes:
    """PNG bytes of a uint8 or uint16 array (H, W) or (H, W, 3)."""
    buffer = io.BytesIO()
    level = 3 if array.shape[0] * array.shape[1] <= LARGE else 1
    Image.fromarray(array).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"II*\0", b"MM\0*")
"""What files of PNG, JPEG, WebP and TIFF begin with."""


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
        if data.startswith(PICTURES):
            raise Open4MError(
                f"{name}: a picture, not a .npy array; say in which form its numbers are, as in form='millimeters', "
                "where it is written (write_shard) or given (InForm, --form)"
            ) from error
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
