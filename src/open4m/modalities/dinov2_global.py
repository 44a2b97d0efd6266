"""DINOv2's feature of a whole image, its class token: 768 numbers with ViT-B/14 (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import GlobalFeature

MODALITY = GlobalFeature(name="dinov2_global", description="DINOv2 feature of the image", extension="dinov2_global.npy")
