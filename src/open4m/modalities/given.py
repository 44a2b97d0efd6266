"""What users hand in: files, pictures, arrays and tensors, in any form of a modality, become its checked values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from open4m import files
from open4m.modalities.codecs import decode_image, load_array
from open4m.modalities.families import STANDARDIZED
from open4m.types import Open4MError, Value, shown

if TYPE_CHECKING:
    from open4m.modalities.families import Modality, Palette

_NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class InForm:
    """A value in one of the forms that its modality has besides its own (``Modality.forms``).

    >>> model.generate({"depth": InForm("kinect.png", "millimeters")}, "rgb")
    >>> model.generate({"normals": InForm(array, "opencv")}, "rgb")
    """

    value: Any
    form: str


def by_name(sample: Any) -> Mapping[str, Any]:
    """The sample. Raises :class:`Open4MError` unless it is values by modality."""
    if not isinstance(sample, Mapping):
        raise Open4MError(f"expected values by modality, such as {{'caption': 'a cube'}}, got {shown(sample)}")
    return sample


def from_form(modality: Modality, value: Any, form: str, palette: Palette = ()) -> Value:
    """The checked value of one in a form. Raises :class:`Open4MError` for a form that is none, or that is no value."""
    modality.check_form(form)
    if form == STANDARDIZED:
        raise modality.error(
            f"form {form!r} has no units, so that it is no value; a tokenizer that standardizes takes it: "
            f"tokenizer.encode(value, form={form!r})"
        )
    return modality.from_form(value, form, palette)


def taken(modality: Modality, value: Any, palette: Palette = ()) -> Value:
    """The checked value of what a user hands in.

    ``value``: what ``modality.convert`` takes, the path of a file (of a modality of texts, only a ``Path``, since a str
    is a text), or either :class:`InForm`. ``palette``: the colors of classes, for the forms that need them. Raises
    :class:`Open4MError`, which names the file, for all else.
    """
    form, inner = (value.form, value.value) if isinstance(value, InForm) else ("", value)
    if isinstance(inner, os.PathLike) or (isinstance(inner, str) and not modality.is_text):
        return read_file(Path(inner), modality, form, palette)
    return from_form(modality, inner, form, palette) if isinstance(value, InForm) else modality.convert(inner)


def read_file(path: Path, modality: Modality, form: str = "", palette: Palette = ()) -> Value:
    """The value in a file of any kind that the modality takes: its own, an image, or a ``.npy`` array.

    Raises :class:`Open4MError`, which names the file, if it cannot be read, is too large an input, or holds no value.
    """
    data = files.read_bytes(path)
    try:
        return of_bytes(data, modality, form, palette)
    except Open4MError as error:
        raise Open4MError(f"{path}: {error}") from error


def of_bytes(data: bytes, modality: Modality, form: str = "", palette: Palette = ()) -> Value:
    """The value in a file's bytes: as ``modality.read`` reads it or, where it does not, as an image or a ``.npy`` array
    in the ``form``, by default the modality's own."""
    if not form:
        try:
            return modality.read(data)
        except Open4MError:
            if (found := decoded(data, modality.name)) is None:
                raise
            return modality.convert(found)
    modality.check_form(form)
    if modality.family.is_sequence:
        return from_form(modality, modality.read(data), form, palette)
    if (found := decoded(data, modality.name)) is None:
        raise modality.error(f"expected an image or a .npy array in the form {form!r}")
    return from_form(modality, found, form, palette)


def decoded(data: bytes, name: str) -> np.ndarray | Image.Image | None:
    """The array of numbers in ``.npy`` bytes, the picture in those of an image, None for others.

    Raises :class:`Open4MError` for arrays of anything else; nothing is unpickled.
    """
    if data.startswith(_NPY_MAGIC):
        array = load_array(data, name)
        if array.dtype.kind not in "biuf":
            raise Open4MError(f"{name}: expected an array of numbers, got {array.dtype}")
        return array
    try:
        return decode_image(data, name)
    except Open4MError:
        return None
