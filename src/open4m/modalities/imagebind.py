"""Feature maps of ImageBind's image encoder: a vector a patch, of a ViT-H/14 1280 numbers (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import FeatureMap

MODALITY = FeatureMap(name="imagebind", description="ImageBind feature map", extension="imagebind.npy")
