"""Masks of detected objects (Mask R-CNN): a small square of probabilities per box, and its place in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.datasets.labelled import run_lengths
from open4m.ranges import Layers, Share, Size, check_ranges
from open4m.transfer.detection.cascade import Matched
from open4m.transfer.detection.layers import convolutions, initialize, start_small
from open4m.transfer.detection.matching import OBJECT, Targets
from open4m.transfer.detection.roi_align import crop

MOST_PIXELS = 1 << 25
"""Of the masks that are cropped at once."""


@dataclass(frozen=True, kw_only=True)
class MasksConfig:
    """``convolutions``, ``channels``: of its layers, on ``bins`` × ``bins`` features of a box; a mask has twice as many
    cells. ``threshold``: the probability from which on a pixel is part of an object."""

    convolutions: Layers = 4
    channels: Size = 256
    bins: Size = 14
    threshold: Share = 0.5

    def __post_init__(self) -> None:
        check_ranges(self)


class MaskHead(nn.Module):
    """Logits of a mask per class."""

    def __init__(self, config: MasksConfig, channels: int, classes: int):
        super().__init__()
        self.config = config
        self.convolutions = convolutions(channels, config.channels, config.convolutions)
        self.up = nn.ConvTranspose2d(config.channels, config.channels, 2, stride=2)
        self.masks = nn.Conv2d(config.channels, classes, 1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        initialize(self, generator)
        start_small(self.masks, 0.001, generator)

    def forward(self, features: Tensor, classes: Tensor) -> Tensor:
        """(n, 2·bins, 2·bins): the logits of the masks of one class each, (n,), of features (n, C, bins, bins)."""
        masks = self.masks(F.relu(self.up(self.convolutions(features))))
        return masks[torch.arange(len(masks), device=masks.device), classes].float()


def loss(logits: Tensor, true: Tensor) -> Tensor:
    """The mean cross-entropy of logits (n, S, S) and masks (n, S, S); 0 if there is none."""
    return F.binary_cross_entropy_with_logits(logits, true, reduction="sum") / max(true.numel(), 1)


@torch.no_grad()
def true_masks(found: Matched, targets: Targets, side: int) -> Tensor:
    """(n, side, side) float32, 0 and 1: the true masks of boxes that are matched with objects, in these boxes.

    A cell is part of an object if half of it or more is.
    """
    assert targets.masks is not None
    places = targets.first[found.images] + found.objects
    chunk = max(1, MOST_PIXELS // max(1, targets.masks[:1].numel()))
    cropped = [
        crop(targets.masks[places[i : i + chunk]], found.boxes[i : i + chunk], side)
        for i in range(0, len(places), chunk)
    ]
    return (torch.cat(cropped) >= 0.5).float() if cropped else found.boxes.new_zeros(0, side, side)


def objects(matched: Matched) -> Matched:
    """Those of the boxes that have to find an object."""
    keep = matched.labels == OBJECT
    return Matched(matched.boxes[keep], matched.images[keep], matched.objects[keep], matched.labels[keep])


def pasted(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask (S, S) in its box (4,) of a picture of ``size`` (H, W): the values of the pixels (h, w) float32 around the
    box, and the row and column of the first of these. All others are 0.

    Cells are interpolated to the middles of pixels; beyond the mask there is 0.
    """
    (top, rows), (left, columns) = (
        _interpolation(box[axis], box[axis + 2], len(mask), pixels) for axis, pixels in ((1, size[0]), (0, size[1]))
    )
    return rows @ mask.astype(np.float32) @ columns.T, (top, left)


def _interpolation(low: float, high: float, cells: int, pixels: int) -> tuple[int, np.ndarray]:
    """The first of the pixels that a mask between two places reaches, and the weights (n, cells) of its cells."""
    cell = max(float(high) - float(low), 1e-6) / cells
    first = int(np.clip(np.floor(low - cell), 0, pixels))
    last = int(np.clip(np.ceil(high + cell), 0, pixels))
    places = (np.arange(first, last) + 0.5 - float(low)) / cell - 0.5
    return first, np.maximum(0, 1 - np.abs(places[:, None] - np.arange(cells))).astype(np.float32)


def runs(masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float) -> list[dict[str, Any]]:
    """The run lengths of masks (n, S, S), probabilities, in their boxes (n, 4) of a picture of ``size``."""
    found: list[dict[str, Any]] = []
    for mask, box in zip(masks, boxes, strict=True):
        values, corner = pasted(mask, box, size)
        found.append(run_lengths.encode(values >= threshold, size, corner))
    return found
