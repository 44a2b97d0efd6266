"""2D keypoints: how much each place of the image looks like one, as a heat map (Taskonomy: the responses of SURF)."""

from __future__ import annotations

import numpy as np

from open4m.modalities.edge_maps import EdgeMap, gray, strength_map, strengths

SIGMAS = (1.2, 2.0, 3.2)
"""Of the blurs, in pixels: the finest scale of SURF, and about the next two."""


class Keypoints(EdgeMap):
    """A value that is not stored is computed of the image: the root of the determinant of its Hessian, what SURF looks
    for (Bay et al., 2008), the largest over :data:`SIGMAS`. A Gaussian spot of full contrast has about 255."""

    def derive(self, source: np.ndarray) -> np.ndarray:
        from scipy.ndimage import gaussian_filter

        def curved(image: np.ndarray, sigma: float) -> np.ndarray:
            blurred = np.pad(gaussian_filter(image, sigma, mode="nearest"), 1, mode="edge")
            inner = blurred[1:-1, 1:-1]
            yy = blurred[:-2, 1:-1] + blurred[2:, 1:-1] - 2 * inner  # differences, which are 0 where all is flat
            xx = blurred[1:-1, :-2] + blurred[1:-1, 2:] - 2 * inner
            xy = (blurred[2:, 2:] - blurred[2:, :-2] - blurred[:-2, 2:] + blurred[:-2, :-2]) / 4
            return sigma**2 * np.sqrt(np.maximum(yy * xx - xy**2, 0))

        return strengths(_SPOT * np.max([curved(gray(source), sigma) for sigma in SIGMAS], axis=0))


_SPOT = 4.0
"""A spot as wide as the blur has second derivatives of -1/4, times the variance of the blur."""

MODALITY = strength_map(
    "keypoints_2d",
    "2D keypoints (heat map)",
    "strengths of keypoints",
    Keypoints,
    source="rgb",
    aliases=("keypoints2d",),
)
