"""Feature maps of a CLIP image encoder's last layer, as the labeller ``clip`` makes them."""

from __future__ import annotations

from open4m.modalities.features import FeatureMap

MODALITY = FeatureMap(name="clip", description="CLIP feature map", extension="clip.npy")
