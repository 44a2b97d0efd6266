"""Classification of whole images: mean pooling and a linear layer (paper D.2, Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from open4m.datasets.labelled.base import Example
from open4m.pictures import picture, titled
from open4m.transfer.charts import draw_confused
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Features, Head
from open4m.types import Open4MError

SHOWN = 5
"""Classes of a prediction: the likeliest ones."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """``norm``: what the pooled features go through; "batch", without weights of its own, is usual for linear probes of
    frozen encoders. Smoothing of labels is a matter of augmentation."""

    norm: Literal["none", "batch"] = "none"


class Classification(Head):
    """Logits (B, classes)."""

    name = "classification"
    target = "label"
    Config = Config

    def __init__(self, config: Config, width: int, classes: tuple[str, ...], patch: int):
        super().__init__(config, width, classes, patch)
        if len(classes) < 2:
            raise Open4MError(f"classification: expected at least two classes, got {len(classes)}")
        self.norm = nn.BatchNorm1d(width, affine=False) if config.norm == "batch" else nn.Identity()
        self.linear = nn.Linear(width, len(classes))

    def initialize(self, generator: torch.Generator) -> None:
        nn.init.trunc_normal_(self.linear.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Features) -> Tensor:
        if self.training and self.config.norm == "batch" and len(features.pooled) < 2:
            raise Open4MError("head.norm: batch norm learns from two images at least; use larger batches, or norm=none")
        return self.linear(self.norm(features.pooled))

    def loss(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with probabilities of classes, which are mixed where images are (Mixup, CutMix)."""
        wanted = torch.stack([torch.as_tensor(label) for label in batch.targets[self.target]]).to(outputs.device)
        cost = F.cross_entropy(outputs.float(), wanted.float())
        right = (outputs.argmax(1) == wanted.argmax(1)).float().mean()
        return cost, {"accuracy": right.detach()}

    def predict(self, outputs: Tensor, placed: Sequence[Placed]) -> list[dict[str, Any]]:
        """The likeliest classes of each image, best first: their places among all, and probabilities."""
        best = outputs.float().softmax(1).topk(min(SHOWN, outputs.shape[1]))
        pairs = zip(best.indices.cpu().numpy(), best.values.cpu().numpy(), strict=True)
        return [{"classes": classes, "scores": scores} for classes, scores in pairs]

    def measure(self, predictions: Sequence[dict[str, Any]], examples: Sequence[Example]) -> dict[str, float]:
        """Top-1 and top-5 accuracy."""
        hits = [p["classes"] == e[self.target] for p, e in zip(predictions, examples, strict=True)]
        return {
            "top1": float(np.mean([hit[0] for hit in hits])),
            "top5": float(np.mean([hit.any() for hit in hits])),
        }

    def draw(self, example: Example, prediction: dict[str, Any]) -> Image.Image:
        best, score = self.classes[prediction["classes"][0]], prediction["scores"][0]
        truth = f"; true: {self.classes[example[self.target]]}" if self.target in example else ""
        return titled(picture(example["rgb"], 256), f"{best} {score:.0%}{truth}")

    def summary(self, predictions: Sequence[dict[str, Any]], examples: Sequence[Example]) -> dict[str, Image.Image]:
        """The confusion matrix."""
        true = np.array([example[self.target] for example in examples])
        said = np.array([prediction["classes"][0] for prediction in predictions])
        return {"confusion": draw_confused(true, said, self.classes)}


HEAD = Classification
