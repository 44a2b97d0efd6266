"""RoIAlign (Mask R-CNN): the features of boxes of any size, on a grid of few bins each, differentiable.

A bin's value is the mean of samples of the map, interpolated between its cells; the middle of cell i is at i + 0.5. The
samples are a grid, so a bin's weight for a cell is the product of two numbers, one for its row and one for its column.
That makes RoIAlign a sum of rows of a table with weights, which ``embedding_bag`` computes without keeping a sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class _Axis:
    """Along one axis, the cells that samples of n boxes lie between.

    ``counts``: (n,) samples per bin. ``first``: (n,), where a box's entries begin. ``cells``, ``weights``: (entries,),
    in order of box, bin, sample and neighbor; the weights of a bin sum to 1, but for samples off the map.
    """

    counts: Tensor
    first: Tensor
    cells: Tensor
    weights: Tensor


def roi_align(maps: Tensor, boxes: Tensor, images: Tensor, bins: int, stride: float = 1.0, samples: int = 0) -> Tensor:
    """(n, C, bins, bins) of n boxes (n, 4) in pixels, each on the map of its image, (n,) int64, of maps (B, C, h, w).

    ``stride``: pixels per cell. ``samples``: per bin in either direction; 0: one per cell of a bin, rounded up.
    A sample more than one cell beyond the middles of the outermost cells is 0.
    """
    return Maps.of([maps], [stride]).pooled(boxes, images, bins, samples=samples)


@dataclass(frozen=True)
class Maps:
    """Maps of several levels as one table of cells, (ΣB·h·w, C).

    ``sizes``: (levels, 2) int64, rows and columns. ``first``: (levels,), the row of a level's first cell.
    ``strides``: pixels per cell of each level, in order of size, each twice the one before.
    """

    table: Tensor
    sizes: Tensor
    first: Tensor
    strides: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: Sequence[float]) -> Maps:
        """Of maps (B, C, h, w), the finest one first. The table is in float32 at least."""
        rows = [m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps]
        table = torch.cat(rows)
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        device = table.device
        sizes = torch.tensor([m.shape[2:] for m in maps], device=device)
        first = torch.tensor([0, *(len(r) for r in rows[:-1])], device=device).cumsum(0)
        return cls(table, sizes, first, torch.tensor(strides, dtype=torch.float32, device=device))

    def pooled(self, boxes: Tensor, images: Tensor, bins: int, levels: Tensor | int = 0, samples: int = 0) -> Tensor:
        """(n, C, bins, bins) of boxes (n, 4), each on the map of its image and its level, (n,) int64: see
        :func:`roi_align`."""
        levels = torch.zeros_like(images) + levels
        size = self.sizes[levels]
        places = boxes / self.strides[levels][:, None].to(boxes.dtype) - 0.5
        x, y, x_end, y_end = places.unbind(1)
        rows = _axis(y, y_end - y, size[:, 0], bins, samples)
        columns = _axis(x, x_end - x, size[:, 1], bins, samples)
        return self._summed(rows, columns, self.first[levels] + images * size.prod(1), size[:, 1], bins)

    def _summed(self, rows: _Axis, columns: _Axis, first: Tensor, widths: Tensor, bins: int) -> Tensor:
        tall, wide = 2 * rows.counts, 2 * columns.counts  # entries of a bin
        box, place = _ragged(bins * bins * tall * wide)
        box_wide, box_tall = wide[box], tall[box]
        place, column = place // box_wide, place % box_wide
        place, row = place // box_tall, place % box_tall
        row = row + rows.first[box] + place // bins * box_tall
        column = column + columns.first[box] + place % bins * box_wide
        cells = first[box] + rows.cells[row] * widths[box] + columns.cells[column]
        weights = (rows.weights[row] * columns.weights[column]).to(self.table.dtype)
        sizes = (tall * wide).repeat_interleave(bins * bins)
        sums = F.embedding_bag(cells, self.table, sizes.cumsum(0) - sizes, mode="sum", per_sample_weights=weights)
        return sums.view(len(first), bins, bins, self.table.shape[1]).permute(0, 3, 1, 2)


def levels_of(boxes: Tensor, strides: Sequence[float], canonical: float) -> Tensor:
    """(n,) int64: the level that each of boxes (n, 4) is pooled from, by the root of its area (FPN, equation 1).

    A box of ``canonical`` pixels is pooled at stride 16, one twice as large one level above.
    """
    middle = round(math.log2(16 / strides[0]))
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    return (middle + (size / canonical + 1e-8).log2()).floor().clamp(0, len(strides) - 1).long()


def crop(masks: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """(n, bins, bins) float32: RoIAlign of masks (n, H, W), each in its box (n, 4), in pixels.

    Boxes may be as large as the masks, and bins have hundreds of samples: products with a matrix per axis are cheaper
    here than sums of samples.
    """
    x, y, x_end, y_end = (boxes - 0.5).unbind(1)
    height, width = masks.shape[1:]
    rows = _dense(_axis(y, y_end - y, torch.full_like(y, height).long(), bins, 0), bins, height)
    columns = _dense(_axis(x, x_end - x, torch.full_like(x, width).long(), bins, 0), bins, width)
    return rows @ masks.to(rows.dtype) @ columns.mT


def _axis(start: Tensor, length: Tensor, cells: Tensor, bins: int, samples: int) -> _Axis:
    """Of boxes that begin at ``start`` and are ``length`` long, (n,) in cells, on maps of so many ``cells`` (n,)."""
    wanted = torch.full_like(length, samples) if samples else (length / bins).ceil()
    counts = wanted.clamp(min=0).long()
    box, place = _ragged(bins * counts)
    per_bin = counts[box]
    inner = ((place % per_bin).to(start.dtype) + 0.5) / per_bin
    at = start[box] + (place // per_bin + inner) * (length / bins)[box]
    last = cells[box] - 1
    on_map = (at >= -1) & (at <= last + 1)
    at = at.clamp(min=0)
    low = torch.minimum(at.floor().long(), last)
    share = torch.where(low < last, at - low, 0)
    weights = torch.stack([1 - share, share], 1) * (on_map.to(start.dtype) / per_bin)[:, None]
    neighbors = torch.stack([low, torch.minimum(low + 1, last)], 1)
    return _Axis(counts, 2 * bins * (counts.cumsum(0) - counts), neighbors.flatten(), weights.flatten())


def _dense(axis: _Axis, bins: int, cells: int) -> Tensor:
    """(n, bins, cells): the weight of each cell for each bin."""
    box, place = _ragged(2 * bins * axis.counts)
    rows = box * bins + place // (2 * axis.counts[box])
    dense = axis.weights.new_zeros(len(axis.counts) * bins * cells)
    return dense.index_add_(0, rows * cells + axis.cells, axis.weights).view(-1, bins, cells)


def _ragged(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For ``counts`` (n,): the number of its entry, and the place within it, of each of all they count, in order."""
    entry = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    return entry, torch.arange(len(entry), device=counts.device) - (counts.cumsum(0) - counts)[entry]
