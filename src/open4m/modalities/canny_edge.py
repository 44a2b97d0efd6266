"""Canny edges of a picture (4M-21); the labeller ``canny`` computes them."""

from __future__ import annotations

from open4m.modalities.edge_maps import edge_map

MODALITY = edge_map("canny_edge", "Canny edges")
