"""Reshading: the surface as it looks by a lamp at the camera, without its texture (Taskonomy)."""

from __future__ import annotations

import numpy as np

from open4m.modalities.edge_maps import EdgeMap, strength_map, strengths


class Reshading(EdgeMap):
    """Brightness, 0 to 255. A value that is not stored is computed of normals: how far they turn to the viewer."""

    def derive(self, source: np.ndarray) -> np.ndarray:
        return strengths(source[..., 2])


MODALITY = strength_map("reshading", "reshading", "brightness", Reshading, source="normals")
