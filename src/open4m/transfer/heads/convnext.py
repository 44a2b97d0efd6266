"""ConvNeXt layers on a Vision Transformer's map, for dense predictions (paper D.4, D.5; MultiMAE, [5])."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.nn.attention import EPS
from open4m.ranges import Layers, Size


class ChannelNorm(nn.LayerNorm):
    """A LayerNorm over the channels of a map (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution of 7 × 7, then two linear layers per place (Liu et al., 2022, [72]).

    ``scale``: of the residual branch's channels at the start.
    """

    def __init__(self, channels: int, scale: float = 1e-2):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.depthwise(x).movedim(1, -1))
        return x + (self.scale * self.down(F.gelu(self.up(branch)))).movedim(-1, 1)


class ConvNeXtLayers(nn.Module):
    """From a backbone's map (B, D, h, w) to ``out`` channels (B, out, s·h, s·w), with s = ``finer``.

    A linear layer turns each token into s × s places of ``channels`` channels; ``depth`` blocks and a layer of
    1 × 1 follow.
    """

    def __init__(self, width: int, out: int, depth: Layers, channels: Size, finer: Size):
        super().__init__()
        self.finer = finer
        self.proj = nn.Linear(width, channels * finer**2)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels) for _ in range(depth))
        self.out = nn.Conv2d(channels, out, 1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights, which depend on the generator alone: what a layer says varies as what it reads, so
        that narrow heads learn as soon as wide ones."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5, generator=generator)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        s = self.finer
        places = self.proj(x.movedim(1, -1)).view(b, h, w, -1, s, s)  # (B, h, w, C, s, s)
        x = places.permute(0, 3, 1, 4, 2, 5).reshape(b, -1, s * h, s * w)
        for block in self.blocks:
            x = block(x)
        return self.out(x)
