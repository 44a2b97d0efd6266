"""ImageBind's feature of a whole image, its class token: 1280 numbers with ViT-H/14 (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import GlobalFeature

MODALITY = GlobalFeature(
    name="imagebind_global", description="ImageBind feature of the image", extension="imagebind_global.npy"
)
