"""Augmentations of labelled examples, before they are batched (paper D, E.1): one list of steps per transfer.

>>> augmentations = lists.ade20k()
>>> example, placed = augmentations.train(example, rng.stream(seed, step, row))
"""

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
from open4m.transfer.augment.mixing import Mixing, needed, partner
from open4m.transfer.augment.pipeline import Augmentations, Pipeline, Step
from open4m.transfer.augment.randaugment import RandAugment

__all__ = [
    "Augmentations",
    "CenterCrop",
    "ColorJitter",
    "Fit",
    "Flip",
    "LargeScaleJitter",
    "Mixing",
    "Pipeline",
    "RandAugment",
    "RandomCrop",
    "RandomResizedCrop",
    "Step",
    "Stretch",
    "needed",
    "partner",
]
