"""4M on eight modalities of rendered scenes, trained on a laptop CPU.

Command: ``open4m reproduce scenes``. ``docs/training.md`` says how to take weights from it before the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from open4m.config import Duration
from open4m.labellers.clip import SmallCLIP
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import SIZES
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.reproduce import DataConfig, LineConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage

PIXELS = "rgb_pixels"
SEQUENCES = ("caption", "boxes")
RENDERED = ("rgb", "depth", "normals", "semseg", "boxes", "caption")  # modalities that the renderer makes itself
RESOLUTIONS = (128, 160, 192, 224, 256)  # of tokenizers, in pixels
MODALITIES = (PIXELS, "rgb", "depth", "normals", "semseg", "clip", *SEQUENCES)


def config() -> LineConfig:
    """The line for a laptop. The shipped CLIP, reader and tokenizers but that of RGB are of it."""
    return LineConfig(
        name="scenes",
        data=DataConfig(
            train=64_000,
            validation=1_024,
            test=1_024,
            large=3_000,
            large_size=max(RESOLUTIONS),
            rendered=RENDERED,
        ),
        clip=SmallCLIP(),
        clip_train=short("700 steps", batch_size=64, lr=1e-3),
        tokenizers={
            "rgb": tokenizer("rgb", 1024, "3000 steps", 400, at_sizes(), *diffusion("2500 steps", clip=True)),
            "depth": tokenizer("depth", 512, "1200 steps", 150, at_sizes(), *diffusion("1500 steps", clip=False)),
            "normals": tokenizer("normals", 512, "1600 steps", 200, at_sizes(), *diffusion("1500 steps", clip=True)),
            "semseg": tokenizer("semseg", 512, "1000 steps", 150, at_sizes()),
            "clip": tokenizer("clip", 512, "1000 steps", 150, depth=2),
        },
        text_vocab=1000,
        text_bins=129,  # coordinates in 128ths are pixels of a 128 × 128 image, exactly
        max_length={"caption": 64, "boxes": 32},
        pretrain=PretrainConfig(
            modalities=MODALITIES,
            architecture=SIZES["scenes"],
            masking=masking(MODALITIES, 64, 64, 256),
            train=TrainConfig(
                length=Duration.parse("1.5M samples"),
                warmup=Duration.parse("10k samples"),
                decay=Duration.parse("150k samples"),
                batch_size=32,
                optim=OptimConfig(base_lr=24e-3, clip=1.0, muon_lr=6e-3, muon_iterations=3),
                precision="fp32",
                workers=0,
                evaluate_every=1000,
                checkpoint_every=250,
            ),
            image_size=128,
        ),
        evaluate_samples=256,
    )


def masking(keys: Sequence[str], image_tokens: int, input_budget: int, target_budget: int) -> MaskingConfig:
    """RGB → All and All → All (paper Table 20), and whole captions → All for generation from text (A.2).

    ``input_budget``: the largest number of input tokens per sample. Sequences have a larger α as targets than grids,
    since their share of the target budget would cut them short otherwise. Predictions from pixels are learned first:
    the weight of captions rises later.
    """
    every = dict.fromkeys(keys, 0.5)
    targets = {key: 1.0 if key in SEQUENCES else 0.5 for key in keys if key != PIXELS}
    captions = {**dict.fromkeys(keys, 0.05), "caption": 5.0}
    return MaskingConfig(
        input_budget=(0, input_budget),
        target_budget=target_budget,
        curriculum=(Duration.parse("130k samples"), Duration.parse("140k samples")),
        strategies=(
            Strategy(
                name="rgb_to_all",
                weight=0.8,
                final_weight=0.5,
                input_alpha={PIXELS: 0.5},
                target_alpha=targets,
                input_budget=(image_tokens, image_tokens),
            ),
            Strategy(name="all_to_all", weight=0.1, input_alpha=every, target_alpha=targets),
            Strategy(
                name="caption_to_all",
                weight=0.1,
                final_weight=0.4,
                input_alpha=captions,
                target_alpha=targets,
                input_budget=(input_budget, input_budget),
                unmasked=("caption",),
                leftover="uniform",
            ),
        ),
    )


def vit(depth: int = 4) -> ViTConfig:
    """The encoder of every tokenizer, and the decoder of its first stage."""
    return ViTConfig(width=128, depth=depth, heads=2)


def tokenizer(
    modality: str, codebook_size: int, length: str, continuous: int, *then: TokenizerStage, depth: int = 4
) -> TokenizerRun:
    """A small ViT tokenizer, unquantized for the first ``continuous`` steps. ``then``: the stages after the first."""
    first = TokenizerStage(decoder=vit(depth), continuous_steps=continuous, train=short(length, batch_size=32, lr=2e-3))
    return TokenizerRun(
        modality=modality, codebook_size=codebook_size, encoder=vit(depth), image_size=128, stages=(first, *then)
    )


def at_sizes() -> TokenizerStage:
    """A short stage at several resolutions, up to twice the size."""
    return TokenizerStage(decoder=vit(), resolutions=RESOLUTIONS, train=short("300 steps", batch_size=16, lr=5e-4))


def diffusion(length: str, clip: bool) -> tuple[TokenizerStage, TokenizerStage, TokenizerStage]:
    """Three stages of a diffusion decoder of 1.6M weights on the frozen encoder of the ViT stage, whose tokens are
    better than those learned with a diffusion decoder.

    The first stage has one resolution, the second all of them. The third has the smallest one half of the time, since
    the second costs it some quality. Networks this small decode best in one call, so most training images are pure
    noise.
    """
    small = TokenizerStage(
        decoder=UNetConfig(channels=32, blocks=1, code_upsampling="learned"),
        frozen_encoder=True,
        train=short(length, batch_size=32, lr=3e-3),
        diffusion=DiffusionConfig(steps=1, clip=clip, pure_noise=0.75),
    )
    larger = dataclasses.replace(small, resolutions=RESOLUTIONS, train=short("300 steps", batch_size=16, lr=5e-4))
    half = (*RESOLUTIONS, *(len(RESOLUTIONS) * RESOLUTIONS[:1]))
    return (
        small,
        larger,
        dataclasses.replace(larger, resolutions=half, train=short("400 steps", batch_size=16, lr=5e-4)),
    )


def short(length: str, batch_size: int, lr: float) -> TrainConfig:
    """A training of minutes. ``lr``: the peak learning rate. fp32 is as fast as bf16 at these widths on a CPU."""
    return TrainConfig(
        length=Duration.parse(length),
        warmup=Duration.parse("50 steps"),
        batch_size=batch_size,
        optim=OptimConfig(base_lr=lr * 256 / batch_size, clip=1.0),
        precision="fp32",
        workers=0,
        evaluate_every=500,
        checkpoint_every=500,
    )
