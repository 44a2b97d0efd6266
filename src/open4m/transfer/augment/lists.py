"""The augmentations of the paper's transfers to labels (D.2 to D.5), with the evaluation that belongs to each. Those of
transfers to tokens (E.1) are views that are stored: :class:`open4m.data.views.Crops`.

The tables name no flips, and no strengths of color jitter. Flips with probability 1/2 are part of every list here:
drop the step if left and right matter. The strengths are those of MultiMAE's published trainings, whose settings the
paper follows for ADE20K and NYUv2 (D.4, D.5).
"""

from __future__ import annotations

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
from open4m.transfer.augment.pipeline import Augmentations, Pipeline
from open4m.transfer.augment.randaugment import RandAugment

JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, probability=0.5)
"""Of MultiMAE on ADE20K."""

INDOOR_JITTER = ColorJitter(brightness=0.1255, contrast=0.4, saturation=0.5, hue=0.2, probability=0.5, gray=0.3)
"""Of MultiMAE on NYUv2."""


def plain(side: int) -> Augmentations:
    """No augmentation: the whole picture, stretched to the square."""
    whole = Pipeline(steps=(Stretch(side=side),))
    return Augmentations(train=whole, evaluation=whole)


def imagenet_21k(side: int = 224) -> Augmentations:
    """Intermediate fine-tuning on ImageNet-21K (Table 6)."""
    return _classification(side, 0.5)


def imagenet_1k(side: int = 224) -> Augmentations:
    """Fine-tuning on ImageNet-1K (Table 6). It is measured on the middle 7/8 of the shorter side, as is usual."""
    return _classification(side, 0.08)


def _classification(side: int, smallest: float) -> Augmentations:
    return Augmentations(
        train=Pipeline(steps=(RandomResizedCrop(side=side, scale=(smallest, 1.0)), Flip(), RandAugment())),
        evaluation=Pipeline(steps=(CenterCrop(side=side, share=0.875),)),
        mixing=Mixing(mixup=0.1, cutmix=1.0, smoothing=0.1),
    )


def coco(side: int = 512) -> Augmentations:
    """Detection and instance segmentation on COCO (Table 7)."""
    return Augmentations(
        train=Pipeline(steps=(Flip(), LargeScaleJitter(side=side))), evaluation=Pipeline(steps=(Fit(side=side),))
    )


def ade20k(side: int = 512) -> Augmentations:
    """Semantic segmentation of ADE20K (Table 8)."""
    return Augmentations(
        train=Pipeline(steps=(JITTER, Flip(), LargeScaleJitter(side=side))),
        evaluation=Pipeline(steps=(Fit(side=side),)),
    )


def nyuv2(side: int = 256) -> Augmentations:
    """Depth of NYUv2 (Table 9): the shorter side has the length of the square. It is measured in the middle square."""
    return Augmentations(
        train=Pipeline(steps=(RandomCrop(side=side), Flip(), INDOOR_JITTER)),
        evaluation=Pipeline(steps=(CenterCrop(side=side),)),
    )
