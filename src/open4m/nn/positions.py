"""Fixed sine-cosine positions of sequences and grids."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CPU = torch.device("cpu")


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def sincos_2d(h: int, w: int, width: int, device: torch.device = CPU, temperature: float = 10_000.0) -> Tensor:
    """Fixed positions of an h × w grid: (h·w, width) float32, raster order.

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, at frequencies
    ``temperature``^(-k / (width / 4)). The tensor is shared: do not change it.
    """
    frequencies = temperature ** -(torch.arange(width // 4, device=device) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    phases = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]  # each (h·w, width / 4)
    return torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], dim=1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def resized_2d(h: int, w: int, width: int, stored: int, device: torch.device = CPU) -> Tensor:
    """Fixed positions of a ``stored`` × ``stored`` grid, resized to h × w: (h·w, width) float32, raster order.

    Bicubic, corners not aligned, as the authors' tokenizers of several sizes have them. Shared: do not change it.
    """
    table = sincos_2d(stored, stored, width, device).T.reshape(1, width, stored, stored)
    if (h, w) != (stored, stored):
        table = F.interpolate(table, size=(h, w), mode="bicubic", align_corners=False)
    return table.flatten(2)[0].T


def spread(positions: Tensor, deviation: float) -> Tensor:
    """Positions (n, dim) without their mean over the n places, scaled so that all entries together have a standard
    deviation of ``deviation``: what all places share tells none of them apart."""
    centered = positions - positions.mean(0)
    return centered * (deviation / centered.std(correction=0).clamp(min=1e-6))


def sincos_1d(positions: Tensor, dim: int) -> Tensor:
    """Sine-cosine embedding (n, dim) of positions (n,): dim/2 sines, then dim/2 cosines, wavelengths 2π to 10000·2π."""
    frequency = 10000.0 ** -(torch.arange(dim // 2, dtype=torch.float64, device=positions.device) / (dim / 2))
    angle = positions.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).float()
