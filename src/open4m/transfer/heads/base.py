"""What a head is: one file with its configuration, layers, loss, predictions, figures and pictures.

A head is put on the features of a :class:`~open4m.transfer.backbone.Backbone` (paper 3: "attaching transfer
task-specific heads to the encoder"). To add one, write a file with a subclass as ``HEAD``; ``docs/transfer.md`` shows
it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from open4m.datasets.labelled.base import PICTURE, Example
from open4m.transfer.frames import Placed


@dataclass(frozen=True)
class Features:
    """What a backbone makes of B samples.

    ``map``: (B, D, h, w), on the grid of its patches; with several inputs their mean at each place.
    ``tokens``: (B, N, D), of all inputs. ``pooled``: (B, D), their mean, or the mean of the register tokens.
    """

    map: Tensor
    tokens: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Batch:
    """What a head learns from: the augmented targets of B samples, and where the pictures lie in their squares.

    ``targets`` holds, by the names of :data:`~open4m.datasets.labelled.base.Example`, lists of B values as tensors:
    maps (H, W) or (C, H, W) of the square's size, ``label`` as a (classes,) vector of probabilities or a number,
    ``instances`` as :class:`~open4m.datasets.labelled.base.Instances` in pixels of the square.
    """

    targets: Mapping[str, Sequence[Any]]
    placed: Sequence[Placed]


class Head(nn.Module, ABC):
    """``target``: what of an example it learns. ``Config``: the class of its configuration, a frozen dataclass."""

    name: ClassVar[str]
    target: ClassVar[str]
    Config: ClassVar[type]

    def __init__(self, config: Any, width: int, classes: tuple[str, ...], patch: int):
        """``width``: of the features. ``classes``: the names of the target's classes. ``patch``: pixels of the square
        per place of the features' map, in either direction."""
        super().__init__()
        self.config, self.width, self.classes, self.patch = config, width, classes, patch

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights, which depend on the generator alone."""

    @abstractmethod
    def forward(self, features: Features) -> Any:
        """The outputs for a batch."""

    def count(self, batch: Batch) -> int:
        """What the loss is a mean over, such as samples or labelled pixels: by it, parts of a batch are weighed."""
        return len(batch.placed)

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimize, and what to log. ``generator`` draws what is sampled."""

    @abstractmethod
    def predict(self, outputs: Any, placed: Sequence[Placed]) -> list[Any]:
        """The prediction for each sample, on its own picture: a map has the picture's size, boxes are in its pixels.
        Plain values: numbers, arrays of NumPy, :class:`Boxes`, dictionaries of these."""

    def kept(self, example: Example) -> Example:
        """What :meth:`measure` needs of an example, kept for all examples at once: the picture is black, and takes no
        memory, unless ``target`` is the picture."""
        if self.target == PICTURE:
            return example
        return {**example, PICTURE: np.broadcast_to(np.uint8(0), example[PICTURE].shape)}

    @abstractmethod
    def measure(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, float]:
        """The figures of predictions for examples with their true labels; the first one is what is compared.
        Examples are as :meth:`kept`."""

    @abstractmethod
    def draw(self, example: Example, prediction: Any) -> Image.Image:
        """The picture, the prediction, and the truth where the example has it, side by side."""

    def summary(self, predictions: Sequence[Any], examples: Sequence[Example]) -> dict[str, Image.Image]:
        """Pictures of all predictions together, by name, such as a confusion matrix; by default none."""
        return {}
