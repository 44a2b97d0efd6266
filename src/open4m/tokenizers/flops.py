"""How many floating-point operations a tokenizer needs for one image."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open4m.tokenizers.unet import PatchedUNet
from open4m.tokenizers.vit import ViTConfig
from open4m.tokenizers.vqvae import TokenizerConfig


def encode_flops(config: TokenizerConfig) -> float:
    """Multiplications and additions of encoding one image into tokens: matrix products only, two a weight and token."""
    h, w = config.grid
    patch = config.encoder.width * config.channels * config.patch_size**2
    latent = config.encoder.width * config.latent_dim
    codes = config.latent_dim * config.codebook_size
    return _trunk_flops(config.encoder, h * w) + 2 * h * w * (patch + latent + codes)


def decode_flops(config: TokenizerConfig) -> float:
    """Likewise, of decoding one image's tokens; by a diffusion decoder, with its configured number of steps."""
    h, w = config.grid
    if config.diffusion is not None:
        return config.diffusion.steps * _unet_flops(config)
    outputs = len(config.class_names) if config.categorical else config.channels
    patch = config.decoder.width * outputs * config.patch_size**2
    latent = config.decoder.width * config.latent_dim
    return _trunk_flops(config.decoder, h * w) + 2 * h * w * (patch + latent)


def _unet_flops(config: TokenizerConfig) -> float:
    """One call of the UNet, counted on tensors without memory."""
    h, w = config.grid
    image = config.channels, h * config.patch_size, w * config.patch_size
    with torch.device("meta"):
        network = PatchedUNet(config.decoder, config.channels, config.latent_dim)
        inputs = torch.empty(1, *image), torch.empty(1, dtype=torch.int64), torch.empty(1, config.latent_dim, h, w)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def _trunk_flops(config: ViTConfig, tokens: int) -> float:
    """Blocks and the last MLP: projections, feed-forward layers, scores and values of all pairs of tokens."""
    square = config.width**2
    mlp = 2 * config.width * int(config.width * config.mlp_ratio)
    pairs = 2 * config.width * tokens
    return 2 * tokens * (config.depth * (4 * square + mlp + pairs) + mlp)
