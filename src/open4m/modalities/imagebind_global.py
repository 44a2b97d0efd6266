"""ImageBind's one feature of an image, its class token: of a ViT-H/14 1280 numbers (4M-21)."""

from __future__ import annotations

from open4m.modalities.features import GlobalFeature

MODALITY = GlobalFeature(
    name="imagebind_global", description="ImageBind feature of the image", extension="imagebind_global.npy"
)
