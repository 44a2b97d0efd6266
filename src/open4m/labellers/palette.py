"""The main colors of an image, by median cut and k-means. There are no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from open4m.labellers import base
from open4m.modalities.color_palette import MOST_COLORS, ColorPalette
from open4m.types import Open4MError

VERSION = 2
"""Of the computation: part of the fingerprint."""

LONGEST_SIDE = 256
"""Pixels of a larger image are taken in equal steps, so that a photo of 12 megapixels does not take half a minute; its
colors stay those of pixels, and move by 1 of 255 or less."""

ITERATIONS = 10
"""Of k-means, at most."""


@dataclass(frozen=True)
class Palette(base.Labeller):
    """Up to ``colors`` colors, the most frequent one first; fewer, if an image has fewer."""

    colors: int = 5

    modality = "color_palette"
    source = "rgb"
    square = True  # the colors of what models see
    needs_model = False

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        """``model``: nothing, or another number of colors."""
        if model and not (model.isascii() and model.isdecimal() and 1 <= int(model) <= MOST_COLORS):
            raise Open4MError(f"palette: expected a number of colors from 1 to {MOST_COLORS}, got {model!r}")
        return cls(int(model)) if model else cls()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"palette {VERSION} {self.colors}".encode()).hexdigest()[:16]

    def label(self, values: Sequence[np.ndarray]) -> list[ColorPalette]:
        return [self._palette(Image.fromarray(value)) for value in values]

    def _palette(self, image: Image.Image) -> ColorPalette:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.NEAREST)
        found = image.quantize(self.colors, Image.Quantize.MEDIANCUT, kmeans=ITERATIONS)
        table = np.array(found.getpalette()).reshape(-1, 3)
        frequent = sorted(found.getcolors(), key=lambda entry: (-entry[0], entry[1]))
        return ColorPalette(tuple(dict.fromkeys(tuple(table[index].tolist()) for _, index in frequent)))


LABELLER = Palette
