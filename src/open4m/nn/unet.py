"""The patched UNet of a diffusion decoder (paper B.3): it predicts a clean image from noised patches and codes.

    noised (B, C, H, W) ──4×4 patches──▶ (B, 16C, H/4, W/4) ─┐
    codes (B, D, h, w) ──upsampled to the patches' grid──────┴▶ UNet ──▶ (B, 16C, H/4, W/4) ──▶ clean (B, C, H, W)

Parameter names are those of guided-diffusion UNets (Dhariwal and Nichol, 2021), in which the authors' are published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from open4m.ranges import Layers, Length, Size, check_ranges
from open4m.types import Open4MError

GROUPS = 32  # of every GroupNorm

MAX_LEVELS = 16
"""Each level halves the sides: an image of 32,768 pixels has no more."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The size of a UNet; the defaults are the paper's (four levels, attention at the two smallest)."""

    channels: Size = 256  # of the first level
    multipliers: tuple[Layers, ...] = (1, 2, 2, 2)  # of the channels, one per level; each level halves the sides
    blocks: Layers = 3  # residual blocks per level; one more per level on the way up
    attention: Length = 2  # so many of the smallest levels have self-attention after each residual block
    patch_size: Size = 4  # pixels
    code_upsampling: Literal["nearest", "learned"] = "nearest"  # from tokens to patches; a small UNet needs "learned"

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.channels % GROUPS:
            raise Open4MError(f"UNetConfig: channels {self.channels} is not a multiple of {GROUPS}")
        if not 1 <= len(self.multipliers) <= MAX_LEVELS:
            raise Open4MError(f"UNetConfig: multipliers has 1 to {MAX_LEVELS} levels, got {len(self.multipliers)}")
        if self.attention > len(self.multipliers):
            raise Open4MError(
                f"UNetConfig: attention is from 0 to {len(self.multipliers)} levels, got {self.attention}"
            )


def timestep_embedding(timesteps: torch.Tensor, width: int) -> torch.Tensor:
    """Embed timesteps (B,) as (B, width): cosines, then sines, at frequencies 10000^(-i / (width / 2))."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
    phase = timesteps[:, None].float() * frequencies
    return torch.cat([phase.cos(), phase.sin()], 1)


class ResBlock(nn.Module):
    """A residual block: the timestep's embedding is added between two convolutions."""

    def __init__(self, channels: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, outputs, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, outputs))
        # The identity stands in for a dropout of p=0, so that layer indices match released checkpoints.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, outputs), nn.SiLU(), nn.Identity(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(channels, outputs, 1) if outputs != channels else nn.Identity()

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        hidden = self.in_layers(x) + self.emb_layers(embedding)[..., None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class AttentionBlock(nn.Module):
    """Residual self-attention over all cells, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x).flatten(2)).transpose(1, 2).unsqueeze(1).chunk(3, -1)  # each (B, 1, h·w, C)
        attended = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x + self.proj_out(attended).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Halves the sides, rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Doubles the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Stem(nn.Conv2d):
    """The first convolution, which ignores the timestep's embedding that all layers of a stage get."""

    def forward(self, x: torch.Tensor, _embedding: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Stage(nn.ModuleList):
    """Layers one after another."""

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x, embedding)
        return x


class PatchedUNet(nn.Module):
    """The network. Sides may be any multiples of the patch size: where halving rounded up, upsampling crops.

    ``condition``: channels of a code. ``scale``: patches per side of a token, for learned upsampling.
    """

    def __init__(self, config: UNetConfig, channels: int, condition: int, scale: int = 1) -> None:
        super().__init__()
        self.config, self.scale = config, scale
        learned = config.code_upsampling == "learned"
        self.code_proj = nn.Conv2d(condition, condition * scale**2, 1) if learned else None
        patch = channels * config.patch_size**2
        embedding = 4 * config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        widths = [m * config.channels for m in config.multipliers]
        last = len(widths) - 1

        def residual(level: int, inputs: int) -> list[nn.Module]:
            attends = level > last - config.attention
            return [ResBlock(inputs, widths[level], embedding), *([AttentionBlock(widths[level])] if attends else [])]

        width = widths[0]
        self.input_blocks = nn.ModuleList([Stage([Stem(patch + condition, width, 3, padding=1)])])
        skipped = [width]
        for level, outputs in enumerate(widths):
            for _ in range(config.blocks):
                self.input_blocks.append(Stage(residual(level, width)))
                width = outputs
                skipped.append(width)
            if level < last:
                self.input_blocks.append(Stage([Downsample(width)]))
                skipped.append(width)
        self.middle_block = Stage(
            [ResBlock(width, width, embedding), AttentionBlock(width), ResBlock(width, width, embedding)]
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for block in range(config.blocks + 1):
                layers = residual(level, width + skipped.pop())
                width = widths[level]
                if level and block == config.blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(Stage(layers))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, patch, 3, padding=1))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw the weights; the last layers of residual branches and of the network start at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
                module.bias.zero_()
        for module in self.modules():
            if isinstance(module, ResBlock | AttentionBlock):
                (module.out_layers[-1] if isinstance(module, ResBlock) else module.proj_out).weight.zero_()
        self.out[-1].weight.zero_()
        if self.code_proj is not None:  # codes have unit length: projected so, they start at the scale of the noise
            nn.init.normal_(self.code_proj.weight, generator=generator)

    def forward(self, noised: torch.Tensor, timesteps: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Predict clean images (B, C, H, W) from noised ones, their timesteps (B,) int64, and codes (B, D, h, w)."""
        patch = self.config.patch_size
        x = F.pixel_unshuffle(noised, patch)  # (B, C·P·P, H/P, W/P)
        if self.code_proj is None:
            codes = F.interpolate(codes.to(x.dtype), x.shape[2:], mode="nearest")
        else:
            codes = F.pixel_shuffle(self.code_proj(codes.to(x.dtype)), self.scale)
        x = torch.cat([x, codes], 1)
        if not torch.is_grad_enabled():
            x = x.contiguous(memory_format=torch.channels_last)  # decoding is up to 1/6 faster, training is not
        embedding = self.time_embed(timestep_embedding(timesteps, self.config.channels).to(x.dtype))
        kept = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            skip = kept.pop()
            x = stage(torch.cat([x[..., : skip.shape[2], : skip.shape[3]], skip], 1), embedding)
        return F.pixel_shuffle(self.out(x), patch)
