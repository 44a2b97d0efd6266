"""Which boxes have to find which objects, and which of them are learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from open4m.datasets.labelled.base import Instances
from open4m.transfer.detection.boxes import covered, iou, is_box

OBJECT, BACKGROUND, IGNORED = 1, 0, -1
"""What a box is to be taken for; those ignored are learned from in no way."""

CROWDED = 0.5
"""The share of a box in a crowd from which on it is no background."""


@dataclass(frozen=True)
class Targets:
    """The objects of B samples, padded to M ≥ 1 per sample, in an order that depends on them alone.

    ``boxes``: (B, M, 4). ``classes``: (B, M) int64. ``valid``: (B, M) bool. ``crowds``: (B, K, 4), boxes of crowds,
    without an area where there is none. ``masks``: (objects, H, W) bool of all samples, None if there are none.
    ``first``: (B,), the place of a sample's first mask.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    crowds: Tensor
    masks: Tensor | None
    first: Tensor

    @classmethod
    def of(cls, instances: Sequence[Instances], device: torch.device, with_masks: bool) -> Targets:
        """Objects without a width or a height, which augmentation may leave, are left out."""
        objects, crowds = [], []
        for each in instances:
            order, is_crowd = _order(each), np.asarray(each.crowd, dtype=bool)
            objects.append(each.chosen(order[~is_crowd[order]]))
            crowds.append(_boxes(each)[order[is_crowd[order]]])
        boxes, valid = _padded(list(map(_boxes, objects)))
        classes, _ = _padded([np.asarray(each.classes, np.int64) for each in objects])
        around, _ = _padded(crowds)
        counts = valid.sum(1)
        masks = None
        if with_masks:
            given = [torch.as_tensor(each.masks) for each in objects if len(each)]
            masks = torch.cat(given).to(device).bool() if given else torch.zeros(0, 1, 1, dtype=torch.bool).to(device)
        found = (each.to(device) for each in (boxes, classes, valid, around, counts.cumsum(0) - counts))
        boxes, classes, valid, around, first = found
        return cls(boxes, classes, valid, around, masks, first)

    def __getitem__(self, rows: slice | Tensor) -> Targets:
        """Some of the samples, or some of them several times; all masks stay."""
        kept = {f.name: getattr(self, f.name) for f in fields(self)}
        return Targets(**{name: value if name == "masks" else value[rows] for name, value in kept.items()})


@dataclass(frozen=True)
class Match:
    """``labels``: (B, N) int64, :data:`OBJECT`, :data:`BACKGROUND` or :data:`IGNORED`. ``objects``: (B, N) int64, the
    object of each box, of its row of the targets; one of any kind where it finds none."""

    labels: Tensor
    objects: Tensor


def match(boxes: Tensor, targets: Targets, low: float, high: float, keep_best: bool = False) -> Match:
    """Match boxes (B, N, 4), or (1, N, 4) of all samples, with the objects that they overlap most.

    A box is an object from an IoU of ``high`` on, background below ``low``, else ignored. ``keep_best``: the boxes that
    overlap an object most are objects too, however little they do. A box that lies in a crowd is no background.
    """
    overlap = iou(boxes, targets.boxes).masked_fill(~targets.valid[:, None], -1)  # (B, N, M)
    best, objects = overlap.max(2)
    labels = torch.where(best < low, BACKGROUND, torch.where(best < high, IGNORED, OBJECT))
    if keep_best:
        most = overlap.amax(1, keepdim=True)
        labels = labels.masked_fill(((overlap == most) & (most > 0)).any(2), OBJECT)
    in_crowd = (covered(boxes, targets.crowds) >= CROWDED).any(2)
    return Match(labels.masked_fill((labels == BACKGROUND) & in_crowd, IGNORED), objects)


def sample(labels: Tensor, count: int, share: float, generator: torch.Generator) -> Tensor:
    """(B, N) bool: per row at most ``count`` boxes, at most this ``share`` of them objects, drawn at random.

    What objects leave of the count goes to the background; ``labels`` (B, N) as in :class:`Match`.
    """
    noise = torch.rand(labels.shape, generator=generator, device=generator.device).to(labels.device)
    objects = _drawn(noise, labels == OBJECT, torch.full_like(labels[:, 0], int(count * share)))
    return objects | _drawn(noise, labels == BACKGROUND, count - objects.sum(1))


def _drawn(noise: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """(B, N) bool: in each row the ``counts`` (B,) candidates with the least noise; all if there are fewer."""
    noise = noise.masked_fill(~candidates, 2.0)
    most = min(int(counts.max()), noise.shape[1])
    if not most:
        return torch.zeros_like(candidates)
    least, places = noise.topk(most, largest=False)
    within = (torch.arange(most, device=counts.device) < counts[:, None]) & (least < 2)
    return torch.zeros_like(candidates).scatter_(1, places, within)


def _order(instances: Instances) -> np.ndarray:
    """Places of the objects that have an area, in order of their boxes, classes and areas."""
    boxes = _boxes(instances)
    order = np.lexsort((instances.area, instances.classes, *boxes.T))
    return order[is_box(torch.from_numpy(boxes[order])).numpy()]


def _boxes(instances: Instances) -> np.ndarray:
    return np.asarray(instances.boxes, np.float32).reshape(-1, 4)


def _padded(rows: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Arrays (n, ...) of unequal n as one tensor (B, M, ...), zeros after each, and what is valid, (B, M) bool."""
    longest = max(1, *map(len, rows))
    padded = np.zeros((len(rows), longest, *rows[0].shape[1:]), rows[0].dtype)
    valid = np.zeros((len(rows), longest), dtype=bool)
    for i, row in enumerate(rows):
        padded[i, : len(row)], valid[i, : len(row)] = row, True
    return torch.from_numpy(padded), torch.from_numpy(valid)
