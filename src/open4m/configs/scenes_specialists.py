"""Specializations of the shipped model of scenes, which begin with its weights (paper section 4, A.1, A.2).

``open4m reproduce scenes-sr`` makes the model of super-resolution. The others are trained on the tokens of the line
that the model is of, by the shipped tokenizers::

    open4m train scenes-t2i --tokens TOKENS --tokenizers TOKENIZERS
    open4m train scenes-inpaint --tokens TOKENS --tokenizers TOKENIZERS
    open4m train scenes-edit --tokens TOKENS --tokenizers TOKENIZERS

``docs/training.md`` has the commands that make these tokens, and what was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open4m.config import Duration
from open4m.configs.fourm import inpainting_masking
from open4m.configs.scenes import MODALITIES, PIXELS, RENDERED
from open4m.configs.scenes import config as scenes
from open4m.configs.scenes import masking as scenes_masking
from open4m.configs.scenes_gpu import config as scenes_gpu
from open4m.masking.config import MaskingConfig, Strategy
from open4m.reproduce import DataConfig
from open4m.super_resolution import SuperResolutionConfig
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig

BASE = "scenes"
"""The model that all of them continue."""

TOLD = ("caption", "boxes")
"""What tells of the content of a hole."""

LARGE_SIZE = 256  # pixels
LARGE = {"rgb": 2.0, "depth": 0.5, "normals": 0.5, "semseg": 0.5}
"""The grids that super-resolution makes, and their α as targets: in proportion to their tokens. The tokenizer of CLIP
features knows one size only."""


def super_resolution() -> SuperResolutionConfig:
    """128² → 256² pixels: 16 × 16 → 32 × 32 tokens of RGB, 8 × 8 → 16 × 16 of the other maps.

    ``open4m reproduce scenes-sr``.
    """
    laptop = scenes()
    large = {f"{key}@{LARGE_SIZE}": alpha for key, alpha in LARGE.items()}
    data = DataConfig(train=16_000, validation=256, test=256, image_size=LARGE_SIZE, shard_rows=250, rendered=RENDERED)
    return SuperResolutionConfig(
        name="scenes-sr",
        base=BASE,
        data=data,
        tokenizers={},
        text_vocab=laptop.text_vocab,
        max_length=laptop.max_length,
        pretrain=continued(enlarging(MODALITIES, large, (64, 384), 384), modalities=(*MODALITIES, *large)),
        evaluate_samples=64,
        processes=2,
    )


def enlarging(
    keys: Sequence[str], large: Mapping[str, float], input_budget: tuple[int, int], target_budget: int
) -> MaskingConfig:
    """All → larger grids, ``large`` with their α as targets (A.1). A quarter of the samples are whole captions. In half
    of them, which is ours, nearly all of the small RGB is shown: what there is to start from."""
    every = (*keys, *large)
    rgb = {**dict.fromkeys(every, 0.1), "rgb": 10.0} | {key: 1.0 for key in large if key.startswith("rgb@")}
    strategies = (
        Strategy(name="rgb_to_large", weight=0.5, input_alpha=rgb, target_alpha=dict(large)),
        Strategy(name="all_to_large", weight=0.25, input_alpha=dict.fromkeys(every, 0.5), target_alpha=dict(large)),
        Strategy(
            name="caption_to_large",
            weight=0.25,
            input_alpha={**dict.fromkeys(every, 0.05), "caption": 5.0},
            target_alpha=dict(large),
            unmasked=("caption",),
            leftover="uniform",
        ),
    )
    return MaskingConfig(input_budget=input_budget, target_budget=target_budget, strategies=strategies)


def text_to_image() -> PretrainConfig:
    """The caption-skewed specialist (A.2): the strategies of scenes, of which captions take two thirds. They are shown
    whole, with any part of the rest, as generation from a text passes through it.

    ``open4m train scenes-t2i``.
    """
    base = scenes_masking(MODALITIES, 64, 320, 384)
    weights = {"rgb_to_all": 1 / 6, "all_to_all": 1 / 6, "caption_to_all": 2 / 3}
    strategies = tuple(dataclasses.replace(s, weight=weights[s.name], final_weight=None) for s in base.strategies)
    return continued(dataclasses.replace(base, strategies=strategies, curriculum=None))


def inpainting() -> PretrainConfig:
    """The in-painting specialist (section 4, A.2): ``open4m train scenes-inpaint``."""
    keys = tuple(key for key in MODALITIES if key != PIXELS)  # whose patches would show the hole
    targets = ("rgb", "depth", "normals", "semseg", "clip")
    return continued(inpainting_masking(keys, targets, "rgb", (64, 320), 256), modalities=keys)


def editing() -> PretrainConfig:
    """Moved boxes and other captions where the rest of an image is kept: ``open4m train scenes-edit``.

    Half of the samples show an image around a hole, and whole boxes and a whole caption, which tell of what is in it;
    the others keep what the shipped model knows. Whoever only sees cells hidden one by one never learns to read the
    content of a hole from a text. The learning rate is low, since a higher one forgets.
    """
    hole, base = (0.05, 0.6), {s.name: s for s in scenes_masking(MODALITIES, 64, 320, 384).strategies}
    kept = {"rgb_to_all": 0.15, "all_to_all": 0.1, "caption_to_all": 0.15}
    little = dict.fromkeys((key for key in MODALITIES if key != PIXELS), 0.1)
    described = Strategy(
        name="described_inpainting",
        weight=0.5,
        input_alpha={**dict.fromkeys(("depth", "normals", "clip"), 0.05), "semseg": 1.0, "rgb": 5.0}
        | dict.fromkeys(TOLD, 5.0),
        target_alpha={"rgb": 1.0, "semseg": 0.5, "clip": 0.5},
        input_budget=(320, 320),
        unmasked=TOLD,
        leftover="all",
        hole=hole,
    )
    around = Strategy(
        name="inpainting",
        weight=0.1,
        input_alpha={**little, "rgb": 5.0},
        target_alpha={"rgb": 1.0},
        input_budget=(64, 320),
        hole=hole,
    )
    strategies = (
        *(dataclasses.replace(base[name], weight=weight, final_weight=None) for name, weight in kept.items()),
        described,
        around,
    )
    made = continued(MaskingConfig(input_budget=(0, 320), target_budget=384, strategies=strategies))
    train = dataclasses.replace(
        made.train,
        warmup=Duration.parse("2k samples"),
        decay=Duration.parse("12k samples"),
        optim=dataclasses.replace(made.train.optim, base_lr=8e-3, muon_lr=1e-3),
        evaluate_every=1000,
    )
    return dataclasses.replace(made, train=train)


def continued(masking: MaskingConfig, **fields: Any) -> PretrainConfig:
    """A short training from the shipped weights, on a CPU."""
    base = scenes_gpu().pretrain
    return dataclasses.replace(
        base,
        architecture=dataclasses.replace(base.architecture, patch_embedding="linear"),  # as shipped weights are
        masking=masking,
        train=TrainConfig(
            length=Duration.parse("60k samples"),
            warmup=Duration.parse("500 samples"),
            decay=Duration.parse("10k samples"),
            batch_size=16,
            optim=OptimConfig(base_lr=24e-3, clip=1.0, muon_lr=3e-3, muon_iterations=3),
            precision="fp32",
            workers=0,
            evaluate_every=500,
            checkpoint_every=50,
        ),
        init_from=BASE,
        requires_init_from=True,
        **fields,
    )


CONFIGS: Mapping[str, Callable[[], Any]] = {
    "scenes-sr": super_resolution,
    "scenes-t2i": text_to_image,
    "scenes-inpaint": inpainting,
    "scenes-edit": editing,
}
