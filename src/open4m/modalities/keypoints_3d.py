"""3D keypoints: how much each place of the scene's surface looks like one, as a heat map (Taskonomy: NARF)."""

from __future__ import annotations

from open4m.modalities.edge_maps import strength_map

MODALITY = strength_map("keypoints_3d", "3D keypoints (heat map)", "strengths of keypoints", aliases=("keypoints3d",))
