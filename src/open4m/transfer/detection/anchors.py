"""Anchors: boxes of a few shapes around every cell of every map, which proposals are said by (Faster R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def anchors(
    grid: tuple[int, int], stride: float, side: float, aspects: Sequence[float], offset: float, device: torch.device
) -> Tensor:
    """(h·w·aspects, 4): the anchors of a map of ``grid`` (h, w) cells, in order of row, column and aspect.

    Each has the area of a square of ``side`` pixels and one of the ``aspects``, height by width. ``offset``: where in
    its cell its middle is, 0 for the corner, 0.5 for the middle. ``stride``: pixels per cell.
    """
    shapes = torch.tensor([[side * a**-0.5, side * a**0.5] for a in aspects], device=device)
    shapes = torch.cat([-shapes / 2, shapes / 2], 1)
    y, x = ((torch.arange(cells, device=device) + offset) * stride for cells in grid)
    middles = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))] * 2, -1)
    return (middles[:, :, None] + shapes).flatten(0, 2)
