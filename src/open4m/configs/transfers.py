"""Transfers: the paper's four tasks in their settings (D, Tables 6 to 9), and small ones for any data on a laptop.

``open4m transfer semseg --model scenes --data FOLDER`` trains a small one; ``transfer-ade20k-b`` is the paper's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from open4m.config import Duration
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.transfer import heads
from open4m.transfer.augment import (
    Augmentations,
    CenterCrop,
    Fit,
    Flip,
    LargeScaleJitter,
    Pipeline,
    RandomResizedCrop,
    Stretch,
    lists,
)
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.config import TransferConfig
from open4m.transfer.detection.cascade import CascadeConfig
from open4m.transfer.detection.masks import MasksConfig
from open4m.transfer.detection.pyramid import PyramidConfig
from open4m.transfer.detection.rpn import ProposalsConfig
from open4m.transfer.heads import classification, depth, detection, maps, semseg
from open4m.types import Open4MError

LAYER_DECAY = {"b": 0.75, "l": 0.85}
DROP_PATH = {"b": 0.1, "l": 0.2}


def _train(
    epochs: float,
    warmup: float,
    batch: int,
    *,
    weight_decay: float,
    layer_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
    **others: Any,
) -> TrainConfig:
    rates = {name: others.pop(name) for name in ("lr", "base_lr") if name in others}
    optim = OptimConfig(betas=betas, weight_decay=weight_decay, layer_decay=layer_decay, **rates)
    return TrainConfig(
        length=Duration(epochs, "epochs"),
        warmup=Duration(warmup, "epochs"),
        batch_size=batch,
        optim=optim,
        workers=8,
        evaluate_every=5000,
        checkpoint_every=1000,
        **others,
    )


def imagenet(size: str, intermediate: bool) -> TransferConfig:
    """ImageNet-21K, then ImageNet-1K from its result (``--model`` names its run): Table 6."""
    short = intermediate or size == "l"
    betas = (0.9, 0.95) if intermediate else (0.9, 0.999)
    return TransferConfig(
        kind="classification",
        head=classification.Config(),
        backbone=BackboneConfig(image_size=224, drop_path=DROP_PATH[size]),
        train=_train(
            20 if short else 50, 2, 4096, base_lr=1e-4, weight_decay=0.05, layer_decay=LAYER_DECAY[size], betas=betas
        ),
        augment=lists.imagenet_21k() if intermediate else lists.imagenet_1k(),
        evaluate_samples=10_000,
    )


def coco(size: str) -> TransferConfig:
    """Cascade Mask R-CNN at 512²: Table 7. The learning rate is absolute, and falls to a tenth after epochs 89 and
    96. Its "warmup epochs" of 0.01 and 0.007 are taken as shares of the training: so they are ViTDet's 250 steps, but
    as epochs they would be 3."""
    large = size == "l"
    return TransferConfig(
        kind="detection",
        head=detection.Config(),
        backbone=BackboneConfig(image_size=512, drop_path=0.4 if large else 0.1),
        train=_train(
            100,
            0.7 if large else 1,
            320 if large else 512,
            lr=1e-4,
            weight_decay=0.1,
            layer_decay=0.8 if large else 0.7,
            milestones=(0.89, 0.96),
            activation_checkpointing=True,
        ),
        augment=lists.coco(),
        evaluate_samples=500,
    )


def ade20k(size: str) -> TransferConfig:
    """Semantic segmentation at 512² by a ConvNeXt head of depth 4: Table 8."""
    return TransferConfig(
        kind="semseg",
        head=semseg.Config(),
        backbone=BackboneConfig(image_size=512, drop_path=DROP_PATH[size]),
        train=_train(64, 1, 64, lr=2e-4, weight_decay=0.05, layer_decay=LAYER_DECAY[size]),
        augment=lists.ade20k(),
    )


def nyuv2(size: str) -> TransferConfig:
    """Depth at 256² by a ConvNeXt head of depth 2: Table 9."""
    return TransferConfig(
        kind="depth",
        head=depth.Config(),
        backbone=BackboneConfig(image_size=256, drop_path=DROP_PATH[size]),
        train=_train(1000, 100, 128, lr=1e-4, weight_decay=1e-4, layer_decay=LAYER_DECAY[size]),
        augment=lists.nyuv2(),
    )


# ---- for any data, on a laptop
SMALL_DETECTION = detection.Config(
    pyramid=PyramidConfig(channels=64),
    proposals=ProposalsConfig(
        anchors=(8.0, 16.0, 32.0, 64.0, 128.0),
        offset=0.5,
        convolutions=1,
        samples=64,
        candidates=(200, 200),
        kept=(100, 100),
    ),
    cascade=CascadeConfig(convolutions=1, channels=64, hidden=128, canonical=56.0, samples=32, detections=50),
    mask=MasksConfig(convolutions=2, channels=64),
)
"""Of pictures of 128 pixels, a quarter of COCO's here: anchors and levels are a quarter too."""

SMALL_HEADS: Mapping[str, Any] = {
    "classification": classification.Config(),
    "detection": SMALL_DETECTION,
    "semseg": semseg.Config(depth=2, channels=48),
    "depth": depth.Config(channels=48),
    "maps": maps.Config(channels=48),
}
"""Of encoders of some million weights."""


SIDE = 128
"""Stands for the size of the backbone's images, which augmentations get."""

CROPPED = Augmentations(
    train=Pipeline(steps=(RandomResizedCrop(side=SIDE, scale=(0.5, 1.0)), Flip())),
    evaluation=Pipeline(steps=(Stretch(side=SIDE),)),
)
WHOLE = Augmentations(train=Pipeline(steps=(Flip(), Fit(side=SIDE))), evaluation=Pipeline(steps=(Fit(side=SIDE),)))
SMALL_AUGMENTATIONS: Mapping[str, Augmentations] = {
    "detection": dataclasses.replace(
        WHOLE, train=Pipeline(steps=(Flip(), LargeScaleJitter(side=SIDE, scale=(0.5, 1.5))))
    ),
    "depth": dataclasses.replace(CROPPED, evaluation=Pipeline(steps=(CenterCrop(side=SIDE),))),
}


def small(kind: str, head: Any = None, image_size: int | None = None) -> TransferConfig:
    """Some minutes of two CPU cores for an encoder like that of scenes: 20 epochs of batches of 16, random crops and
    flips. ``image_size``: that of pre-training by default, which augmentations then follow."""
    settings = head if head is not None else SMALL_HEADS.get(kind, None)
    if settings is None:
        try:
            settings = heads.get(kind).Config()
        except TypeError as error:
            raise Open4MError(
                f"{kind}: its Config needs a default for every field, or the file config() ({error})"
            ) from error
    return TransferConfig(
        kind=kind,
        head=settings,
        backbone=BackboneConfig(image_size=image_size),
        train=TrainConfig(
            length=Duration(20, "epochs"),
            warmup=Duration(1, "epochs"),
            batch_size=16,
            optim=OptimConfig(lr=5e-4, weight_decay=0.05, layer_decay=0.75, clip=1.0, betas=(0.9, 0.999)),
            precision="fp32",
            evaluate_every=500,
            checkpoint_every=500,
        ),
        augment=SMALL_AUGMENTATIONS.get(kind, CROPPED),
        evaluate_samples=200,
    )


CONFIGS: Mapping[str, Callable[[], TransferConfig]] = {
    **{f"transfer-imagenet21k-{size}": partial(imagenet, size, True) for size in "bl"},
    **{f"transfer-imagenet-{size}": partial(imagenet, size, False) for size in "bl"},
    **{f"transfer-coco-{size}": partial(coco, size) for size in "bl"},
    **{f"transfer-ade20k-{size}": partial(ade20k, size) for size in "bl"},
    **{f"transfer-nyuv2-{size}": partial(nyuv2, size) for size in "bl"},
    **{kind: partial(small, kind) for kind in SMALL_HEADS},
}
