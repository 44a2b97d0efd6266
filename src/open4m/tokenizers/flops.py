"""How many floating-point operations a tokenizer needs for one image."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import PatchedUNet
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig


def encode_flops(config: TokenizerConfig) -> float:
    """Floating-point operations to encode one image into tokens: matrix products only, two per weight and token."""
    cells = _cells(config)
    patch = config.encoder.width * config.channels * config.patch_size**2
    latent = config.encoder.width * config.latent_dim
    codes = config.latent_dim * config.codebook_size
    return _trunk_flops(config.encoder, cells) + 2 * cells * (patch + latent + codes)


def decode_flops(config: TokenizerConfig) -> float:
    """Floating-point operations to decode one image's tokens; a diffusion decoder takes its configured steps."""
    cells = _cells(config)
    if config.diffusion is not None:
        return config.diffusion.steps * _unet_flops(config)
    outputs = len(config.class_names) if config.categorical else config.channels
    patch = config.decoder.width * outputs * config.patch_size**2
    latent = config.decoder.width * config.latent_dim
    smoothing = _convolution_flops(config.decoder.out_conv, outputs, config) if not config.vector else 0
    return _trunk_flops(config.decoder, cells) + 2 * cells * (patch + latent) + smoothing


@functools.cache
def training_flops(config: TokenizerConfig, image_size: int | None = None) -> float:
    """Floating-point operations that a training step needs per image, of ``image_size`` pixels if it is not the
    configured one: three forward passes of what learns, one of a frozen encoder; a diffusion decoder is called once."""
    if image_size is not None and not config.vector:
        config = dataclasses.replace(config, image_size=image_size, resolutions=())
    decoder = decode_flops(config) / (1 if config.diffusion is None else config.diffusion.steps)
    return (1 if config.frozen_encoder else 3) * encode_flops(config) + 3 * decoder


def _convolution_flops(layers: int, channels: int, config: TokenizerConfig) -> float:
    """Of the convolutions after the patches of a ViT decoder: 7 × 7 per channel, then two matrices per pixel."""
    return 2 * layers * config.image_size**2 * channels * (7**2 + 8 * channels)


def _cells(config: TokenizerConfig) -> int:
    """How many vectors the networks map: one per patch of an image; one for a vector, whatever its number of tokens."""
    return (config.image_size // config.patch_size) ** 2


def _unet_flops(config: TokenizerConfig) -> float:
    """One call of the UNet, counted on the meta device."""
    h, w = config.grid
    image = config.channels, h * config.patch_size, w * config.patch_size
    with torch.device("meta"):
        scale = config.patch_size // config.decoder.patch_size
        network = PatchedUNet(config.decoder, config.channels, config.latent_dim, scale)
        inputs = torch.empty(1, *image), torch.empty(1, dtype=torch.int64), torch.empty(1, config.latent_dim, h, w)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def _trunk_flops(config: ViTConfig | MLPConfig, tokens: int) -> float:
    """ViT: projections, feed-forward layers and attention of all pairs of tokens, in the blocks and the final MLP.
    MLP: its blocks, and the layer between them and the codes."""
    square = config.width**2
    if isinstance(config, MLPConfig):
        return 2 * tokens * square * (2 * config.expansion * config.depth + 1)
    mlp = 2 * config.width * int(config.width * config.mlp_ratio)
    pairs = 2 * config.width * tokens
    return 2 * tokens * (config.depth * (4 * square + mlp + pairs) + mlp)
