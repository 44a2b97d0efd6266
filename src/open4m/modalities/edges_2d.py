"""2D edges, or texture edges: how fast brightness changes (Taskonomy: Canny edges before ridges and thresholds)."""

from __future__ import annotations

import math

import numpy as np

from open4m.modalities.edge_maps import EdgeMap, gray, strength_map, strengths

SIGMA = 1.0
"""Of the blur before the gradient, in pixels; the usual one of Canny edges."""


class TextureEdges(EdgeMap):
    """A value that is not stored is computed of the image: 255 is a step from black to white."""

    def derive(self, source: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_gradient_magnitude

        step = SIGMA * math.sqrt(2 * math.pi)  # over the gradient of a blurred step of height 1, at its middle
        return strengths(step * gaussian_gradient_magnitude(gray(source), SIGMA, mode="nearest"))


MODALITY = strength_map("edges_2d", "2D edges (texture)", "strengths of edges", TextureEdges, source="rgb")
