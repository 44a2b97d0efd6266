"""The simple feature pyramid (ViTDet): maps of several strides, all made from the last map of a Vision Transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.ranges import Positive, Size, check_ranges
from open4m.transfer.detection.layers import LayerNorm2d, convolution, initialize
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """``channels``: of every level. ``strides``: pixels per cell of the levels, each twice the one before. A level has
    the power of two nearest to its stride: with patches of 14 pixels, 4 becomes 3.5."""

    channels: Size = 256
    strides: tuple[Positive, ...] = (4.0, 8.0, 16.0, 32.0)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.strides or any(b != 2 * a for a, b in zip(self.strides, self.strides[1:], strict=False)):
            raise Open4MError(f"strides: expected each to be twice the one before, as 4, 8, 16, got {self.strides}")


class Pyramid(nn.Module):
    """``strides``: those of the levels, with another one on top, of every second cell of the one before."""

    def __init__(self, config: PyramidConfig, width: int, patch: int):
        super().__init__()
        powers = [round(math.log2(patch / stride)) for stride in config.strides]
        self.levels = nn.ModuleList(_level(power, width, config.channels) for power in powers)
        strides = [patch / 2**power for power in powers]
        self.strides = (*strides, 2 * strides[-1])

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        initialize(self, generator)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (B, channels, ., .) of each stride, of a map (B, D, h, w). What is halved is rounded up."""
        maps = [level(x) for level in self.levels]
        return [*maps, F.max_pool2d(maps[-1], 1, stride=2)]


def _level(power: int, width: int, channels: int) -> nn.Sequential:
    """From one cell to 2^power in either direction; channels are halved wherever cells are."""
    layers: list[nn.Module] = []
    for step in range(power):
        halved = max(1, width // 2)
        layers += [LayerNorm2d(width), nn.GELU()] if step else []
        layers.append(nn.ConvTranspose2d(width, halved, 2, stride=2))
        width = halved
    layers += [nn.MaxPool2d(2, ceil_mode=True) for _ in range(-power)]
    return nn.Sequential(*layers, convolution(width, channels, 1), convolution(channels, channels, 3))
