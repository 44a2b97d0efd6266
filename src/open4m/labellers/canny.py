"""Canny edges of an image (J. Canny, 1986, A Computational Approach to Edge Detection). There are no weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from open4m.labellers import base
from open4m.types import Open4MError

VERSION = 1
"""Of the computation: part of the fingerprint."""


@dataclass(frozen=True)
class Canny(base.Labeller):
    """Edges are lines of pixels whose gradient is above ``low`` and that are connected to one above ``high``.

    The gradient is that of a 3 × 3 Sobel filter on gray levels of 0 to 255, after a Gaussian blur of ``sigma`` pixels.
    The defaults are the usual ones; the authors of 4M-21 do not say theirs.
    """

    low: float = 100.0
    high: float = 200.0
    sigma: float = 1.0

    modality = "canny_edge"
    source = "rgb"
    needs_model = False

    @classmethod
    def load(
        cls, model: str = "", device: str = "cpu", settings: base.Settings | None = None, modality: str = ""
    ) -> Self:
        """``model``: nothing, or other numbers, ``LOW,HIGH`` or ``LOW,HIGH,SIGMA``."""
        try:
            numbers = [float(part) for part in model.split(",")] if model else []
        except ValueError:
            numbers = [np.nan]
        found = cls(*numbers) if len(numbers) in (0, 2, 3) else None
        if found is None or not (0 <= found.low <= found.high < np.inf and 0 <= found.sigma < np.inf):
            raise Open4MError(
                "canny: expected LOW,HIGH or LOW,HIGH,SIGMA, such as 100,200,1, in gray levels and pixels from 0, "
                f"LOW not above HIGH, got {model!r}"
            )
        return found

    @property
    def fingerprint(self) -> str:
        about = f"canny {VERSION} {self.low} {self.high} {self.sigma}"
        return hashlib.sha256(about.encode()).hexdigest()[:16]

    def label(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Maps of the images' sizes, uint8 (H, W): 255 on edges, 0 elsewhere."""
        return [np.where(self._edges(value), 255, 0).astype(np.uint8) for value in values]

    def _edges(self, image: np.ndarray) -> np.ndarray:
        """bool (H, W) of an image, uint8 (H, W, 3)."""
        from scipy.ndimage import gaussian_filter, label, map_coordinates, sobel

        gray = gaussian_filter(np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64), self.sigma)
        gradient = np.stack([sobel(gray, axis) for axis in (0, 1)])
        strength = np.hypot(*gradient)
        step = gradient / np.maximum(np.abs(gradient).max(0), 1e-12)  # to the border of the 3 × 3 pixels around
        places = np.indices(strength.shape)
        ahead, behind = (map_coordinates(strength, places + sign * step, order=1, mode="nearest") for sign in (1, -1))
        ridges = (strength > self.low) & (strength >= ahead) & (strength >= behind)
        lines, _ = label(ridges, np.ones((3, 3)))
        return ridges & np.isin(lines, np.unique(lines[ridges & (strength > self.high)]))


LABELLER = Canny
