"""Rotary positions on grids: queries and keys are turned by angles that grow with row and column, so that attention
depends on where two tokens lie relative to one another (Su et al., 2021, https://arxiv.org/abs/2104.09864).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from open4m.nn.attention import Attend
from open4m.nn.positions import CPU


def angles_2d(h: int, w: int, width: int, finest: int) -> Tensor:
    """The angles (h·w, width) of the cells of a grid in raster order: half of them grow with the row, half with the
    column.

    Places count from -1 to 1 over the image, whatever the grid, so that places of different grids fit each other.
    Frequencies go from a quarter turn per half image to a quarter turn per cell of a grid of ``finest`` cells a side.
    """
    count = width // 2
    frequencies = math.pi / 2 * torch.logspace(0, 1, count, base=max(1.0, finest / 2), dtype=torch.float64, device=CPU)
    rows, columns = torch.meshgrid(_centers(h), _centers(w), indexing="ij")
    return torch.cat([axis.reshape(-1, 1) * frequencies for axis in (rows, columns)], 1).float()


def _centers(cells: int) -> Tensor:
    """The centers of cells along a side from -1 to 1."""
    return (2 * torch.arange(cells, dtype=torch.float64, device=CPU) + 1) / cells - 1


def rotate(x: Tensor, angles: Tensor, heads: int) -> Tensor:
    """x (..., D) with channel i and channel i + half of every head turned by angle i of ``angles`` (..., D/heads/2)."""
    return _turned(x, angles.cos(), angles.sin(), heads)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    first, second = x.unflatten(-1, (heads, 2, -1)).unbind(-2)
    cos, sin = cos[..., None, :].to(x.dtype), sin[..., None, :].to(x.dtype)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -2).flatten(-3)


def rotated(attend: Attend, queries: Tensor | None, keys: Tensor | None) -> Attend:
    """The pattern ``attend`` on queries and keys that are turned by these angles; None: they are not turned."""
    if queries is None and keys is None:
        return attend
    turns = [None if angles is None else (angles.cos(), angles.sin()) for angles in (queries, keys)]  # for all blocks

    def pattern(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        q, k = (x if turn is None else _turned(x, *turn, heads) for x, turn in zip((q, k), turns, strict=True))
        return attend(q, k, v, heads)

    return pattern
