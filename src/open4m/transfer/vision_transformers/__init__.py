"""Vision Transformers of others as encoders of transfers: what 4M is compared with (paper 3, Table 1, D.1).

MAE, DeiT III, MultiMAE, DINOv2, BEiT v2, CLIP and plain ones are all computed by :class:`VisionTransformer`, whose
weights :mod:`.naming` reads from the files of transformers and timm.
"""

from open4m.transfer.vision_transformers.network import VisionTransformer, VisionTransformerConfig
from open4m.transfer.vision_transformers.opening import is_vision_transformer, open_vision_transformer

__all__ = [
    "VisionTransformer",
    "VisionTransformerConfig",
    "is_vision_transformer",
    "open_vision_transformer",
]
