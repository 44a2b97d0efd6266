"""The paper's models: pre-training on the modalities of 4M-7 and 4M-21, at every size (Tables 4, 5 and 14; A.1, A.2).

``open4m train 4m-7-b --tokens TOKENS --tokenizers TOKENIZERS``. On 64 A100 the paper trained 4M-B in 1.5 days; on 128,
4M-L in 3 and 4M-XL in 8 days.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from open4m import modalities
from open4m.config import Duration
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import SIZES, Architecture, ModalitySpec
from open4m.stages import StagesConfig
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig

PIXELS = "rgb_pixels"
GRIDS = {"rgb": 16384, "depth": 8192, "normals": 8192, "semseg": 4096, "clip": 8192}
"""Codebook sizes (paper Table 3)."""
SEQUENCES = ("caption", "boxes")
MORE_GRIDS = ("canny_edge", "sam_edge", "dinov2", "imagebind", "dinov2_global", "imagebind_global")
"""Of 4M-21. Their tokens are enough: a tokenizer of theirs is imported, or there is none."""
MORE_SEQUENCES = ("metadata", "human_poses", "color_palette", "sam_instance")
HIGH_RESOLUTION = tuple(f"{key}@448" for key in GRIDS)

MODALITIES_7 = (PIXELS, *GRIDS, *SEQUENCES)
MODALITIES_21 = (*MODALITIES_7, *MORE_GRIDS, *MORE_SEQUENCES, "t5_caption")
INPUT_ONLY = (PIXELS, "t5_caption")

REFERENCE = dataclasses.replace(
    SIZES["B"], activation="gelu", qkv_bias=True, proj_bias=True, mlp_bias=True, norm_bias=True
)
"""The architecture of the ablations (paper Table 14)."""


def specs_4m7(pixels: bool = True) -> tuple[ModalitySpec, ...]:
    """4M-7's modalities at 224²: grids of 14 × 14 tokens, sequences of 256 (paper Table 3, B.2)."""
    dense = ModalitySpec(key=PIXELS, family="pixels", grid=(14, 14), patch_size=16, channels=3)
    return (
        *((dense,) if pixels else ()),
        *(ModalitySpec(key=key, family="grid", vocab_size=size, grid=(14, 14)) for key, size in GRIDS.items()),
        *(ModalitySpec(key=key, family="sequence", vocab_size=30_000, max_length=256) for key in SEQUENCES),
    )


def any_to_any(
    name: str, inputs: Sequence[str], targets: Sequence[str], alpha: float = 0.5, weight: float = 1.0
) -> Strategy:
    """Any of some modalities to any of others, with one α: RGB → All, All → Geometric, … (paper Tables 16 and 17)."""
    return Strategy(
        name=name,
        weight=weight,
        input_alpha=dict.fromkeys(inputs, alpha),
        target_alpha=dict.fromkeys([key for key in targets if key not in INPUT_ONLY], alpha),
    )


def skewed_to_texts(keys: Sequence[str], targets: Sequence[str], weight: float, text: str = "caption") -> Strategy:
    """Whole captions with little else (paper A.1, A.2)."""
    return Strategy(
        name=f"{text}_to_all",
        weight=weight,
        input_alpha={**dict.fromkeys(keys, 0.05), text: 5.0},
        target_alpha=dict.fromkeys(targets, 0.5),
        unmasked=(text,),
    )


def masking(keys: Sequence[str] = MODALITIES_7) -> MaskingConfig:
    """RGB → All and All → All (paper Table 5)."""
    strategies = (any_to_any("rgb_to_all", [PIXELS], keys), any_to_any("all_to_all", keys, keys))
    return MaskingConfig(input_budget=128, target_budget=128, strategies=strategies)


def pretraining(size: str, keys: Sequence[str] = MODALITIES_7) -> PretrainConfig:
    """The settings of Table 5; those of 4M-B for the smaller sizes, which it does not list."""
    largest = size == "XL"
    return PretrainConfig(
        modalities=tuple(keys),
        architecture=SIZES[size],
        masking=masking(keys),
        train=TrainConfig(
            length=Duration.parse("500B tokens"),
            warmup=Duration.parse("10B tokens"),
            batch_size=8192,
            optim=OptimConfig(base_lr=2e-5 if largest else 1e-4, clip=3.0 if largest else None),
            activation_checkpointing=largest,
            sharding="zero2" if largest else "none",  # C.2; of one process, nothing is divided
        ),
        repeats=4,
    )


def pretraining_21(size: str) -> PretrainConfig:
    """4M-21 (Bachmann et al., 2024), which continues a 4M-7: ``init_from=MODEL``. It sees twice the tokens per sample,
    and a third of the samples are whole captions or their T5 embeddings with little else; the rest is as for 4M-7."""
    base, keys = pretraining(size, MODALITIES_21), MODALITIES_21
    targets = [key for key in keys if key not in INPUT_ONLY]
    skewed = [skewed_to_texts(keys, targets, 1 / 3, text) for text in ("caption", "t5_caption")]
    halves = [dataclasses.replace(s, weight=1 / 6) for s in skewed]
    others = [dataclasses.replace(s, weight=1 / 3) for s in base.masking.strategies]
    return dataclasses.replace(
        base,
        requires_init_from=True,
        tokens_only=MORE_GRIDS,
        masking=MaskingConfig(input_budget=256, target_budget=256, strategies=(*others, *halves)),
        train=dataclasses.replace(base.train, batch_size=4096),
    )


def reference(architecture: Architecture = REFERENCE) -> PretrainConfig:
    """The reference model of the ablations, each of which changes one of these settings (paper Table 14)."""
    strategy = any_to_any("all_to_all", MODALITIES_7, MODALITIES_7, alpha=0.2)
    return PretrainConfig(
        modalities=MODALITIES_7,
        architecture=architecture,
        masking=MaskingConfig(input_budget=128, target_budget=128, strategies=(strategy,)),
        train=TrainConfig(
            length=Duration.parse("100B tokens"),
            warmup=Duration.parse("10B tokens"),
            batch_size=4096,
            optim=OptimConfig(base_lr=1e-4),
        ),
        repeats=4,
    )


def text_to_image(size: str) -> PretrainConfig:
    """The caption-skewed specialization: ``init_from=MODEL`` and 50B tokens more (paper A.2; the warm-up is ours)."""
    base = pretraining(size)
    targets = [key for key in MODALITIES_7 if key not in INPUT_ONLY]
    others = tuple(dataclasses.replace(s, weight=1 / 3) for s in base.masking.strategies)
    strategies = (*others, skewed_to_texts(MODALITIES_7, targets, weight=1 / 3))
    return dataclasses.replace(
        base,
        requires_init_from=True,
        masking=MaskingConfig(input_budget=(64, 256), target_budget=256, strategies=strategies),
        train=dataclasses.replace(base.train, length=Duration.parse("50B tokens"), warmup=Duration.parse("1B tokens")),
    )


def super_resolution(size: str) -> PretrainConfig:
    """224² → 448², which continues ``init_from=MODEL`` for 100B tokens (paper A.1; the warm-up is ours)."""
    base, keys = pretraining(size), (*MODALITIES_7, *HIGH_RESOLUTION)
    strategies = (
        any_to_any("all_to_high", keys, HIGH_RESOLUTION, weight=3 / 4),
        skewed_to_texts(keys, HIGH_RESOLUTION, weight=1 / 4),
    )
    return dataclasses.replace(
        base,
        requires_init_from=True,
        modalities=keys,
        masking=MaskingConfig(input_budget=(64, 1024), target_budget=1024, strategies=strategies),
        train=dataclasses.replace(base.train, length=Duration.parse("100B tokens"), warmup=Duration.parse("1B tokens")),
    )


def inpainting(size: str) -> PretrainConfig:
    """The in-painting specialist, which continues ``init_from=MODEL`` (section 4, A.2). The paper names it without its
    settings, so these are those of :func:`text_to_image`. No pixels are read: they would show what is hidden."""
    base, keys = text_to_image(size), tuple(key for key in MODALITIES_7 if key != PIXELS)
    return dataclasses.replace(
        base, modalities=keys, masking=inpainting_masking(keys, tuple(GRIDS), "rgb", (64, 256), 256)
    )


def inpainting_masking(
    keys: Sequence[str], grids: Sequence[str], image: str, input_budget: tuple[int, int], target_budget: int
) -> MaskingConfig:
    """A rectangle of 5% to 60% of the image is hidden and predicted.

    Half of the samples show the image around it, and little of all else, which may lie in the rectangle. A quarter show
    a whole caption too, as in A.2, and the image gets what it leaves. In the last quarter any of ``grids`` are painted
    in, all of them in one rectangle.
    """
    hole, captions = (0.05, 0.6), skewed_to_texts(keys, [image], weight=1 / 4)
    around = Strategy(
        name=f"{image}_inpainting",
        weight=1 / 2,
        input_alpha={**dict.fromkeys(keys, 0.1), image: 5.0},
        target_alpha={image: 1.0},
        hole=hole,
    )
    described = dataclasses.replace(
        captions,
        name=f"caption_{image}_inpainting",
        input_alpha={**captions.input_alpha, image: 5.0},
        leftover="all",
        hole=hole,
    )
    together = dataclasses.replace(any_to_any("inpainting", keys, grids, weight=1 / 4), hole=hole)
    return MaskingConfig(
        input_budget=input_budget, target_budget=target_budget, strategies=(around, described, together)
    )


GRID, SEQUENCE = (14, 14), 256
"""Tokens of a map of 224 pixels, and of a caption at most (paper Table 3, B.2)."""
OTHER_GRIDS = {"dinov2": (16, 16), "imagebind": (16, 16), "dinov2_global": (1, 16), "imagebind_global": (1, 16)}
OTHER_SEQUENCES = {"metadata": 40, "human_poses": 275, "color_palette": 23, "sam_instance": 290}
"""Sizes of 4M-21's that are not those above, as in the authors' public models."""
T5 = ModalitySpec(key="t5_caption", family="vectors", channels=4096, max_length=77)


def assumed_specs(config: PretrainConfig, whole: StagesConfig | None = None) -> tuple[ModalitySpec, ...]:
    """The modalities of a pre-training whose tokens are not there: as the paper's tokenizers make them, or those of
    ``whole``, a configuration that trains its own. ``rgb@448`` is ``rgb`` on a grid of twice the side."""
    shown = {key for strategy in config.masking.strategies for key in strategy.input_alpha}
    asked = {key for strategy in config.masking.strategies for key in strategy.target_alpha}
    side = config.image_size // config.patch_size
    specs = []
    for key in config.modalities:
        name, _, pixels = key.partition("@")
        spec, kind = T5, modalities.get(name).family.name
        if kind == "pixels":
            spec = ModalitySpec(
                key=key,
                family=kind,
                grid=(side, side),
                patch_size=config.patch_size,
                channels=modalities.get(name).channels,
            )
        elif kind == "sequence":
            length = whole.max_length[name] if whole else OTHER_SEQUENCES.get(name, SEQUENCE)
            spec = ModalitySpec(
                key=key, family=kind, vocab_size=whole.text_vocab if whole else 30_000, max_length=length
            )
        elif kind == "grid":
            grid, vocab = OTHER_GRIDS.get(name, GRID), GRIDS.get(name, 8192)
            if whole and name in whole.tokenizers:
                run = whole.tokenizers[name]
                grid, vocab = (run.image_size // run.patch_size,) * 2, run.codebook_size
            grid = tuple(n * int(pixels or 224) // 224 for n in grid) if pixels else grid
            learned = name in OTHER_GRIDS and 1 in grid
            spec = ModalitySpec(key=key, family=kind, vocab_size=vocab, grid=grid, learned_positions=learned)
        specs.append(dataclasses.replace(spec, is_input=key in shown, is_target=key in asked))
    return tuple(specs)


CONFIGS: dict[str, Callable[[], PretrainConfig]] = {
    **{f"4m-7-{size.lower()}": partial(pretraining, size) for size in ("Ti", "S", "B", "L", "XL")},
    **{f"4m-21-{size.lower()}": partial(pretraining_21, size) for size in ("B", "L", "XL")},
    "4m-7-l-sr": partial(super_resolution, "L"),
    "4m-7-xl-t2i": partial(text_to_image, "XL"),
    "4m-7-xl-inpaint": partial(inpainting, "XL"),
    "4m-reference": reference,
}
"""Every configuration of this file by its name on the command line."""
