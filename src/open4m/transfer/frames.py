"""Where the picture lies in the square that a backbone reads, so that predictions can be put back onto the picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Placed:
    """The picture of ``size`` (H, W) pixels, scaled and moved: place (y, x) of it lies at (y, x) · scale + offset of the
    square. Places are continuous: the first pixel covers 0 to 1. ``side``: of the square, in pixels."""

    size: tuple[int, int]
    scale: tuple[float, float]  # (vertical, horizontal)
    offset: tuple[float, float]  # (vertical, horizontal), pixels of the square
    side: int
