"""Proposals (Faster R-CNN): where any object may be, whatever its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.ranges import Layers, Positive, Share, Size, check_ranges
from open4m.transfer.detection.anchors import anchors
from open4m.transfer.detection.boxes import clip, decode, encode, is_box
from open4m.transfer.detection.layers import initialize, start_small
from open4m.transfer.detection.matching import OBJECT, Match, Targets, match, sample
from open4m.transfer.detection.nms import nms
from open4m.types import Open4MError

PLAIN = (1.0, 1.0, 1.0, 1.0)
"""Weights of deltas."""


@dataclass(frozen=True, kw_only=True)
class ProposalsConfig:
    """``anchors``: their side on each level, the one on top included. ``aspects``: height by width. ``offset``: of
    anchors in their cells, 0 for the corners as in ViTDet, 0.5 for the middles, which matters in small pictures.

    An anchor is an object from an IoU of ``high`` on, background below ``low``. ``samples`` anchors per image are
    learned from, at most the share ``objects`` of them objects. The ``candidates`` of each level with the highest
    scores, in training and in use, are thinned by ``overlap`` (IoU); the best ``kept`` are proposed."""

    anchors: tuple[Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    aspects: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    offset: Share = 0.0
    convolutions: Layers = 2
    low: Share = 0.3
    high: Share = 0.7
    samples: Size = 256
    objects: Share = 0.5
    candidates: tuple[Size, Size] = (2000, 1000)
    kept: tuple[Size, Size] = (1000, 1000)
    overlap: Share = 0.7

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.low > self.high:
            raise Open4MError(f"proposals: expected low ≤ high, got {self.low} and {self.high}")


@dataclass(frozen=True)
class Scored:
    """``objectness``: (B, N) logits of all anchors (N, 4). ``deltas``: (B, N, 4). ``counts``: anchors per level."""

    anchors: Tensor
    objectness: Tensor
    deltas: Tensor
    counts: tuple[int, ...]


class Proposer(nn.Module):
    """Objectness and deltas of the anchors of all levels, by layers that levels share."""

    def __init__(self, config: ProposalsConfig, channels: int, strides: Sequence[float]):
        super().__init__()
        if len(config.anchors) != len(strides):
            given = f"{len(config.anchors)} sides of anchors"
            raise Open4MError(f"proposals: {given}, but {len(strides)} levels, the one on top included")
        self.config, self.strides = config, tuple(strides)
        self.layers = nn.Sequential(
            *(
                layer
                for _ in range(config.convolutions)
                for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
            )
        )
        self.objectness = nn.Conv2d(channels, len(config.aspects), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(config.aspects), 1)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        initialize(self.layers, generator)
        for last in (self.objectness, self.deltas):
            start_small(last, 0.01, generator)

    def forward(self, maps: Sequence[Tensor]) -> Scored:
        """Of maps (B, C, h, w) of all levels."""
        config, around, objectness, deltas = self.config, [], [], []
        for each, stride, side in zip(maps, self.strides, config.anchors, strict=True):
            x = self.layers(each)
            around.append(anchors(x.shape[2:], stride, side, config.aspects, config.offset, x.device))
            objectness.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).unflatten(3, (-1, 4)).flatten(1, 3))
        counts = tuple(map(len, around))
        return Scored(torch.cat(around), torch.cat(objectness, 1).float(), torch.cat(deltas, 1).float(), counts)

    def loss(self, scored: Scored, targets: Targets, generator: torch.Generator) -> dict[str, Tensor]:
        """The cross-entropy of objectness and the absolute errors of deltas, per sampled anchor of an image."""
        matched = self._match(scored.anchors, targets)
        labels = matched.labels
        chosen = sample(labels, self.config.samples, self.config.objects, generator)
        found = chosen & (labels == OBJECT)
        count = self.config.samples * len(labels)
        objectness = F.binary_cross_entropy_with_logits(
            scored.objectness[chosen], (labels[chosen] == OBJECT).float(), reduction="sum"
        )
        image, place = found.nonzero(as_tuple=True)
        wanted = encode(targets.boxes[image, matched.objects[found]], scored.anchors[place], PLAIN)
        errors = (scored.deltas[found] - wanted).abs().sum()
        return {"objectness": objectness / count, "proposal_boxes": errors / count}

    def _match(self, around: Tensor, targets: Targets) -> Match:
        """One sample after another: overlaps with all anchors take memory."""
        each = [
            match(around[None], targets[row : row + 1], self.config.low, self.config.high, keep_best=True)
            for row in range(len(targets.boxes))
        ]
        return Match(torch.cat([m.labels for m in each]), torch.cat([m.objects for m in each]))

    @torch.no_grad()
    def proposals(self, scored: Scored, regions: Tensor, learning: bool) -> Tensor:
        """(B, K, 4): proposed boxes within ``regions`` (B, 4), the best first; rows without an area stand for none."""
        which = 0 if learning else 1
        candidates, kept = self.config.candidates[which], self.config.kept[which]
        boxes, scores, levels, start = [], [], [], 0
        for level, count in enumerate(scored.counts):
            best, places = scored.objectness[:, start : start + count].topk(min(count, candidates))
            places = places + start
            deltas = scored.deltas.gather(1, places[..., None].expand(-1, -1, 4))
            boxes.append(clip(decode(deltas, scored.anchors[places], PLAIN), regions[:, None]))
            scores.append(best)
            levels.append(torch.full_like(places, level))
            start += count
        boxes, scores, levels = torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(levels, 1)
        scores = torch.where(is_box(boxes) & scores.isfinite(), scores, -torch.inf)
        places = nms(boxes, scores, levels, self.config.overlap, min(kept, scores.shape[1]))
        found = boxes.gather(1, places.clamp(min=0)[..., None].expand(-1, -1, 4))
        return found.masked_fill(places[..., None] < 0, 0.0)
