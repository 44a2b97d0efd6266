"""Occlusion edges, or 3D edges: where depth jumps, whatever the texture (Taskonomy)."""

from __future__ import annotations

import numpy as np

from open4m.modalities.crops import filled
from open4m.modalities.edge_maps import EdgeMap, strength_map, strengths

LARGEST = 0.5
"""The change of depth between neighbors, relative to it, that is the strongest edge."""


class OcclusionEdges(EdgeMap):
    """A value that is not stored is computed of depth: the change of its logarithm, so that distance does not matter.

    Second differences, so that a floor that runs away from the camera is no edge.
    """

    def derive(self, source: np.ndarray) -> np.ndarray:
        logarithm = np.log(filled(source, ~np.isnan(source)).astype(np.float64))
        padded = np.pad(logarithm, 1, mode="reflect", reflect_type="odd")  # borders go on as they are
        inner = padded[1:-1, 1:-1]
        along = (padded[:-2, 1:-1] + padded[2:, 1:-1], padded[1:-1, :-2] + padded[1:-1, 2:])
        return strengths(np.max([np.abs(pair - 2 * inner) for pair in along], axis=0) / LARGEST)


MODALITY = strength_map(
    "occlusion_edges",
    "occlusion edges",
    "strengths of edges",
    OcclusionEdges,
    source="depth",
    aliases=("edge_occlusion", "edges_3d"),
)
