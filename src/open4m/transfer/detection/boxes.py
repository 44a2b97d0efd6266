"""Boxes (..., 4) of x_min, y_min, x_max, y_max in pixels: areas, overlaps, and how a network says one by another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LARGEST_LOG = math.log(1000 / 16)
"""The most that one step of a network may enlarge a side, as a logarithm, so that nothing overflows."""

Weights = tuple[float, float, float, float]


def area(boxes: Tensor) -> Tensor:
    """(...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def is_box(boxes: Tensor) -> Tensor:
    """(...) bool: whether boxes (..., 4) are finite and have a width and a height."""
    return boxes.isfinite().all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """(..., N, M): the area that boxes (..., N, 4) and (..., M, 4) share."""
    x0, y0, x1, y1 = first[..., :, None, :].unbind(-1)
    u0, v0, u1, v1 = second[..., None, :, :].unbind(-1)
    width = (torch.minimum(x1, u1) - torch.maximum(x0, u0)).clamp_(min=0)
    return width.mul_((torch.minimum(y1, v1) - torch.maximum(y0, v0)).clamp_(min=0))


def iou(first: Tensor, second: Tensor) -> Tensor:
    """(..., N, M): intersection over union of boxes (..., N, 4) and (..., M, 4); 0 where neither has an area."""
    shared = intersection(first, second)
    union = (area(first)[..., :, None] + area(second)[..., None, :]).sub_(shared)
    return torch.where(union > 0, shared / union, 0.0)


def covered(first: Tensor, second: Tensor) -> Tensor:
    """(..., N, M): the share of each of boxes (..., N, 4) that lies in each of (..., M, 4); 0 if it has no area."""
    own = area(first)[..., :, None]
    return torch.where(own > 0, intersection(first, second) / own, 0.0)


def encode(boxes: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """(..., 4): ``boxes`` as seen from ``anchors``: the way of the middles, in widths and heights, and the logarithms
    of the ratios of sides, times ``weights`` (R-CNN's parameters)."""
    middle, size = _middle_and_size(anchors)
    target, target_size = _middle_and_size(boxes)
    deltas = torch.cat([(target - middle) / size, (target_size / size).log()], -1)
    return deltas * deltas.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Weights) -> Tensor:
    """(..., 4): the boxes that ``deltas`` name, as :func:`encode` gives them, as seen from ``anchors``."""
    middle, size = _middle_and_size(anchors)
    deltas = deltas / deltas.new_tensor(weights)
    middle = middle + deltas[..., :2] * size
    half = deltas[..., 2:].clamp(max=LARGEST_LOG).exp() * size / 2
    return torch.cat([middle - half, middle + half], -1)


def clip(boxes: Tensor, regions: Tensor) -> Tensor:
    """The parts of boxes (..., 4) within regions (..., 4)."""
    low, high = regions[..., :2], regions[..., 2:]
    return torch.cat([boxes[..., side : side + 2].clamp(low, high) for side in (0, 2)], -1)


def _middle_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
