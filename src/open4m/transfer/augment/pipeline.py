"""A list of augmentations, one after another, which ends in a square and says where the picture lies in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open4m.datasets.labelled.base import Example
from open4m.transfer.augment.base import Geometric, Sizing, picture_size
from open4m.transfer.augment.color import ColorJitter
from open4m.transfer.augment.geometric import (
    CenterCrop,
    Fit,
    Flip,
    LargeScaleJitter,
    RandomCrop,
    RandomResizedCrop,
    Stretch,
)
from open4m.transfer.augment.mixing import Mixing
from open4m.transfer.augment.moves import moved
from open4m.transfer.augment.randaugment import RandAugment
from open4m.transfer.frames import Placed
from open4m.types import Open4MError

Step = Stretch | Fit | CenterCrop | RandomResizedCrop | RandomCrop | LargeScaleJitter | Flip | ColorJitter | RandAugment
"""Every augmentation; files tell them apart by the field ``kind``."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps, of which at least one makes squares. Put jitter and flips before what leaves a part of the square empty,
    so that this part stays gray, and below or right of the picture."""

    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        if not any(isinstance(step, Sizing) for step in self.steps):
            raise Open4MError("Pipeline: steps: expected one that makes squares, such as stretch or center_crop")

    @property
    def side(self) -> int:
        """Of the squares that come out, in pixels."""
        return [step.side for step in self.steps if isinstance(step, Sizing)][-1]

    @property
    def is_random(self) -> bool:
        """Whether two streams may give two results."""
        return any(step.is_random for step in self.steps)

    def __call__(self, example: Example, rng: np.random.Generator | None = None) -> tuple[Example, Placed]:
        """The example in the square, and where its picture lies in it. What is given is not changed.

        ``rng``: the stream of the example; None if no step is random.
        """
        if rng is None and self.is_random:
            raise Open4MError("Pipeline: random steps need the stream of the example: give rng")
        size = picture_size(example)
        scale, offset = np.ones(2), np.zeros(2)
        for step in self.steps:
            if isinstance(step, Geometric):
                move = step.move(example, rng)
                example = moved(example, move)
                scale, offset = scale * move.scale, offset * move.scale + move.offset
            else:
                example = step.apply(example, rng)
        return example, Placed(size, tuple(scale.tolist()), tuple(offset.tolist()), self.side)


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """What a transfer does to its examples.

    ``train``: in training. ``evaluation``: in validation and prediction, where nothing is random. ``mixing``: of the
    rows of a training batch, for classes of images.
    """

    train: Pipeline
    evaluation: Pipeline
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        if self.evaluation.is_random:
            random = ", ".join(step.kind for step in self.evaluation.steps if step.is_random)
            raise Open4MError(f"Augmentations: evaluation: expected steps that draw nothing, got {random}")
        if self.train.side != self.evaluation.side:
            raise Open4MError(
                f"Augmentations: expected squares of one side, got {self.train.side} in training and "
                f"{self.evaluation.side} in evaluation"
            )
