"""The whole line in under three minutes on two cores: every stage for real, at a size that learns next to nothing.

``open4m reproduce debug``. It is what the tests run, and what to copy when you start your own.
"""

from __future__ import annotations

import dataclasses

from open4m.config import Duration
from open4m.configs.scenes import MODALITIES, masking
from open4m.configs.scenes import config as scenes
from open4m.model.config import SIZES
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.reproduce import DataConfig, LineConfig


def config() -> LineConfig:
    """The scenes' line with little data, short trainings and narrow networks."""
    full = scenes()
    tiny = ViTConfig(width=32, depth=1, heads=1)
    few = Duration.parse("20 steps")

    def shortened(train):
        return dataclasses.replace(
            train,
            length=few,
            warmup=Duration.parse("4 steps"),
            batch_size=16,
            evaluate_every=20,
            checkpoint_every=10,
            log_every=5,
            workers=0,
        )

    def small(stage):
        unet = UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1)
        return dataclasses.replace(
            stage,
            decoder=unet if stage.diffusion else tiny,
            continuous_steps=min(5, stage.continuous_steps),
            resolutions=tuple(side // 2 for side in stage.resolutions),
            train=shortened(stage.train),
        )

    return dataclasses.replace(
        full,
        name="debug",
        data=DataConfig(train=96, validation=32, test=32, image_size=64, large=32, large_size=128, shard_rows=32),
        clip=dataclasses.replace(
            full.clip,
            image_size=64,
            width=32,
            layers=1,
            heads=1,
            projection=32,
            text_width=32,
            text_layers=1,
            text_heads=1,
        ),
        clip_train=shortened(full.clip_train),
        tokenizers={
            name: dataclasses.replace(
                run, codebook_size=64, encoder=tiny, image_size=64, stages=tuple(map(small, run.stages))
            )
            for name, run in full.tokenizers.items()
        },
        pretrain=dataclasses.replace(
            full.pretrain,
            architecture=SIZES["debug"],
            masking=masking(MODALITIES, 16, 32, 32),
            train=shortened(full.pretrain.train),
            image_size=64,
        ),
        evaluate_samples=8,
    )
