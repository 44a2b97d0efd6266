"""Decoding schemes of grids (paper A.3): in which order cells are decoded.

A scheme is one function of random numbers (B, L), one per cell, drawn once per generation, and of the grid's (h, w). It
gives numbers (B, L): cells with the smallest ones are queried first, and only as many as are kept. A scheme that gives
None queries all unknown cells in every pass and keeps the most confident answers. Sequences are decoded left to right
by the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Scheme = Callable[[Tensor, tuple[int, int]], Tensor | None]


def maskgit(uniform: Tensor, grid: tuple[int, int]) -> None:
    """MaskGIT: the most confident answers first."""
    return None


def roar(uniform: Tensor, grid: tuple[int, int]) -> Tensor:
    """Random order autoregressive."""
    return uniform


def halton(uniform: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells far from one another first, in the order in which a Halton sequence comes to them
    (https://arxiv.org/abs/2503.17076)."""
    return halton_order(*grid).to(uniform).expand_as(uniform)


SCHEMES: dict[str, Scheme | None] = {"maskgit": maskgit, "roar": roar, "halton": halton, "left_to_right": None}
"""All schemes by name; that of sequences is None, since they have one order."""


@cache
@torch.inference_mode(False)
def halton_order(h: int, w: int) -> Tensor:
    """When each cell of an h × w grid is reached (h·w,) int64: the rank of its first point, bases 2 and 3."""
    order: dict[int, None] = {}
    n = 0
    while len(order) < h * w:
        n += 1
        order.setdefault(int(radical_inverse(n, 2) * h) * w + int(radical_inverse(n, 3) * w))
    rank = torch.empty(h * w, dtype=torch.int64)
    rank[torch.tensor(list(order))] = torch.arange(h * w)
    return rank


def radical_inverse(n: int, base: int) -> float:
    """The digits of n mirrored at the point."""
    value, scale = 0.0, 1.0
    while n:
        n, digit = divmod(n, base)
        scale /= base
        value += digit * scale
    return value


def first(order: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B,) cells of smallest ``order`` (B, L) among those that are True: bool (B, L)."""
    cells = order.masked_fill(~among, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(cells).scatter_(
        1, cells, torch.arange(order.shape[1], device=order.device).expand_as(cells)
    )
    return among & (rank < count[:, None])
