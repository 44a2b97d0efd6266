"""Values as JSON, for requests and records: the one place that knows how texts, boxes, arrays and masks are written.

=============================================  ====================================================================
JSON                                           value
=============================================  ====================================================================
``{"text": "a red cone"}``                     a text; with ``"marked": true``, special tokens in it are those
``{"objects": [{"box": [x0, y0, x1, y1],       :class:`Boxes`, with ``"scores": [...]`` if they have some
"label": "cone"}]}``
``{"data": ["#ff0080"]}``                      a value of another kind: its ``as_json()``, or itself if it is JSON
``{"file": "given-….npy"}``                    an array or an image: a ``.npy`` or image file in the same folder
``{"base64": "iVBORw0…"}``                     the same, inline: the bytes of a ``.npy`` or an image file
``{"value": …, "mask": …}``                    :class:`Masked`, a part of one of these
=============================================  ====================================================================

A mask is ``{"cells": [0, 5]}``, ``{"boxes": [[x0, y0, x1, y1], …]}``, or a file or base64 as above. What is read may
come from anywhere: its size is bounded, its types are checked, and nothing is executed or unpickled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import config as configs
from open4m import files, modalities
from open4m.generate.masks import Cells, Masked
from open4m.modalities.codecs import decode_image, encode_png, load_array, mask_of_picture, write_array
from open4m.modalities.given import InForm, from_form
from open4m.types import Boxes, Marked, Open4MError, Value

MAX_PIXELS = files.LARGEST_INPUT // 3
"""The most pixels of an image that is read: those of the largest array of colors."""

_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Text:
    text: str
    marked: bool = False


@dataclass(frozen=True)
class Box:
    box: tuple[float, float, float, float]
    label: str


@dataclass(frozen=True)
class Objects:
    objects: list[Box]
    scores: list[float] | None = None


@dataclass(frozen=True)
class Data:
    data: Any


@dataclass(frozen=True)
class File:
    file: str


@dataclass(frozen=True)
class Inline:
    base64: str


@dataclass(frozen=True)
class Positions:
    cells: list[int]


@dataclass(frozen=True)
class Regions:
    boxes: list[tuple[float, float, float, float]]


Stored = Text | Objects | Data | File | Inline
StoredMask = Positions | Regions | File | Inline


@dataclass(frozen=True)
class Part:
    value: Stored
    mask: StoredMask


def checked(given: Any) -> dict[str, Value | Masked]:
    """Values by modality, each as its modality has it or :class:`InForm`. Raises :class:`Open4MError` for others."""
    if not isinstance(given, Mapping):
        raise Open4MError(f"expected values by modality, got {given!r}")

    def convert(name: str, value: Any) -> Value:
        modality = modalities.get(name)
        if isinstance(value, InForm):
            return from_form(modality, value.value, value.form)
        return modality.convert(value)  # never a path: requests come from anywhere, and may name no file to be read

    return {
        name: replace(value, value=convert(name, value.value)) if isinstance(value, Masked) else convert(name, value)
        for name, value in given.items()
    }


def encode(value: Value | Masked, folder: Path | None = None) -> dict[str, Any]:
    """The JSON of a checked value; arrays become files in ``folder``, each content once, or base64 if that is None."""
    if isinstance(value, Masked):
        return {"value": encode(value.value, folder), "mask": encode_mask(value.mask, folder)}
    if isinstance(value, str):
        return {"text": str(value), **({"marked": True} if isinstance(value, Marked) else {})}
    if isinstance(value, Boxes):
        rows = zip(value.corners.astype(float).tolist(), value.labels, strict=True)
        scores = {} if value.scores is None else {"scores": list(value.scores)}
        return {"objects": [{"box": row, "label": label} for row, label in rows], **scores}
    if not isinstance(value, np.ndarray):
        return {"data": _as_json(value.as_json() if callable(getattr(value, "as_json", None)) else value)}
    if value.size and value.dtype == np.uint8 and (value.ndim == 2 or value.shape[2:] == (3,)):
        return _put(encode_png(value), ".png", folder)
    return _put(write_array(value), ".npy", folder)


def _as_json(value: Any) -> Any:
    """A value of mappings, lists, texts and numbers as JSON has it. Raises :class:`Open4MError` for others."""

    def of_numpy(part: Any) -> Any:
        if isinstance(part, np.ndarray | np.generic):
            return part.tolist()
        raise TypeError(f"it holds a {type(part).__name__}")

    try:
        text = json.dumps(value, allow_nan=False, default=of_numpy)
    except (TypeError, ValueError, RecursionError) as error:
        raise Open4MError(
            f"a {type(value).__name__} cannot be recorded ({error}): a modality's values are texts, Boxes, arrays, or "
            "mappings and lists as JSON has them"
        ) from error
    return files.parse_json(text, type(value).__name__)


def encode_mask(mask: Any, folder: Path | None = None) -> dict[str, Any]:
    """The JSON of a mask, as :class:`Masked` takes it."""
    if isinstance(mask, Cells):
        return {"cells": list(mask.indices)}
    if isinstance(mask, Image.Image):
        mask = mask_of_picture(mask)
    array = np.asarray(mask)
    if array.ndim == 2 and array.dtype.kind in "b" and array.size:
        return _put(encode_png(array.astype(np.uint8) * 255), ".png", folder)
    if not isinstance(mask, np.ndarray) and array.ndim in (1, 2) and array.shape[-1] == 4 and array.dtype.kind in "fiu":
        return {"boxes": array.reshape(-1, 4).astype(float).tolist()}
    return _put(write_array(array), ".npy", folder)


def decode(stored: Any, where: str, folder: Path | None = None) -> Value | Masked:
    """The value of JSON that :func:`encode` or anyone wrote: a text, boxes, an array, a PIL image or what
    else is JSON, or a part of one.

    ``where`` names the place in errors. The modality's ``convert`` checks that it is a value of that modality. Raises
    :class:`Open4MError` for anything that is not of the forms above.
    """
    return _value(configs.from_dict(Stored | Part, stored, where), where, folder)


def decode_mask(stored: Any, where: str, folder: Path | None = None) -> Any:
    """The mask of JSON that :func:`encode_mask` or anyone wrote."""
    return _mask(configs.from_dict(StoredMask, stored, where), where, folder)


def _value(stored: Stored | Part, where: str, folder: Path | None) -> Value | Masked:
    if isinstance(stored, Part):
        return Masked(_value(stored.value, where, folder), _mask(stored.mask, where, folder))
    if isinstance(stored, Text):
        return Marked(stored.text) if stored.marked else stored.text
    if isinstance(stored, Objects):
        with np.errstate(over="ignore"):  # Boxes refuses what is infinite in 32 bits
            corners = np.array([item.box for item in stored.objects], dtype=np.float32)
        return Boxes(corners, tuple(item.label for item in stored.objects), stored.scores)
    return stored.data if isinstance(stored, Data) else _get(stored, where, folder)


def _mask(stored: StoredMask, where: str, folder: Path | None) -> Any:
    if isinstance(stored, Positions):
        return Cells(tuple(stored.cells))
    return stored.boxes if isinstance(stored, Regions) else _get(stored, where, folder)


def _put(data: bytes, suffix: str, folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"base64": base64.b64encode(data).decode()}
    name = f"given-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"
    if not (folder / name).exists():
        files.write_bytes(folder / name, data)
    return {"file": name}


def _get(stored: File | Inline, where: str, folder: Path | None) -> np.ndarray | Image.Image:
    """The array of a ``.npy`` file's bytes; the picture of others, whose mode and orientation its reader interprets."""
    if isinstance(stored, Inline):
        data, name = _from_base64(stored.base64, where), where
    elif folder is None:
        raise Open4MError(
            f'{where}: no file is read here: give what is in it as {{"base64": ...}}, or a text as {{"text": ...}}'
        )
    elif not re.fullmatch(r"[\w-]+\.(npy|png)", stored.file):
        raise Open4MError(f"{where}: arrays are .npy or .png files in its own folder, got {stored.file!r}")
    else:
        data, name = files.read_bytes(folder / stored.file), stored.file
    if not data.startswith(_NPY_MAGIC) and not name.endswith(".npy"):
        return decode_image(data, name, MAX_PIXELS)
    array = load_array(data, name)
    if array.dtype.kind not in "biuf":
        raise Open4MError(f"{name}: expected an array of numbers, got {array.dtype}")
    return array


def _from_base64(text: str, where: str) -> bytes:
    if len(text) > files.LARGEST_INPUT // 3 * 4:
        raise Open4MError(f"{where}: larger than {files.LARGEST_INPUT} bytes, the most that is read")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Open4MError(f"{where}: not base64 ({error})") from error


@dataclass(frozen=True)
class Codec:
    """How what holds values is written, ``encode(content, folder)``, and read, ``decode(JSON, where, folder)``.

    ``written`` is the type of the JSON, as dataclasses.
    """

    encode: Callable[[Any, Path | None], Any]
    decode: Callable[[Any, str, Path | None], Any]
    written: Any


def _by_name(codec: Codec) -> Codec:
    """The codec of a mapping whose values are those of ``codec``."""

    def encode(named: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
        return {name: codec.encode(value, folder) for name, value in named.items()}

    def decode(written: Any, where: str, folder: Path | None = None) -> dict[str, Any]:
        if not isinstance(written, Mapping):
            raise Open4MError(f"{where}: expected an object with a name for each value, got {written!r}")
        return {name: codec.decode(value, f"{where}.{name}", folder) for name, value in written.items()}

    return Codec(encode, decode, dict[str, codec.written])


MASK = Codec(encode_mask, decode_mask, StoredMask)
VALUES = _by_name(Codec(encode, decode, Stored | Part))
"""Values by modality."""

CONDITIONS = _by_name(VALUES)
"""Values by modality, under the name of each condition."""


def plain(option: Any) -> Any:
    """An option without NumPy's types, which JSON does not have."""
    if isinstance(option, Mapping):
        return {name: plain(value) for name, value in option.items()}
    if isinstance(option, list | tuple):
        return tuple(map(plain, option))
    return option.tolist() if isinstance(option, np.ndarray | np.generic) else option
