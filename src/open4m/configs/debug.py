"""The whole line in less than a minute on two cores: every stage for real, at a size that learns next to nothing.

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
from open4m.reproduce import LineConfig
from open4m.train.config import TrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage

STAGES = {"rgb": None, "depth": 3}
"""How many of the stages of scenes' tokenizers are trained; None: all of them. By default only the first."""
TINY = ViTConfig(width=32, depth=1, heads=1)


def config() -> LineConfig:
    """The line of scenes with little data, short trainings, narrow networks, and fewer stages of tokenizers."""
    full = scenes()
    return dataclasses.replace(
        full,
        name="debug",
        data=dataclasses.replace(
            full.data, train=48, validation=16, test=16, image_size=64, large=16, large_size=128, shard_rows=16
        ),
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
        reader=dataclasses.replace(
            full.reader,
            network=dataclasses.replace(full.reader.network, image_size=64, channels=(8, 8, 8), blocks=1),
            train=shortened(full.reader.train),
        ),
        tokenizers={name: tokenizer(run, STAGES.get(name, 1)) for name, run in full.tokenizers.items()},
        pretrain=dataclasses.replace(
            full.pretrain,
            architecture=SIZES["debug"],
            masking=masking(MODALITIES, 16, 32, 32),
            train=shortened(full.pretrain.train),
            image_size=64,
        ),
        evaluate_samples=8,
        tune_samples=2,
        processes=1,  # further ones take longer to begin than all of it takes
    )


def shortened(train: TrainConfig) -> TrainConfig:
    """The same training for eight steps of eight samples."""
    return dataclasses.replace(
        train,
        length=Duration(8, "steps"),
        warmup=Duration(2, "steps"),
        decay=train.decay and Duration(2, "steps"),
        batch_size=8,
        evaluate_every=8,
        checkpoint_every=4,
        log_every=2,
        workers=0,
    )


def tokenizer(run: TokenizerRun, stages: int | None) -> TokenizerRun:
    """The first ``stages`` of a tokenizer's training, with a small codebook and small networks."""
    return dataclasses.replace(
        run, codebook_size=64, encoder=TINY, image_size=64, stages=tuple(map(stage, run.stages[:stages]))
    )


def stage(full: TokenizerStage) -> TokenizerStage:
    """The same stage for images of half the size."""
    return dataclasses.replace(
        full,
        decoder=UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1) if full.diffusion else TINY,
        continuous_steps=min(3, full.continuous_steps),
        resolutions=tuple(side // 2 for side in full.resolutions),
        train=shortened(full.train),
    )
