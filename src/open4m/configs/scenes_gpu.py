"""The line of scenes on one GPU: finer tokens of RGB, a larger model and batches, more samples.

Command: ``open4m reproduce scenes-gpu --device cuda``. The shipped model was trained by it, in two parts,
and then by ``scenes-edit`` (``docs/log.md``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from open4m.config import Duration
from open4m.configs.scenes import MODALITIES, masking, tokenizer
from open4m.configs.scenes import config as scenes
from open4m.model.config import SIZES
from open4m.reproduce import LineConfig
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.tokenizer import TokenizerRun

WORKERS = 4
"""Processes that make batches for small networks."""


def config() -> LineConfig:
    """Tokens of RGB are of 8 × 8 pixels: those of 16 × 16 do not keep the shapes of objects. So that images can be made
    from captions, inputs range up to a caption with nearly all of an image. Decoders are Vision Transformers."""
    laptop = scenes()
    return dataclasses.replace(
        laptop,
        name="scenes-gpu",
        tokenizers={name: _tokenizer(run) for name, run in laptop.tokenizers.items()} | {"rgb": rgb()},
        pretrain=dataclasses.replace(
            laptop.pretrain,
            architecture=dataclasses.replace(SIZES["scenes"], encoder_depth=6, decoder_depth=2, dim=256, heads=4),
            masking=masking(MODALITIES, 64, 320, 384),
            train=dataclasses.replace(
                laptop.pretrain.train,
                length=Duration.parse("640k samples"),
                warmup=Duration.parse("50k samples"),
                decay=Duration.parse("180k samples"),
                batch_size=256,
                optim=OptimConfig(base_lr=3e-3, clip=1.0, muon_lr=10e-3),
                precision="bf16",
                workers=12,
                evaluate_every=2000,
                checkpoint_every=1000,
            ),
        ),
        clip_train=_fed(laptop.clip_train),
        reader=dataclasses.replace(laptop.reader, train=_fed(laptop.reader.train)),
        processes=16,
    )


def rgb() -> TokenizerRun:
    run = tokenizer("rgb", 1024, "4000 steps", 400)
    return dataclasses.replace(_tokenizer(run), patch_size=8)


def _tokenizer(run: TokenizerRun) -> TokenizerRun:
    """The same training without diffusion decoders, with batches by processes of their own."""
    stages = [dataclasses.replace(stage, train=_fed(stage.train)) for stage in run.stages if stage.diffusion is None]
    return dataclasses.replace(run, stages=tuple(stages))


def _fed(train: TrainConfig) -> TrainConfig:
    return dataclasses.replace(train, workers=WORKERS, evaluate_every=2000)


CONFIGS: Mapping[str, Callable[[], LineConfig]] = {"scenes-gpu": config}
