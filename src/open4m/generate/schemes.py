"""Decoding schemes of grids (paper A.3): which cells are asked for, and which answers are kept.

A scheme is two functions of boolean or float arrays (B, L) over a grid's cells. Sequences are decoded left to
right by the engine itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Scheme(Protocol):
    """``order`` (B, L) is a random number a cell, drawn once a sample; ``count`` (B,) is how many cells to commit."""

    def query(self, unknown: Tensor, order: Tensor, count: Tensor) -> Tensor:
        """The cells to ask for: bool (B, L)."""

    def commit(self, queried: Tensor, confidence: Tensor, count: Tensor) -> Tensor:
        """The asked cells whose answers are kept: bool (B, L)."""


@dataclass(frozen=True)
class MaskGIT:
    """All unknown cells are asked for; the most confident answers are kept."""

    def query(self, unknown: Tensor, order: Tensor, count: Tensor) -> Tensor:
        return unknown

    def commit(self, queried: Tensor, confidence: Tensor, count: Tensor) -> Tensor:
        return largest(confidence, queried, count)


@dataclass(frozen=True)
class RandomOrder:
    """ROAR: only as many random cells as are kept are asked for."""

    def query(self, unknown: Tensor, order: Tensor, count: Tensor) -> Tensor:
        return largest(order, unknown, count)

    def commit(self, queried: Tensor, confidence: Tensor, count: Tensor) -> Tensor:
        return queried


SCHEMES: dict[str, Scheme | None] = {"maskgit": MaskGIT(), "roar": RandomOrder(), "left_to_right": None}
"""By name; None: for sequences, which have one order."""


def largest(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The ``count`` (B,) cells of largest score (B, L) among those that are True: bool (B, L)."""
    order = score.masked_fill(~among, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(score.shape[1]).expand_as(order))
    return among & (rank < count[:, None])
