"""Any map of numbers by ConvNeXt layers: edges, normals, heat maps, what a user has. Depth has a head of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from open4m.datasets.labelled.base import Example
from open4m.pictures import grid, heat, picture
from open4m.ranges import Layers, Size, check_ranges
from open4m.transfer.frames import Placed, restore_map
from open4m.transfer.heads.base import Batch, Features, Head
from open4m.transfer.heads.convnext import ConvNeXtLayers
from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class Config:
    """``target``: the name of the map in examples, of ``outputs`` channels. ``loss``: the mean absolute error, or the
    mean square."""

    target: str = "edges"
    outputs: Size = 1
    depth: Layers = 2
    channels: Size = 384
    finer: Size = 4
    loss: Literal["l1", "l2"] = "l1"

    def __post_init__(self) -> None:
        check_ranges(self)


class Maps(Head):
    """Numbers (B, outputs, s·h, s·w)."""

    name = "maps"
    target = ""
    Config = Config

    def __init__(self, config: Config, width: int, classes: tuple[str, ...], patch: int):
        super().__init__(config, width, classes, patch)
        self.target = config.target
        self.layers = ConvNeXtLayers(width, config.outputs, config.depth, config.channels, config.finer)

    def initialize(self, generator: torch.Generator) -> None:
        self.layers.initialize(generator)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.map)

    def count(self, batch: Batch) -> int:
        return max(1, sum(int(values.isfinite().sum()) for values in batch.targets[self.target]))

    def loss(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of the known numbers, at the size of the labels."""
        wanted = torch.stack(list(batch.targets[self.target])).to(outputs.device).float()
        wanted = wanted if wanted.ndim == 4 else wanted[:, None]
        if wanted.shape[1] != self.config.outputs:
            raise Open4MError(f"head.outputs: {self.target} has {wanted.shape[1]} channels, got {self.config.outputs}")
        predicted = F.interpolate(outputs.float(), size=wanted.shape[2:], mode="bilinear")
        known = wanted.isfinite()
        error = torch.where(known, predicted - torch.where(known, wanted, 0), 0)
        total = (error.abs() if self.config.loss == "l1" else error.square()).sum()
        return total / known.sum().clamp(min=1), {"error": error.detach().abs().sum() / known.sum().clamp(min=1)}

    def predict(self, outputs: Tensor, placed: Sequence[Placed]) -> list[np.ndarray]:
        """(H, W) or (H, W, outputs) float32 of each picture."""
        found = []
        for values, where in zip(outputs.float(), placed, strict=True):
            shown = restore_map(values, where, unseen=float("nan")).movedim(0, -1).cpu().numpy()
            found.append(shown[..., 0] if self.config.outputs == 1 else shown)
        return found

    def measure(self, predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, float]:
        """The share of the labels' variance that is explained, over all pixels together, and the mean absolute
        error; NaN if nothing is known."""
        known = [_known(p, e[self.target]) for p, e in zip(predictions, examples, strict=True)]
        count = sum(len(truth) for _, truth in known)
        if not count:
            return {"r2": math.nan, "mean_absolute_error": math.nan}
        mean = sum(float(truth.sum(dtype=np.float64)) for _, truth in known) / count
        absolute = squared = spread = 0.0  # sums, image by image: all pixels at once would not fit in memory
        for predicted, truth in known:
            error = predicted.astype(np.float64) - truth
            absolute, squared = absolute + float(np.abs(error).sum()), squared + float((error**2).sum())
            spread += float(((truth - mean) ** 2).sum())
        return {"r2": 1 - squared / max(spread, 1e-12), "mean_absolute_error": absolute / count}

    def draw(self, example: Example, prediction: np.ndarray) -> Image.Image:
        maps = [prediction, *([example[self.target]] if self.target in example else [])]
        high = max(float(np.abs(np.nan_to_num(m, posinf=0, neginf=0)).max(initial=0)) for m in maps)
        shown = [picture(example["rgb"], 256), *(_shown(m, high) for m in maps)]
        return grid([shown], ["image", "prediction", "truth"][: len(shown)])


def _known(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers (n,) that were predicted where the truth (n,) is known."""
    both = np.isfinite(truth) & np.isfinite(predicted)
    return predicted[both], truth[both]


def _shown(values: np.ndarray, high: float) -> Image.Image:
    """The first three channels as colors, or one as heat."""
    values = np.nan_to_num(values)
    if values.ndim == 2:
        return heat(values.clip(0, high), high).resize((256, 256))
    colors = ((values[..., :3] / max(high, 1e-9) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    return picture(np.pad(colors, ((0, 0), (0, 0), (0, 3 - colors.shape[2]))), 256)


HEAD = Maps
