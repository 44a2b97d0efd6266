"""Detection and segmentation of objects: a Cascade Mask R-CNN on a simple feature pyramid (paper 3, D.3; ViTDet).

The defaults are those of the paper's transfer to COCO at 512 pixels, where ViTDet's are known.

Losses are means over the boxes that were drawn of the samples that are computed at once, as in ViTDet's code: several
processes, and micro-batches, draw others and weigh them by samples, so that their loss is not that of one to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.datasets.labelled import run_lengths
from open4m.datasets.labelled.base import Example, Instances
from open4m.ranges import check_ranges
from open4m.transfer.charts import draw_curves
from open4m.transfer.detection import masks
from open4m.transfer.detection.boxes import clip
from open4m.transfer.detection.cascade import Cascade, CascadeConfig, Found
from open4m.transfer.detection.drawing import draw
from open4m.transfer.detection.masks import MaskHead, MasksConfig
from open4m.transfer.detection.matching import Targets
from open4m.transfer.detection.precision import average_precision, precision_recall
from open4m.transfer.detection.pyramid import Pyramid, PyramidConfig
from open4m.transfer.detection.roi_align import Maps
from open4m.transfer.detection.rpn import ProposalsConfig, Proposer, Scored
from open4m.transfer.frames import Placed, restore_boxes
from open4m.transfer.heads.base import Batch, Features, Head
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class Config:
    """``masks``: whether objects get masks, as ``mask`` says, besides boxes."""

    pyramid: PyramidConfig = field(default_factory=PyramidConfig)
    proposals: ProposalsConfig = field(default_factory=ProposalsConfig)
    cascade: CascadeConfig = field(default_factory=CascadeConfig)
    mask: MasksConfig = field(default_factory=MasksConfig)
    masks: bool = True

    def __post_init__(self) -> None:
        check_ranges(self)
        sides, levels = len(self.proposals.anchors), len(self.pyramid.strides) + 1
        if sides != levels:
            raise Open4MError(
                f"proposals.anchors: expected {levels} sides, one per stride of the pyramid and one more, got {sides}"
            )


@dataclass(frozen=True)
class Outputs:
    """``maps``: the levels of the pyramid but the one on top. ``scored``: the anchors of all levels."""

    maps: Maps
    scored: Scored


class Detection(Head):
    """Boxes, classes and masks of objects.

    A prediction is a dictionary: ``boxes`` (n, 4) float32 in pixels of the picture, ``classes`` (n,) int64, ``scores``
    (n,) float32, the highest first, and ``masks``, a list of COCO's run lengths.
    """

    name = "detection"
    target = "instances"
    Config = Config

    def __init__(self, config: Config, width: int, classes: tuple[str, ...], patch: int):
        super().__init__(config, width, classes, patch)
        if not classes:
            raise Open4MError(f"{self.name}: the data have no classes of objects, expected one at least")
        channels, count = config.pyramid.channels, len(classes)
        self.pyramid = Pyramid(config.pyramid, width, patch)
        self.proposer = Proposer(config.proposals, channels, self.pyramid.strides)
        self.cascade = Cascade(config.cascade, channels, count, self.pyramid.strides[:-1])
        self.mask_head = MaskHead(config.mask, channels, count) if config.masks else None

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights."""
        for part in (self.pyramid, self.proposer, self.cascade, self.mask_head):
            if part is not None:
                part.initialize(generator)

    def forward(self, features: Features) -> Outputs:
        """The pyramid and what proposals are made of; what follows depends on targets, or on whether there are any."""
        maps = self.pyramid(features.map)
        return Outputs(Maps.of(maps[:-1], self.pyramid.strides[:-1]), self.proposer(maps))

    def loss(self, outputs: Outputs, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses of proposals, of each stage, and of masks; each is logged by its name."""
        scored = outputs.scored
        targets = self._targets(batch.targets[self.target], scored.objectness.device)
        regions = _regions(batch.placed, scored.deltas)
        losses = self.proposer.loss(scored, targets, generator)
        proposals = self.proposer.proposals(scored, regions, learning=True)
        found, matched = self.cascade.loss(outputs.maps, proposals, regions, targets, generator)
        losses |= found
        if self.mask_head is not None:
            matched = masks.objects(matched)
            logits = self._mask_logits(outputs.maps, matched, targets.classes[matched.images, matched.objects])
            losses["masks"] = masks.loss(logits, masks.true_masks(matched, targets, logits.shape[-1]))
        return torch.stack([*losses.values()]).sum(), losses

    @torch.no_grad()
    def predict(self, outputs: Outputs, placed: Sequence[Placed]) -> list[dict[str, Any]]:
        """What is found in each picture: see the class."""
        regions = _regions(placed, outputs.scored.deltas)
        proposals = self.proposer.proposals(outputs.scored, regions, learning=False)
        found = self.cascade.detect(outputs.maps, proposals, regions)
        columns = {"boxes": found.boxes, "classes": found.classes, "scores": found.scores}
        if self.mask_head is not None:
            columns["masks"] = self._mask_logits(outputs.maps, found, found.classes).sigmoid()
        arrays = {name: values.cpu().numpy() for name, values in columns.items()}
        ends = found.images.bincount(minlength=len(placed)).cumsum(0).tolist()
        parts = zip(placed, [0, *ends], ends, strict=False)
        return [self._on_picture(where, {k: v[start:end] for k, v in arrays.items()}) for where, start, end in parts]

    def kept(self, example: Example) -> Example:
        """Masks as run lengths: 36,000 of 640 × 480 pixels, as those of COCO's validation data, would take 11 GB."""
        instances = example[self.target]
        if instances.masks is None:
            return super().kept(example)
        lengths = [run_lengths.encode(mask) for mask in instances.masks]
        return {**super().kept(example), self.target: dataclasses.replace(instances, masks=lengths)}

    def measure(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """COCO's average precision, of boxes first, at most 100 per picture: ``ap``, ``ap50``, ``ap75``, ``ap_small``,
        ``ap_medium`` and ``ap_large``, and of masks ``mask_ap`` and so on. NaN where there is no object of that size.
        """
        return average_precision(predictions, self._true(examples), self.classes)

    def summary(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, Image.Image]:
        """Precision by recall."""
        curves = precision_recall(predictions, self._true(examples), self.classes)
        return {"precision": draw_curves(curves, "recall", "precision")}

    def _true(self, examples: Sequence[Example]) -> Iterator[tuple[Instances, tuple[int, int]]]:
        """The objects and the size of each picture."""
        return ((example[self.target], example["rgb"].shape[:2]) for example in examples)

    def draw(self, example: Example, prediction: Any) -> Image.Image:
        """The picture, the objects that were found, and its own where they are known, side by side."""
        return draw(example, prediction, self.classes)

    def _targets(self, instances: Sequence[Instances], device: torch.device) -> Targets:
        if self.mask_head is not None and any(each.masks is None and not all(each.crowd) for each in instances):
            raise Open4MError(f"{self.name}: the objects have no masks; say head.masks=false to learn boxes alone")
        return Targets.of(instances, device, with_masks=self.mask_head is not None)

    def _mask_logits(self, maps: Maps, at: Found | masks.Matched, classes: Tensor) -> Tensor:
        return self.mask_head(self.cascade.pooled(maps, at.boxes, at.images, self.config.mask.bins), classes)

    def _on_picture(self, placed: Placed, found: dict[str, np.ndarray]) -> dict[str, Any]:
        """Detections in pixels of the square as a prediction for the picture."""
        boxes = restore_boxes(torch.from_numpy(found["boxes"]), placed).numpy()
        prediction: dict[str, Any] = {"boxes": boxes, "classes": found["classes"], "scores": found["scores"]}
        if "masks" in found:
            prediction["masks"] = masks.runs(found["masks"], boxes, placed.size, self.config.mask.threshold)
        return prediction


def _regions(placed: Sequence[Placed], like: Tensor) -> Tensor:
    """(B, 4): the boxes of the pictures in their squares."""
    corners = []
    for each in placed:
        (height, width), (down, across), (top, left) = each.size, each.scale, each.offset
        corners.append((left, top, left + width * across, top + height * down))
    regions = torch.tensor(corners, dtype=like.dtype)
    sides = torch.tensor([(0, 0, each.side, each.side) for each in placed], dtype=like.dtype)
    return clip(regions, sides).to(like.device)


HEAD = Detection
