"""Depth in meters by a ConvNeXt head of depth 2 (paper D.5, Table 9; MultiMAE, [5])."""

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

from open4m import modalities
from open4m.datasets.labelled.base import Example
from open4m.pictures import grid, picture
from open4m.ranges import Finite, Layers, Positive, Size, check_ranges
from open4m.transfer.frames import Placed, restore_map
from open4m.transfer.heads.base import Batch, Features, Head
from open4m.transfer.heads.convnext import ConvNeXtLayers
from open4m.types import Open4MError

NEAREST = 1e-3
"""Meters: no prediction is nearer."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The layers are those of semantic segmentation. ``loss``: "berhu", as in MultiMAE, is the absolute error for small
    errors and grows with the square of large ones; or "l1". ``mean`` and ``deviation``, in meters, turn what the layers
    say into depth: roughly those of the data, so that training starts near."""

    depth: Layers = 2
    channels: Size = 384
    finer: Size = 4
    loss: Literal["berhu", "l1"] = "berhu"
    mean: Finite = 2.5
    deviation: Positive = 1.5

    def __post_init__(self) -> None:
        check_ranges(self)


class DepthEstimation(Head):
    """Depth in meters (B, 1, s·h, s·w)."""

    name = "depth"
    target = "depth"
    Config = Config

    def __init__(self, config: Config, width: int, classes: tuple[str, ...], patch: int):
        super().__init__(config, width, classes, patch)
        self.layers = ConvNeXtLayers(width, 1, config.depth, config.channels, config.finer)

    def initialize(self, generator: torch.Generator) -> None:
        self.layers.initialize(generator)

    def forward(self, features: Features) -> Tensor:
        return self.layers(features.map) * self.config.deviation + self.config.mean

    def count(self, batch: Batch) -> int:
        return max(1, sum(int(depth.isfinite().sum()) for depth in batch.targets[self.target]))

    def loss(self, outputs: Tensor, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean error of the measured pixels, at the size of the labels."""
        wanted = torch.stack(list(batch.targets[self.target])).to(outputs.device)
        if wanted.ndim != 3:
            raise Open4MError(f"depth: expected maps (H, W) to learn from, got {tuple(wanted.shape[1:])}")
        predicted = F.interpolate(outputs.float(), size=wanted.shape[1:], mode="bilinear")[:, 0]
        measured = wanted.isfinite()
        error = torch.where(measured, predicted - torch.where(measured, wanted, 0), 0).abs()
        total = (berhu(error) if self.config.loss == "berhu" else error).sum()
        return total / measured.sum().clamp(min=1), {"error": error.detach().sum() / measured.sum().clamp(min=1)}

    def predict(self, outputs: Tensor, placed: Sequence[Placed]) -> list[np.ndarray]:
        """Depth (H, W) float32 of each picture, in meters; NaN where the square does not show it, and nowhere else: a
        network that says no number is wrong there."""
        pairs = zip(outputs.float().nan_to_num(0), placed, strict=True)
        return [
            restore_map(depth, where, unseen=float("nan"))[0].clamp(min=NEAREST).cpu().numpy() for depth, where in pairs
        ]

    def measure(self, predictions: Sequence[np.ndarray], examples: Sequence[Example]) -> dict[str, float]:
        """δ1, the share of pixels whose ratio to the truth is below 1.25; AbsRel; RMSE in meters: means over images,
        each over its pixels that were measured and are predicted; NaN if there are none."""
        figures = [accuracy(p, e[self.target]) for p, e in zip(predictions, examples, strict=True)]
        known = [figure for figure in figures if figure is not None]
        names = ("delta1", "abs_rel", "rmse")
        return {name: float(np.mean([k[name] for k in known])) if known else math.nan for name in names}

    def draw(self, example: Example, prediction: np.ndarray) -> Image.Image:
        modality = modalities.get(self.target)
        maps = [prediction, *([example[self.target]] if self.target in example else [])]
        style = modality.style(maps)
        shown = [picture(example["rgb"], 256), *(modality.render(value, 256, style) for value in maps)]
        titles = [f"{title}: {reach(depth)}" for title, depth in zip(("prediction", "truth"), maps, strict=False)]
        return grid([shown], ["image", *titles])


def berhu(error: Tensor) -> Tensor:
    """The reversed Huber loss of absolute errors (B, H, W) (Laina et al., 2016): with c a fifth of the largest of an
    image, e where e ≤ c, else (e² + c²) / 2c. So an image's loss does not depend on the batch, nor on how it is
    divided."""
    c = (error.detach().amax((1, 2), keepdim=True) / 5).clamp(min=1e-6)
    return torch.where(error <= c, error, (error.square() + c * c) / (2 * c))


def reach(depth: np.ndarray) -> str:
    """From where to where a map (H, W) goes."""
    known = depth[np.isfinite(depth)]
    return f"{known.min():.2g} to {known.max():.2g} m" if known.size else "unknown"


def accuracy(predicted: np.ndarray, depth: np.ndarray) -> dict[str, float] | None:
    """The figures of one map (H, W); None if nothing was measured."""
    measured = np.isfinite(depth) & (depth > 0) & np.isfinite(predicted)
    if not measured.any():
        return None
    p, t = predicted[measured].astype(np.float64), depth[measured].astype(np.float64)
    return {
        "delta1": float((np.maximum(p / t, t / p) < 1.25).mean()),
        "abs_rel": float((np.abs(p - t) / t).mean()),
        "rmse": float(np.sqrt(((p - t) ** 2).mean())),
    }


HEAD = DepthEstimation
