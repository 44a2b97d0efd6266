"""The cascade (Cascade R-CNN): stages that say a box's class and move it, each trained on what the one before gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.ranges import Length, Positive, Share, Size, check_ranges
from open4m.transfer.detection.boxes import Weights, clip, decode, encode, is_box
from open4m.transfer.detection.layers import convolutions, initialize, start_small
from open4m.transfer.detection.matching import IGNORED, OBJECT, Targets, match, sample
from open4m.transfer.detection.nms import nms
from open4m.transfer.detection.roi_align import Maps, levels_of
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """``overlaps``: of each stage, the IoU from which on a box is an object. ``weights``: of its deltas.
    ``convolutions``, ``channels``, ``hidden``: of its layers, on ``bins`` × ``bins`` features of a box. ``canonical``:
    pixels of a box that is pooled at stride 16.

    ``samples`` proposals per image are learned from, at most the share ``objects`` of them objects. What is reported
    has a score above ``score``. Of boxes of one class with an IoU above ``overlap`` one is reported, at most so many
    ``detections`` per image."""

    overlaps: tuple[Share, ...] = (0.5, 0.6, 0.7)
    weights: tuple[tuple[Positive, Positive, Positive, Positive], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    convolutions: Length = 4
    channels: Size = 256
    hidden: Size = 1024
    bins: Size = 7
    canonical: Positive = 224.0
    samples: Size = 512
    objects: Share = 0.25
    score: Share = 0.05
    overlap: Share = 0.5
    detections: Size = 100

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.overlaps or len(self.overlaps) != len(self.weights):
            stages = f"{len(self.overlaps)} overlaps and {len(self.weights)} weights"
            raise Open4MError(f"cascade: expected one overlap and four weights per stage, got {stages}")


@dataclass(frozen=True)
class Matched:
    """Boxes (n, 4) of all images that are learned from, the image of each (n,), and the object it is matched with, of
    its image's row of the targets. ``labels``: (n,), whether that is what it has to find, as in
    :class:`~open4m.transfer.detection.matching.Match`."""

    boxes: Tensor
    images: Tensor
    objects: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Found:
    """Detections of all images: ``boxes`` (n, 4), ``images`` (n,) in ascending order, ``classes`` and ``scores`` (n,),
    in order of the score within an image."""

    boxes: Tensor
    images: Tensor
    classes: Tensor
    scores: Tensor


class _Scale(torch.autograd.Function):
    """What is given, with its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class Stage(nn.Module):
    """The logits of the classes, the background last, and one delta for any class, of a box's features."""

    def __init__(self, config: CascadeConfig, channels: int, classes: int):
        super().__init__()
        self.convolutions = convolutions(channels, config.channels, config.convolutions)
        inputs = (config.channels if config.convolutions else channels) * config.bins**2
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(inputs, config.hidden), nn.ReLU())
        self.classes, self.deltas = nn.Linear(config.hidden, classes + 1), nn.Linear(config.hidden, 4)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        initialize(self, generator)
        start_small(self.classes, 0.01, generator)
        start_small(self.deltas, 0.001, generator)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(n, classes + 1) and (n, 4) of features (n, C, bins, bins)."""
        x = self.hidden(self.convolutions(features))
        return self.classes(x).float(), self.deltas(x).float()


class Cascade(nn.Module):
    """Several stages on the levels of a pyramid, of which all but the one on top are pooled from."""

    def __init__(self, config: CascadeConfig, channels: int, classes: int, strides: tuple[float, ...]):
        super().__init__()
        self.config, self.count, self.strides = config, classes, strides
        self.stages = nn.ModuleList(Stage(config, channels, classes) for _ in config.overlaps)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights."""
        for stage in self.stages:
            stage.initialize(generator)

    def pooled(self, maps: Maps, boxes: Tensor, images: Tensor, bins: int) -> Tensor:
        """(n, C, bins, bins): the features of boxes (n, 4), each from the level of its size."""
        return maps.pooled(boxes, images, bins, levels_of(boxes, self.strides, self.config.canonical))

    def loss(
        self, maps: Maps, proposals: Tensor, regions: Tensor, targets: Targets, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Matched]:
        """The cross-entropy of classes and the absolute errors of deltas of each stage, per sampled box, and the
        sampled proposals, from which masks are learned too.

        ``proposals``: (B, K, 4). Objects count as proposals, so that there is something to find from the first step on.
        The stages share what they send back to the maps: it is divided by their number.
        """
        matched = first = self._sampled(proposals, targets, generator)
        losses = {}
        for place, (stage, weights) in enumerate(zip(self.stages, self.config.weights, strict=True)):
            if place:
                matched = _rematched(matched, targets, self.config.overlaps[place])
            features = self.pooled(maps, matched.boxes, matched.images, self.config.bins)
            classes, deltas = stage(_Scale.apply(features, 1 / len(self.stages)))
            is_object, is_known = matched.labels == OBJECT, matched.labels != IGNORED
            known = targets.classes[matched.images, matched.objects].masked_fill(~is_object, self.count)
            wrong = F.cross_entropy(classes, known, reduction="none")[is_known].sum()
            true = targets.boxes[matched.images, matched.objects][is_object]
            errors = (deltas[is_object] - encode(true, matched.boxes[is_object], weights)).abs().sum()
            count = is_known.sum().clamp(min=1)
            losses |= {f"classes_{place + 1}": wrong / count, f"boxes_{place + 1}": errors / count}
            moved = _moved(matched.boxes, deltas.detach(), weights, regions[matched.images])
            matched = replace(matched, boxes=moved)
        return losses, first

    @torch.no_grad()
    def detect(self, maps: Maps, proposals: Tensor, regions: Tensor) -> Found:
        """What the proposals (B, K, 4) turn out to be: the boxes of the last stage with the mean scores of all."""
        images, place = is_box(proposals).nonzero(as_tuple=True)
        boxes, probabilities = proposals[images, place], 0.0
        for stage, weights in zip(self.stages, self.config.weights, strict=True):
            classes, deltas = stage(self.pooled(maps, boxes, images, self.config.bins))
            probabilities = probabilities + classes.softmax(1) / len(self.stages)
            boxes = _moved(boxes, deltas, weights, regions[images])
        likely = (probabilities[:, :-1] > self.config.score) & is_box(boxes)[:, None]
        box, classes = likely.nonzero(as_tuple=True)
        return self._thinned(boxes[box], images[box], classes, probabilities[box, classes], len(proposals))

    def _thinned(self, boxes: Tensor, images: Tensor, classes: Tensor, scores: Tensor, batch: int) -> Found:
        """The best of boxes (n, 4) in ascending order of their images, of those that overlap the one with the highest
        score."""
        counts = images.bincount(minlength=batch)
        place = torch.arange(len(images), device=images.device) - (counts.cumsum(0) - counts)[images]
        size = (batch, int(counts.max()) if len(images) else 0)
        padded = (scores.new_full(size, -torch.inf), classes.new_zeros(size), boxes.new_zeros(*size, 4))
        for to, values in zip(padded, (scores, classes, boxes), strict=True):
            to[images, place] = values
        scores, classes, boxes = padded
        best = nms(boxes, scores, classes, self.config.overlap, min(self.config.detections, size[1]))
        image, rank = (best >= 0).nonzero(as_tuple=True)
        at = image, best[image, rank]
        return Found(boxes[at], image, classes[at], scores[at])

    @torch.no_grad()
    def _sampled(self, proposals: Tensor, targets: Targets, generator: torch.Generator) -> Matched:
        boxes = torch.cat([targets.boxes, proposals], 1)
        overlap = self.config.overlaps[0]
        matched = match(boxes, targets, overlap, overlap)
        labels = matched.labels.masked_fill(~is_box(boxes), IGNORED)
        chosen = sample(labels, self.config.samples, self.config.objects, generator).nonzero(as_tuple=True)
        return Matched(boxes[chosen], chosen[0], matched.objects[chosen], labels[chosen])


@torch.no_grad()
def _rematched(matched: Matched, targets: Targets, overlap: float) -> Matched:
    """The same boxes, each with the object that it overlaps most now."""
    found = match(matched.boxes[:, None], targets[matched.images], overlap, overlap)
    labels = found.labels[:, 0].masked_fill(~is_box(matched.boxes), IGNORED)
    return replace(matched, objects=found.objects[:, 0], labels=labels)


def _moved(boxes: Tensor, deltas: Tensor, weights: Weights, regions: Tensor) -> Tensor:
    """Boxes (n, 4) where deltas move them, within regions (n, 4); 0 where that is no box."""
    moved = clip(decode(deltas, boxes, weights), regions)
    return torch.where(is_box(moved)[:, None], moved, 0.0)
