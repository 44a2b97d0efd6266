"""The MLP of tokenizers whose values are vectors: global features of an image, human poses.

The residual inverted-bottleneck MLP of "Scaling MLPs: A Tale of Inductive Bias" (Bachmann et al. 2023,
https://arxiv.org/abs/2306.13575). Parameter names are those of the authors' public tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from open4m.ranges import Layers, Size, check_ranges


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """The size of one MLP; ``B_6-Wi_1024`` in that paper's notation has depth 6 and width 1024."""

    width: Size = 1024
    depth: Layers = 6
    expansion: Layers = 4  # width of a block's hidden layer, relative to ``width``

    def __post_init__(self) -> None:
        check_ranges(self)


class BottleneckBlock(nn.Module):
    """Two linear layers around a GELU, wide in the middle."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class BottleneckMLP(nn.Module):
    """(B, inputs) to (B, outputs), or (B, inputs, h, w) to (B, outputs, h, w), independently for each cell."""

    def __init__(self, config: MLPConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(inputs, config.width)
        self.layernorms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(config.depth))
        self.blocks = nn.ModuleList(
            BottleneckBlock(config.width, config.expansion * config.width) for _ in range(config.depth)
        )
        self.linear_out = nn.Linear(config.width, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear_in(x.movedim(1, -1))  # (B, ..., width)
        for norm, block in zip(self.layernorms, self.blocks, strict=True):
            x = x + block(norm(x))
        return self.linear_out(x).movedim(-1, 1)
