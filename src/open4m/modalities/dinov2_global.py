"""DINOv2's one feature of an image, its class token: of a ViT-B/14 768 numbers (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import GlobalFeature

MODALITY = GlobalFeature(name="dinov2_global", description="DINOv2 feature of the image", extension="dinov2_global.npy")
