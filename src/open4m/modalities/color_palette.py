"""The main colors of a picture (4M-21)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from open4m.modalities.symbols import Symbol, SymbolSequence, numbers_of
from open4m.pictures import noted

MOST_COLORS = 7
_HEX = re.compile(r"#?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")


@dataclass(frozen=True)
class ColorPalette:
    """Up to seven colors, each red, green and blue from 0 to 255.

    ``malformed``: the tokens that were no part of a color, or the colors that were announced and did not come. It says
    how the value was made and is not compared.
    """

    colors: tuple[tuple[int, int, int], ...]
    malformed: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return len(self.colors)

    @property
    def hex(self) -> tuple[str, ...]:
        """As in style sheets: ``#ff0080``."""
        return tuple("#{:02x}{:02x}{:02x}".format(*color) for color in self.colors)

    def as_json(self) -> list[str]:
        return list(self.hex)


@dataclass(frozen=True, kw_only=True)
class Palettes(SymbolSequence):
    """A value is a :class:`ColorPalette`. Users give hex colors, ``["#ff0080", "#222"]``, or red, green and blue of
    each, 0 to 255. Its symbols are the number of colors on the second axis, then three numbers per color."""

    kind = ColorPalette
    most_colors = MOST_COLORS
    expected = f'up to {MOST_COLORS} colors, like "#ff0080" or [255, 0, 128] each'
    better = {"color_distance": "lower"}

    def made(self, value: Any) -> ColorPalette:
        if isinstance(value, str):
            value = re.split(r"[\s,;]+", value.strip())
        rows = [value] if np.ndim(value) == 1 and len(value) == 3 and not isinstance(value[0], str) else list(value)
        if len(rows) > MOST_COLORS:
            raise ValueError(f"got {len(rows)} colors")
        return ColorPalette(tuple(_color(row) for row in rows))

    def pieces(self, value: ColorPalette) -> Iterator[list[Symbol]]:
        if len(value):
            yield [(1, len(value)), *((0, part) for color in value.colors for part in color)]

    def parsed(self, symbols: list[Symbol]) -> ColorPalette:
        if not symbols:
            return ColorPalette(())
        count = numbers_of(symbols[:1], 1)
        announced = count[0] if count is not None and 0 < count[0] <= MOST_COLORS else 0
        numbers = []
        for symbol in symbols[1:] if announced else ():
            if not isinstance(symbol, tuple) or symbol[0] != 0 or symbol[1] > 255 or len(numbers) == 3 * announced:
                break
            numbers.append(symbol[1])
        colors = tuple(zip(*[iter(numbers)] * 3, strict=False))
        used = 3 * len(colors) + bool(colors)
        return ColorPalette(colors, malformed=max(len(symbols) - used, announced - len(colors)))

    def render(self, value: ColorPalette, size: int = 256) -> Image.Image:
        """Swatches side by side, each with its name below."""
        image = Image.new("RGB", (size, size), "white")
        draw, count = ImageDraw.Draw(image), max(len(value), 1)
        for i, (color, name) in enumerate(zip(value.colors, value.hex, strict=True)):
            left, right = (round(size * edge / count) for edge in (i, i + 1))
            draw.rectangle((left, 0, max(left, right - 1), size - 1), fill=color)
            ink = "black" if sum(color) > 380 else "white"
            draw.text(((left + right) / 2, size - size / 16), name, fill=ink, anchor="ms", font_size=max(6, size // 22))
        if not len(value):
            noted(image, "no colors")
        return image

    def metrics(self, predictions: Sequence[ColorPalette], labels: Sequence[ColorPalette]) -> dict[str, float]:
        """How far each color is from the nearest one of the other palette, in both directions: root mean square
        differences of 0 to 255, the mean over palettes. A palette without colors is as far as white is from black."""
        return {"color_distance": float(np.mean([_distance(p, t) for p, t in zip(predictions, labels, strict=True)]))}


def _color(value: Any) -> tuple[int, int, int]:
    if isinstance(value, str):
        if not (found := _HEX.fullmatch(value)):
            raise ValueError(f"got {value!r}")
        digits = found[1] if len(found[1]) == 6 else "".join(2 * digit for digit in found[1])
        return tuple(bytes.fromhex(digits))
    parts = np.asarray(value)
    if parts.shape != (3,) or parts.dtype.kind not in "iu" or parts.min() < 0 or parts.max() > 255:
        raise ValueError(f"got {value!r:.80}")
    return tuple(parts.tolist())


def _distance(one: ColorPalette, other: ColorPalette) -> float:
    if not (len(one) and len(other)):
        return 0.0 if len(one) == len(other) else 255.0
    apart = np.array(one.colors)[:, None].astype(float) - np.array(other.colors)
    each = np.sqrt((apart**2).mean(-1))
    return float((each.min(1).mean() + each.min(0).mean()) / 2)


MODALITY = Palettes(name="color_palette", description="main colors of the picture", extension="color_palette.json")
