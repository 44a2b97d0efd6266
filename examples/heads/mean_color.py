"""A head of one's own in one file: the mean color of a picture, as three numbers.

Command: ``open4m transfer examples/heads/mean_color.py --model scenes --data DATA``. It needs no labels: what it learns
is in the picture. With labels, ``target`` names what an example has."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from open4m.pictures import picture, titled
from open4m.transfer.heads.base import Head


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``open4m transfer ... head.scale=2`` changes."""

    scale: float = 1.0  # of the numbers


class MeanColor(Head):
    """Three numbers from the pooled features."""

    name = "mean color"
    target = "rgb"
    Config = Config

    def __init__(self, config, width, classes, patch):
        super().__init__(config, width, classes, patch)
        self.linear = torch.nn.Linear(width, 3)

    def initialize(self, generator):
        torch.nn.init.normal_(self.linear.weight, std=0.01, generator=generator)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, features):
        return self.config.scale * self.linear(features.pooled)  # (B, 3)

    def loss(self, outputs, batch, generator):
        wanted = torch.stack([pixels.float().mean((1, 2)) / 255 for pixels in batch.targets["rgb"]])  # (B, 3)
        error = (outputs - wanted.to(outputs.device)).abs().mean()
        return error, {"error": error.detach()}

    def predict(self, outputs, placed):
        return [{"color": numbers} for numbers in outputs.float().cpu().numpy()]

    def measure(self, predictions, examples):
        true = np.stack([example["rgb"].mean((0, 1)) / 255 for example in examples])
        return {"error": float(np.abs(np.stack([p["color"] for p in predictions]) - true).mean())}

    def draw(self, example, prediction):
        shown = picture(example["rgb"], 256)
        color = tuple(int(255 * value) for value in np.clip(prediction["color"], 0, 1))
        shown.paste(Image.new("RGB", (64, 64), color), (0, 0))
        return titled(shown, " ".join(f"{value:.2f}" for value in prediction["color"]))


HEAD = MeanColor
