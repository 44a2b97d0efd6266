"""The configuration of a transfer: an encoder, a head, augmentations, and how both are trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from open4m import config as configs
from open4m.ranges import Steps, check_ranges
from open4m.train.config import TrainConfig
from open4m.transfer import heads
from open4m.transfer.augment import Augmentations, Pipeline
from open4m.transfer.augment.base import Sizing
from open4m.transfer.backbone import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """``kind``: the head, a name of :mod:`open4m.transfer.heads` or a Python file. ``head``: its configuration.

    ``augment``: what is done with examples; its squares get the size of the backbone's images. ``label``: which of
    several labels of the data is learned as ``label``, such as ``count`` of scenes. ``examples``: so many training
    examples, drawn at random by ``train.seed`` alone, so that all models of a seed learn from the same ones, and fewer
    are a part of more; None: all. ``evaluate_samples``: validation examples at most, while training, spread over all of
    them. ``test_samples``: at the end."""

    kind: str
    head: Any
    backbone: BackboneConfig = BackboneConfig()
    train: TrainConfig
    augment: Augmentations
    label: str = ""
    examples: Steps | None = None
    evaluate_samples: Steps | None = None
    test_samples: Steps | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        wanted = heads.get(self.kind).Config
        if not isinstance(self.head, wanted):
            object.__setattr__(self, "head", configs.from_dict(wanted, self.head, "head"))

    @property
    def at_once(self) -> int:
        """Samples that have room in memory at once, as they have it in training."""
        return self.train.micro_batch_size or self.train.batch_size

    def on(self, backbone: BackboneConfig) -> TransferConfig:
        """The same with a backbone whose size of image is known."""

        def sized(pipeline: Pipeline) -> Pipeline:
            side = backbone.image_size
            return Pipeline(
                steps=tuple(dataclasses.replace(s, side=side) if isinstance(s, Sizing) else s for s in pipeline.steps)
            )

        train, evaluation = sized(self.augment.train), sized(self.augment.evaluation)
        augment = Augmentations(train=train, evaluation=evaluation, mixing=self.augment.mixing)
        return dataclasses.replace(self, backbone=backbone, augment=augment)
