"""One sample of a source becomes files of raw shards: read, checked, in one frame, in the modalities' own forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from open4m import modalities
from open4m.datasets.classes import Classes
from open4m.datasets.layouts.base import Layout, photo
from open4m.datasets.source import Unreachable
from open4m.modalities.codecs import decode_image, orientation, upright
from open4m.modalities.families import Modality
from open4m.modalities.frames import Frame, frame_of, turned
from open4m.modalities.given import decoded, from_form, of_bytes
from open4m.types import Open4MError, Value

TURNED_SIDES = (5, 6, 7, 8)
"""The orientations of EXIF data that exchange height and width."""


class Rejected(Open4MError):
    """A sample that is left out: ``stage`` and ``reason`` as a list of rejects has them."""

    def __init__(self, stage: str, reason: str, detail: str, by_policy: bool = False) -> None:
        super().__init__(f"{stage}: {reason} ({detail})")
        self.stage, self.reason, self.detail, self.by_policy = stage, reason, detail, by_policy


class Stored(NamedTuple):
    """A value, and the bytes of a file that holds it. ``as_is``: they are those of the source."""

    value: Value
    data: bytes
    as_is: bool


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What samples have to be.

    ``forms``: in which form files are, by modality; ``"meters/256"`` are numbers that give meters if divided by 256.
    ``classes``: the names and colors of classes, by modality. ``min_side``: pixels; images with a shorter side are
    left out. ``maps``: where EXIF data turn an image, and nothing tells whether its maps show it as it is ``"shown"``
    or as it is ``"stored"``, this does; if it is "", such samples are left out. ``broken``: the share of samples that
    may be broken.
    """

    forms: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, Classes] = field(default_factory=dict)
    min_side: int = 32
    maps: str = ""
    broken: float = 0.05

    def __post_init__(self) -> None:
        for name, form in self.forms.items():
            modalities.get(name).check_form(_parted(name, form)[0])
        if self.maps not in ("", "shown", "stored"):
            raise Open4MError(f"maps: expected shown or stored, got {self.maps!r}")
        if self.min_side < 0:
            raise Open4MError(f"min_side: expected pixels from 0, got {self.min_side}")


@dataclass(frozen=True)
class Converter:
    """Converts samples of a layout. ``keep``: modalities whose bytes stay as they are, in their form, if they can."""

    layout: Layout
    rules: Rules
    names: tuple[str, ...]
    keep: frozenset[str] = frozenset()

    @cached_property
    def _known(self) -> dict[str, Modality]:
        return {name: modalities.get(name) for name in self.names}

    def convert(self, places: Mapping[str, Sequence[Any]]) -> dict[str, Stored | None]:
        """The files of a sample by modality; None for those that it lacks. Raises :class:`Rejected`."""
        try:
            found = self.layout.read(places, self.names)
        except Unreachable:
            raise
        except Open4MError as error:
            raise Rejected("read", "not readable", str(error)) from error
        turn, stored_frame, files = 1, None, {}
        for name in sorted(self.names, key=lambda name: name != photo().name):  # the photo first
            content = found.get(name)
            if content is None:
                files[name] = None
                continue
            files[name] = self.value(name, content)
            if name == photo().name and isinstance(content, bytes):
                image = decode_image(content, name)
                turn, stored_frame = orientation(image), Frame(image.height, image.width)
        values = {name: file.value for name, file in files.items() if file is not None}
        if photo().name in values and (side := min(values[photo().name].shape[:2])) < self.rules.min_side:
            detail = f"{side} pixels, at least {self.rules.min_side} are wanted"
            raise Rejected(photo().name, "too small", detail, by_policy=True)
        if turn != 1:
            for name in values.keys() - {photo().name}:
                files[name] = self._turned(name, files[name], turn, stored_frame, places)
            values = {name: file.value for name, file in files.items() if file is not None}
        try:
            frame_of(values, self._known)
        except Open4MError as error:
            raise Rejected("frame", "maps of several pictures", str(error)) from error
        return {name: files[name] for name in self.names}

    def value(self, name: str, content: bytes | Value) -> Stored:
        """A value that a layout gives, checked. Raises :class:`Rejected`."""
        modality = self._known[name]
        try:
            if not isinstance(content, bytes):
                value = modality.convert(content)
                return Stored(value, modality.write(value), False)
            form, divisor = _parted(name, self.rules.forms.get(name, ""))
            palette = self.rules.classes.get(name, Classes()).palette
            if divisor != 1:
                value = from_form(modality, _numbers(content, modality) / divisor, form, palette)
                return Stored(value, modality.write(value), False)
            if not form or form == modality.forms[0]:
                try:
                    return Stored(modality.read(content), content, True)
                except Open4MError:
                    pass  # another kind of file than its own
            value = of_bytes(content, modality, form, palette)
            return Stored(value, content, True) if name in self.keep else Stored(value, modality.write(value), False)
        except Open4MError as error:
            raise Rejected(name, "not readable", str(error)) from error

    def _turned(self, name: str, file: Stored, turn: int, stored: Frame, places: Mapping[str, Sequence[Any]]) -> Stored:
        """A label in the frame of its photo, which EXIF data turn."""
        modality = self._known[name]
        extent = modality.extent(file.value)
        if extent is None:
            if not modality.has_positions:
                return file
            if (extent := self.layout.extent(places)) is None and self.rules.maps != "stored":
                return file  # fractions of the picture, as it is shown
        shown = Frame(stored.width, stored.height) if turn in TURNED_SIDES else stored
        fits_shown, fits_stored = (extent is None or frame.shows(extent) for frame in (shown, stored))
        if fits_shown and fits_stored:
            if not self.rules.maps:
                detail = (
                    f"EXIF orientation {turn}: say whether maps show photos as they are shown or as they are stored"
                )
                raise Rejected(name, "turned photo", f"{detail}, --maps shown or --maps stored")
            fits_stored = self.rules.maps == "stored"
        if not fits_stored:
            return file
        try:
            value = turned(modality, file.value, turn)
            return Stored(value, modality.write(value), False)
        except Open4MError as error:
            raise Rejected(name, "cannot be turned", str(error)) from error


def _parted(name: str, form: str) -> tuple[str, float]:
    """The form and the divisor of ``"meters/256"``; 1 without one."""
    word, slash, number = form.partition("/")
    try:
        divisor = float(number) if slash else 1.0
    except ValueError:
        divisor = 0.0
    if not (np.isfinite(divisor) and divisor > 0):
        raise Open4MError(f"{name}: form {form!r}: expected a form, or a form and a number as in meters/256")
    return word, divisor


def _numbers(data: bytes, modality: Modality) -> np.ndarray:
    """The numbers in an image or a ``.npy`` array, upright, as float64."""
    found = decoded(data, modality.name)
    if found is None:
        raise modality.error("expected an image or a .npy array")
    if isinstance(found, Image.Image):
        if found.mode in ("P", "RGB", "RGBA", "CMYK"):
            raise modality.error(f"expected a picture of one number per pixel, got mode {found.mode}")
        found = np.asarray(upright(found))
    return found.astype(np.float64)
