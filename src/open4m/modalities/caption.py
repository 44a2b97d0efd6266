"""Captions."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from open4m.modalities.families import Flag, Palette, TokenSequence
from open4m.types import Marked, is_text

_SIDES = re.compile(r"\b(left|right|leftmost|rightmost|clockwise|counterclockwise)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Caption(TokenSequence):
    """A value is a str; in the form ``marked``, ``"a lake house [S_1]"``, a :class:`~open4m.types.Marked`."""

    is_text = True
    forms = ("own", "marked")

    def read(self, data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"not UTF-8 text ({error})") from error

    def write(self, value: str) -> bytes:
        return self.convert(value).encode("utf-8")

    def convert(self, value: Any) -> str:
        if not is_text(value):
            found = "one with halves of characters" if isinstance(value, str) else type(value).__name__
            raise self.error(f"expected a str, got {found}")
        return value

    def from_form(self, value: Any, form: str, palette: Palette = ()) -> str:
        value = super().from_form(value, form, palette)
        return Marked(value) if form == "marked" else value

    def can_flip(self, value: str) -> bool:
        return _SIDES.search(value) is None  # a mirrored image would make it untrue

    def texts(self, value: str) -> tuple[str]:
        return (value,)

    def encode(self, value: str, text, max_length: int = 256) -> list[int]:
        if isinstance(value, Marked):
            return text.encode_text(value, marked=True)[:max_length]
        return text.finished(([i] for i in text.encode_text(value)), max_length)

    def decode(self, ids, text) -> str:
        return text.decode_text(text.until_eos(ids))

    def render(self, value: str, size: int = 256) -> Image.Image:
        return draw_text(value, size)


def draw_text(text: str, size: int) -> Image.Image:
    """A square picture of wrapped text, in the largest letters that fit."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    margin = size // 16
    for points in range(max(6, size // 10), 5, -1):
        font = ImageFont.load_default(points)
        columns = max(4, int((size - 2 * margin) / (points * 0.52)))
        wrapped = "\n".join(textwrap.wrap(text, columns)) or " "
        box = draw.multiline_textbbox((margin, margin), wrapped, font=font)
        if box[2] <= size - margin and box[3] <= size - margin:
            break
    draw.multiline_text((margin, margin), wrapped, fill=(20, 20, 30), font=font)
    return image


MODALITY = Caption(
    name="caption",
    description="caption",
    extension="txt",
    role="text",
    flag=Flag(name="caption", metavar="TEXT"),
)
