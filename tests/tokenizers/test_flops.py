"""What encoding and decoding need, against what is counted while they are computed."""

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.flops import decode_flops, encode_flops
from open4m.tokenizers.network import VQVAE

ENCODER, DECODER = ViTConfig(width=16, depth=2, heads=2), ViTConfig(width=24, depth=3, heads=2, mlp_ratio=3)
CASES = {
    "rgb": {"image_size": 16, "patch_size": 4},
    "semseg": {"image_size": 16, "patch_size": 4, "channels": 6, "class_names": ("sky", "floor", "box")},
    "normals": {"image_size": 16, "patch_size": 4, "decoder": dataclasses.replace(DECODER, out_conv=2)},
    "clip": {"image_size": 5, "channels": 12},
    "dinov2_global": {
        "channels": 20,
        "codebooks": 4,
        "encoder": MLPConfig(width=16, depth=2, expansion=3),
        "decoder": MLPConfig(width=24, depth=3),
    },
}


@pytest.mark.parametrize("modality", CASES)
def test_needed_operations_are_those_that_are_computed(modality):
    known = {"codebook_size": 11, "latent_dim": 8, "encoder": ENCODER, "decoder": DECODER}
    config = TokenizerConfig.of(modality, **{**known, **CASES[modality]})
    model = VQVAE(config, torch.Generator().manual_seed(0)).eval()
    side = config.image_size
    x = (
        torch.zeros(2, side, side, dtype=torch.int64)
        if config.categorical
        else torch.zeros(2, config.channels, side, side)
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as encoding:
        ids = model.encode(x)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as decoding:
        model.decode(ids)
    assert 2 * encode_flops(config) == encoding.get_total_flops()
    assert 2 * decode_flops(config) == decoding.get_total_flops()
