"""The main colors of an image, by median cut and k-means. There are no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from open4m.labellers.base import Labeller
from open4m.modalities.color_palette import MOST_COLORS, ColorPalette
from open4m.types import Open4MError

VERSION = 1
"""Of the computation: part of the fingerprint."""

ITERATIONS = 10
"""Of k-means, at most."""


@dataclass(frozen=True)
class Palette(Labeller):
    """Up to ``colors`` colors, the most frequent one first; fewer, if an image has fewer."""

    colors: int = 5

    modality = "color_palette"
    source = "rgb"

    @classmethod
    def load(cls, source: str = "", device: str = "cpu") -> Self:
        """``source``: nothing, or another number of colors."""
        if source and not (source.isascii() and source.isdecimal() and 1 <= int(source) <= MOST_COLORS):
            raise Open4MError(f"palette: expected a number of colors from 1 to {MOST_COLORS}, got {source!r}")
        return cls(int(source)) if source else cls()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"palette {VERSION} {self.colors}".encode()).hexdigest()[:16]

    def label(self, values: Sequence[np.ndarray]) -> list[ColorPalette]:
        return [self._palette(Image.fromarray(value)) for value in values]

    def _palette(self, image: Image.Image) -> ColorPalette:
        found = image.quantize(self.colors, Image.Quantize.MEDIANCUT, kmeans=ITERATIONS)
        table = np.array(found.getpalette()).reshape(-1, 3)
        frequent = sorted(found.getcolors(), key=lambda entry: (-entry[0], entry[1]))
        return ColorPalette(tuple(dict.fromkeys(tuple(table[index].tolist()) for _, index in frequent)))


LABELLER = Palette
