"""Edges of the objects that Segment Anything finds (4M-21)."""

from __future__ import annotations

from open4m.modalities.edge_maps import edge_map

MODALITY = edge_map("sam_edge", "edges of Segment Anything's objects")
