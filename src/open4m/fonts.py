"""Letters in pictures: for each text a font that has its letters.

Pillow's own font, which all pictures have by default, holds little more than ASCII. A text with other letters is set in
the first font that has them all: the file that ``OPEN4M_FONT`` names, that of matplotlib (DejaVu Sans), or one of the
system's. What no font has is written without its accents, or shows as an empty box.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont

from open4m.types import Open4MError

logger = logging.getLogger("open4m")

VARIABLE = "OPEN4M_FONT"
"""The environment variable that names a font file."""

SYSTEM = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
)
"""Fonts of many letters, as Linux distributions, macOS and Windows name their files."""

NO_LETTER = "\U0010ffff"
"""A character that no font has: it shows what stands for missing ones."""

SPELLED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"–": "-", "—": "-", "−": "-", "×": "x", "→": "->", "≥": ">=", "≤": "<=", "€": "EUR", "□": "?"}
)
"""Letters that no accent is taken from to make one of ASCII, and signs."""


def lettered(text: str, points: float) -> tuple[str, FreeTypeFont]:
    """A text as it can be drawn, and the font of this size to draw it with.

    Raises :class:`Open4MError` if ``OPEN4M_FONT`` names no font.
    """
    letters, best = frozenset(text) - {"\n"}, ("", frozenset(text))
    for name in _names():
        if (font := _font(name, points)) is None:
            continue
        lacking = frozenset(letter for letter in letters if not _has(name, letter))
        if not lacking:
            return text, font
        if len(lacking) < len(best[1]):
            best = name, lacking
    name, lacking = best
    spelled = "".join(_spelled(name, letter) if letter in lacking else letter for letter in text)
    if unknown := sorted(letter for letter in set(spelled) - {"\n"} if not _has(name, letter)):
        _say_missing(_kind(unknown[0]))
    return spelled, _font(name, points) or _font("", points)


def wrapped(text: str, points: float, width: float) -> tuple[str, FreeTypeFont]:
    """A text with line breaks, so that no line is wider than ``width`` pixels, and the font to draw it with.

    Lines end between words; a word that is wider, such as a key or a sentence without blanks, is parted.
    """
    text, font = lettered(text, points)
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return "\n".join(lines), font


def _names() -> Iterator[str]:
    """What :func:`_font` calls fonts, in the order in which they are tried; "" is Pillow's own."""
    if chosen := os.environ.get(VARIABLE, ""):
        if _font(chosen, 12) is None:
            raise Open4MError(f"{VARIABLE}={chosen}: not a font that can be read; name a .ttf, .otf or .ttc file")
        yield chosen
    yield ""
    if bundled := _bundled():
        yield bundled
    yield from SYSTEM


@cache
def _bundled() -> str:
    """The font in matplotlib, which is not imported for its sake; "" where it is not installed."""
    spec = importlib.util.find_spec("matplotlib")
    folders = (spec.submodule_search_locations if spec else None) or ()
    found = (Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" for folder in folders)
    return next((str(path) for path in found if path.is_file()), "")


@cache
def _font(name: str, points: float) -> FreeTypeFont | None:
    if not name:
        return ImageFont.load_default(points)
    try:
        return ImageFont.truetype(name, points)
    except OSError:
        return None


@cache
def _has(name: str, letter: str) -> bool:
    font = _font(name, 16)
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))


def _spelled(name: str, letter: str) -> str:
    """A letter that a font lacks, by letters that it has: without accents; else the letter itself."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter.translate(SPELLED)) if not unicodedata.combining(c))
    if unicodedata.category(letter) in ("Cf", "Mn"):  # joins and varies what is beside it
        return ""
    return plain if plain and all(_has(name, c) for c in plain) else letter


def _kind(letter: str) -> str:
    """What kind of letter one is: CJK, HIRAGANA, ARABIC."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]


@cache
def _say_missing(kind: str) -> None:
    logger.warning("pictures: no font here has %s letters: name a file of one that does, %s=FONT.ttf", kind, VARIABLE)
