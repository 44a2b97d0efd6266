"""Feature maps of DINOv2's last layer: one vector per patch, 768 numbers with ViT-B/14 (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import FeatureMap

MODALITY = FeatureMap(name="dinov2", description="DINOv2 feature map", extension="dinov2.npy")
