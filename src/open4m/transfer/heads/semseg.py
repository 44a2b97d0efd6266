"""Semantic segmentation by a ConvNeXt head of depth 4 (paper D.4, Table 8; MultiMAE, [5])."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from open4m import modalities
from open4m.datasets.labelled.base import IGNORED, Example
from open4m.pictures import grid, picture, stack
from open4m.ranges import Layers, Size, check_ranges
from open4m.transfer.charts import confusion, draw_confusion
from open4m.transfer.frames import Placed, restore_classes
from open4m.transfer.heads.base import Batch, Features, Head
from open4m.transfer.heads.convnext import ConvNeXtLayers
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class Config:
    """``depth``: ConvNeXt blocks. Each token becomes ``finer`` × ``finer`` places of ``channels`` channels: 6,144
    numbers per token at the defaults, as in MultiMAE."""

    depth: Layers = 4
    channels: Size = 384
    finer: Size = 4

    def __post_init__(self) -> None:
        check_ranges(self)


class Segmentation(Head):
    """Logits (B, classes, s·h, s·w)."""

    name = "semseg"
    target = "semseg"
    Config = Config

    def __init__(self, config: Config, width: int, classes: tuple[str, ...], patch: int):
        super().__init__(config, width, classes, patch)
        if len(classes) < 2:
            raise Open4MError(f"{self.name}: expected at least two classes, got {len(classes)}")
        self.layers = ConvNeXtLayers(width, len(classes), config.depth, config.channels, config.finer)

    def initialize(self, generator: torch.Generator) -> None:
        self.layers.initialize(generator)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.map)

    def count(self, batch: Batch) -> int:
        return max(1, sum(int((labels != IGNORED).sum()) for labels in batch.targets[self.target]))

    def loss(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of the labelled pixels, at the size of the labels."""
        wanted = torch.stack(list(batch.targets[self.target])).to(outputs.device).long()
        logits = F.interpolate(outputs.float(), size=wanted.shape[1:], mode="bilinear")
        total = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        shown = wanted != IGNORED
        right = ((logits.argmax(1) == wanted) & shown).sum()
        return total / shown.sum().clamp(min=1), {"pixel_accuracy": right / shown.sum().clamp(min=1)}

    def predict(self, outputs: Tensor, placed: Sequence[Placed]) -> list[np.ndarray]:
        """Class ids (H, W) uint8 or int32 of each picture."""
        kind = np.uint8 if len(self.classes) < IGNORED else np.int32
        pairs = zip(outputs.float(), placed, strict=True)
        return [restore_classes(logits, where).cpu().numpy().astype(kind) for logits, where in pairs]

    def measure(self, predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, float]:
        """Mean intersection over union of the classes that occur, and the accuracy of pixels."""
        return modalities.get(self.target).metrics(predictions, [example[self.target] for example in examples])

    def draw(self, example: Example, prediction: np.ndarray) -> Image.Image:
        modality = modalities.get(self.target)
        maps = [prediction, *([example[self.target]] if self.target in example else [])]
        style = modality.style(maps, self.classes)
        shown = [picture(example["rgb"], 256), *(modality.render(value, 256, style) for value in maps)]
        sheet = grid([shown], ["image", "prediction", "truth"][: len(shown)])
        return stack([sheet, modality.legend(style, sheet.width)])

    def summary(self, predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, Image.Image]:
        """The confusion matrix of pixels, in thousands."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for prediction, example in zip(predictions, examples, strict=True):
            labelled = example[self.target] != IGNORED
            counts += confusion(example[self.target][labelled], prediction[labelled], len(self.classes))
        return {"confusion": draw_confusion(np.ceil(counts / 1000).astype(np.int64), self.classes)}


HEAD = Segmentation
