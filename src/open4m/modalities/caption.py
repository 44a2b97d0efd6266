"""Captions."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain
from typing import Any

from PIL import Image, ImageDraw

from open4m.fonts import wrapped
from open4m.modalities.families import Flag, Palette, TokenSequence
from open4m.types import GAP, Gapped, Marked, is_text

_SIDES = re.compile(r"\b(left|right|leftmost|rightmost|clockwise|counterclockwise)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Caption(TokenSequence):
    """A value is a str; in the form ``marked``, ``"a lake house [S_1]"``, a :class:`~open4m.types.Marked`. Gaps of a
    :class:`~open4m.types.Gapped` become the sentinels of masked spans (paper C.1)."""

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

    def facts(self, value: str) -> dict[str, float]:
        return {"words": len(value.split())}

    def texts(self, value: str) -> tuple[str]:
        return (value,)

    def encode(self, value: str, text, max_length: int = 256) -> list[int]:
        if isinstance(value, Marked):
            return text.encode_text(value, marked=True)[:max_length]
        if not isinstance(value, Gapped):
            return text.finished(([i] for i in text.encode_text(value)), max_length)
        first, *others = (text.encode_text(part) for part in value.split(GAP))
        if len(others) >= len(text.sentinels):
            raise self.error(f"expected at most {len(text.sentinels) - 1} gaps {GAP}, got {len(others)}")
        filled = [[mark, *part] for mark, part in zip(text.sentinels, others, strict=False)]
        return text.finished(([i] for i in chain(first, *filled)), max_length)

    def decode(self, ids, text) -> str:
        return text.decode_text(text.until_eos(ids))

    def render(self, value: str, size: int = 256) -> Image.Image:
        return draw_text(value, size)


MOST_DRAWN = 2000
"""Letters of a picture: more are not read, and take long to lay out."""


def draw_text(text: str, size: int) -> Image.Image:
    """A square picture of wrapped text, in the largest letters that fit."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    margin = size // 16
    text = text[:MOST_DRAWN]

    def is_too_large(points: int) -> bool:
        lines, font = wrapped(text, points, size - 2 * margin)
        box = draw.multiline_textbbox((margin, margin), lines, font=font)
        return box[2] > size - margin or box[3] > size - margin

    sizes = range(6, max(6, size // 10) + 1)
    points = sizes[max(0, bisect_left(sizes, True, key=is_too_large) - 1)]
    lines, font = wrapped(text, points, size - 2 * margin)
    draw.multiline_text((margin, margin), lines, fill=(20, 20, 30), font=font)
    return image


MODALITY = Caption(
    name="caption",
    description="caption",
    extension="txt",
    aliases=("captions", "text", "texts", "txt", "prompt", "prompts", "description", "descriptions"),
    role="text",
    flag=Flag(name="caption", metavar="TEXT"),
)
