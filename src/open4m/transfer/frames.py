"""Where the picture lies in the square that a backbone reads, so that predictions can be put back onto the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Placed:
    """The picture of ``size`` (H, W) pixels, scaled and moved: place (y, x) of it lies at (y, x) · scale + offset of
    the square. Places are continuous: the first pixel covers 0 to 1. ``side``: of the square, in pixels.

    The horizontal scale is negative where the square shows the picture's mirror image.
    """

    size: tuple[int, int]
    scale: tuple[float, float]  # (vertical, horizontal)
    offset: tuple[float, float]  # (vertical, horizontal), pixels of the square
    side: int


LARGEST_BAND = 1 << 23
"""Scores that are put back at once, at most: those of a photo and hundreds of classes would take gigabytes."""


def restore_map(values: Tensor, placed: Placed, unseen: float | None = None, rows: slice = slice(None)) -> Tensor:
    """A map (C, h, w) of the whole square, of any resolution, put back onto the picture: (C, H, W), interpolated; or
    these ``rows`` of it.

    Only what shows the picture is mixed, and nothing of the empty part of the square. ``unseen``: the value of pixels
    of the picture that the square does not show, NaN for instance; by default they get that of the nearest one shown.
    """
    import torch  # here: configurations of augmentations need none

    for axis in (0, 1):
        cells, places = values.shape[1 + axis], _places(placed, axis)
        places = places[rows] if axis == 0 else places
        first, last = _shown_cells(placed, axis, cells)
        at = (places * (cells / placed.side) - 0.5).clamp(first, last)
        lower = at.floor()
        upper = (lower + 1).clamp(max=last)
        shape = (1, len(places), 1) if axis == 0 else (1, 1, len(places))
        weight = (at - lower).reshape(shape).to(values)
        taken = [values.index_select(1 + axis, index.long().to(values.device)) for index in (lower, upper)]
        values = torch.lerp(*taken, weight)
    if unseen is not None:
        both = _places(placed, 0)[rows], _places(placed, 1)
        shown = [(places > 0) & (places < placed.side) for places in both]
        values = values.masked_fill(~(shown[0][:, None] & shown[1][None]).to(values.device), unseen)
    return values


def restore_classes(scores: Tensor, placed: Placed) -> Tensor:
    """Which of the scores (C, h, w) of the square is the largest at each pixel of the picture, (H, W) int64."""
    import torch

    height, width = placed.size
    step = max(1, LARGEST_BAND // (width * len(scores)))
    bands = (slice(first, first + step) for first in range(0, height, step))
    return torch.cat([restore_map(scores, placed, rows=band).argmax(0) for band in bands])


def restore_boxes(boxes: Tensor, placed: Placed) -> Tensor:
    """Boxes (n, 4), x_min, y_min, x_max, y_max in pixels of the square, in pixels of the picture, clipped to it."""
    import torch

    (vertical, horizontal), (down, right) = placed.scale, placed.offset
    scale, offset = (boxes.new_tensor(pair * 2) for pair in ((horizontal, vertical), (right, down)))
    corners = ((boxes - offset) / scale).reshape(*boxes.shape[:-1], 2, 2)
    ordered = torch.cat([corners.amin(-2), corners.amax(-2)], -1)
    height, width = placed.size
    return ordered.clamp(min=boxes.new_zeros(4)).minimum(boxes.new_tensor([width, height] * 2))


def _places(placed: Placed, axis: int) -> Tensor:
    """Where the middles of the picture's rows (axis 0) or columns (axis 1) lie in the square, float64."""
    import torch

    middles = torch.arange(placed.size[axis], dtype=torch.float64) + 0.5
    return middles * placed.scale[axis] + placed.offset[axis]


def _shown_cells(placed: Placed, axis: int, cells: int) -> tuple[float, float]:
    """The first and the last row or column of a map of the square that shows a part of the picture."""
    ends = (placed.offset[axis], placed.offset[axis] + placed.size[axis] * placed.scale[axis])
    low, high = (min(max(end / placed.side, 0.0), 1.0) * cells for end in (min(ends), max(ends)))
    first = min(math.floor(low + _ROUNDING), cells - 1)
    return first, max(first, math.ceil(high - _ROUNDING) - 1)


_ROUNDING = 1e-3
"""A part of a cell that rounding makes."""
