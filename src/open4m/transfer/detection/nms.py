"""Non-maximum suppression: of boxes that overlap, the one with the highest score is kept."""

from __future__ import annotations

import torch
from torch import Tensor

from open4m.transfer.detection.boxes import iou

BLOCK = 512
"""Boxes that are compared with each other at once. More need fewer steps, and memory with the square."""


def nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, most: int) -> Tensor:
    """(B, most) int64: for each of B images the places of the boxes that are kept, the highest score first, -1 for
    none.

    ``boxes``: (B, N, 4). ``scores``: (B, N), -inf where there is no box. ``groups``: (B, N); boxes of different groups
    (classes, levels) leave each other alone. A box goes if its overlap (IoU) with a kept one of its group is above
    ``threshold``. Of equal scores the earlier place comes first.

    Kept boxes are found in blocks of falling scores, so that those beyond the first ``most`` cost nothing.
    """
    count, total = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes, groups = boxes.gather(1, order[..., None].expand(-1, -1, 4)), groups.gather(1, order)
    present = scores.gather(1, order) > -torch.inf
    places = order.new_full((count, most), -1)
    kept = order.new_zeros(count, most)  # places in ``order``
    found = order.new_zeros(count)
    for start in range(0, total, BLOCK):
        alive = present[:, start : start + BLOCK] & (found < most)[:, None]
        if not alive.any():
            break
        own, own_groups = boxes[:, start : start + BLOCK], groups[:, start : start + BLOCK]
        if longest := int(found.max()):
            earlier = kept[:, :longest]
            pairs = iou(boxes.gather(1, earlier[..., None].expand(-1, -1, 4)), own) > threshold
            pairs &= groups.gather(1, earlier)[..., None] == own_groups[:, None]
            pairs &= (torch.arange(longest, device=found.device) < found[:, None])[..., None]
            alive = alive & ~pairs.any(1)
        pairs = (iou(own, own) > threshold) & (own_groups[..., None] == own_groups[:, None])
        keep = _greedy(pairs.triu_(1), alive)
        rank = found[:, None] + keep.cumsum(1) - 1
        row, column = (keep & (rank < most)).nonzero(as_tuple=True)
        kept[row, rank[row, column]] = start + column
        places[row, rank[row, column]] = order[row, start + column]
        found = (found + keep.sum(1)).clamp(max=most)
    return places


def _greedy(pairs: Tensor, alive: Tensor) -> Tensor:
    """(B, n) bool: the boxes that are left when each box in turn, if it is left itself, removes those it is paired
    with.

    ``pairs``: (B, n, n) bool, above the diagonal: row removes column. Each round is right about one more place of the
    order at least, mostly about many, and a state that a round does not change is right everywhere: whether a box is
    left depends on earlier ones alone.
    """
    keep = alive
    while True:
        left = alive & ~(pairs & keep[..., None]).any(1)
        if torch.equal(left, keep):
            return keep
        keep = left
