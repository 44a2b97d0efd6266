"""Feature maps of ImageBind's image encoder: one vector per patch, 1280 numbers with ViT-H/14 (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import FeatureMap

MODALITY = FeatureMap(name="imagebind", description="ImageBind feature map", extension="imagebind.npy")
