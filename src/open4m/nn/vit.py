"""The Vision Transformers around the codebook: a ViT encoder and a ViT decoder (paper B.3, Table 3).

Pre-norm blocks with biases and GELU, fixed 2-D sine-cosine positions, and after the last block one more residual
MLP with a tanh, which bounds what it adds to the vectors that are quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from open4m.config import LATER
from open4m.nn.attention import EPS, attend
from open4m.nn.blocks import EncoderBlock, feed_forward, norm
from open4m.nn.config import BlockConfig, MLPRatio
from open4m.nn.positions import resized_2d, sincos_2d
from open4m.ranges import Layers, Range, Size, check_ranges
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The size of one Transformer; ViT-B is width 768, depth 12, heads 12.

    ``position_grid``: the side of the grid whose positions are resized to the grid at hand, as the authors' tokenizers
    have them; None: those of the grid at hand. ``out_conv``: convolutions after the patches of a decoder, which smooth
    the edges between them.
    """

    width: Size = 192
    depth: Layers = 4
    heads: Layers = 3
    mlp_ratio: MLPRatio = 4.0
    post_mlp: bool = True  # whether one more residual MLP with a tanh follows the last block
    position_grid: Size | None = field(default=None, metadata=LATER)
    out_conv: Annotated[int, Range(0, 1024)] = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.width % 4:
            raise Open4MError(f"ViTConfig: width {self.width} is not a multiple of 4, as 2-D positions need")
        if self.width % self.heads:
            raise Open4MError(f"ViTConfig: width {self.width} is not a multiple of heads {self.heads}")
        _ = self.block  # which has checks of its own

    @property
    def block(self) -> BlockConfig:
        """The configuration of the blocks."""
        biases = dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias"), True)
        return BlockConfig(dim=self.width, heads=self.heads, mlp_ratio=self.mlp_ratio, activation="gelu", **biases)


class Trunk(nn.Module):
    """The part that encoder and decoder share: positions, blocks, and the final residual MLP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.position_grid = config.position_grid
        self.blocks = nn.ModuleList(EncoderBlock(config.block) for _ in range(config.depth))
        if config.post_mlp:
            self.norm_mlp = norm(config.block)
        self.post_mlp = feed_forward(config.block, "tanh") if config.post_mlp else None

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) to (B, h·w, width)."""
        _, width, h, w = x.shape
        x = x.flatten(2).transpose(1, 2).contiguous()  # (B, h·w, width); every norm would copy it otherwise
        stored = self.position_grid
        x = x + (resized_2d(h, w, width, stored, x.device) if stored else sincos_2d(h, w, width, x.device))
        for block in self.blocks:
            x = block(x, attend)
        return x if self.post_mlp is None else x + self.post_mlp(self.norm_mlp(x))


class ViTEncoder(Trunk):
    """(B, C, H, W) to (B, width, H / patch, W / patch). Feature maps have patch size 1."""

    def __init__(self, config: ViTConfig, channels: int, patch_size: int) -> None:
        super().__init__(config)
        self.proj = nn.Conv2d(channels, config.width, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x)
        return self.transform(x).transpose(1, 2).unflatten(2, x.shape[2:])


class ConvBlock(nn.Module):
    """A ConvNeXt block (https://arxiv.org/abs/2201.03545) of x (B, C, H, W), added to x. Parameter names are those of
    the authors' public tokenizers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.norm(self.dwconv(x).movedim(1, -1))  # (B, H, W, C)
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(mixed)))).movedim(-1, 1)


class ViTDecoder(Trunk):
    """(B, width, h, w) to (B, C, h · patch, w · patch)."""

    def __init__(self, config: ViTConfig, channels: int, patch_size: int) -> None:
        super().__init__(config)
        self.patch_size = patch_size
        self.out_proj = nn.Linear(config.width, channels * patch_size**2)
        self.out_conv = nn.Sequential(*(ConvBlock(channels) for _ in range(config.out_conv)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[2:]
        patches = self.out_proj(self.transform(x)).transpose(1, 2).unflatten(2, grid)  # (B, C·P·P, h, w)
        return self.out_conv(F.pixel_shuffle(patches, self.patch_size))
