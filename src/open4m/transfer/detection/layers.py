"""Convolutions with a norm over channels, as ViTDet's pyramid and heads have them, and how layers start."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.nn.attention import EPS


class LayerNorm2d(nn.Module):
    """LayerNorm over the channels of each place of maps (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W)."""
        places = maps.permute(0, 2, 3, 1)
        return F.layer_norm(places, self.weight.shape, self.weight, self.bias, EPS).permute(0, 3, 1, 2)


def convolution(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """A convolution that keeps the size of maps, and a norm, which stands in for its bias."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False), LayerNorm2d(outputs))


def convolutions(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """So many 3×3 convolutions, each with a norm and a ReLU."""
    layers: list[nn.Module] = []
    for place in range(depth):
        layers += [convolution(inputs if place == 0 else outputs, outputs, 3), nn.ReLU()]
    return nn.Sequential(*layers)


@torch.no_grad()
def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights within a module so that ReLUs keep the scale of what they are given (He et al., 2015). Biases
    are 0, norms do nothing."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1, generator=generator)
        elif isinstance(layer, LayerNorm2d):
            layer.weight.fill_(1)
        else:
            continue
        if layer.bias is not None:
            layer.bias.zero_()


@torch.no_grad()
def start_small(layer: nn.Conv2d | nn.Linear, deviation: float, generator: torch.Generator) -> None:
    """Draw the weights of a last layer, so that the first outputs are near 0, whatever is given."""
    nn.init.normal_(layer.weight, std=deviation, generator=generator)
    layer.bias.zero_()
