"""The paper's tokenizers (Table 3, B.3), and 4M-21's of features and of single vectors: ``open4m train tokenizer-rgb
--data FOLDER``.

``tokenizer-<modality>-debug`` is a small one that learns in minutes on a CPU, to see that data and settings are right.
``tokenizer-<modality>`` is trained on ImageNet-1K; ``tokenizer-<modality>-cc12m`` continues one on CC12M, and
``tokenizer-<modality>-448`` at 224² to 448² in steps of 32, one resolution per batch: ``init_from=FOLDER``. The data
are your choice; lengths are those of the paper.

Those of the further targets of the paper's benchmark (E.1) have 8,192 codes and a ViT decoder.

The sizes of 4M-21's are those of the authors' public tokenizers, such as ``4M_tokenizers_DINOv2-B14-global_8k_16_224``.
Theirs of single vectors have another quantizer, "memcodes".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from open4m.config import Duration
from open4m.configs import scenes
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage

VITS = {
    "S": ViTConfig(width=384, depth=12, heads=6),
    "B": ViTConfig(width=768, depth=12, heads=12),
    "L": ViTConfig(width=1024, depth=24, heads=16),
}
GPUS = 8
"""On which the paper's batches "per GPU" are taken to be; it does not say how many there were."""

IMAGENET, CC12M = 1_281_167, 12_000_000  # samples per epoch; that of CC12M is taken from its name


@dataclass(frozen=True, kw_only=True)
class Column:
    """What differs between the columns of Table 3, and between the trainings at several resolutions."""

    codebook_size: int
    diffusion: DiffusionConfig | None = None
    batch_size: int = 640
    epochs: int = 1  # of CC12M, at several resolutions
    small_batch: int = 16  # samples per GPU, at several resolutions
    unit: int = 16  # pixels per token and side; of a feature map: cells
    cells: range = range(14, 29, 2)  # tokens per side, at several resolutions


TASKONOMY = ("curvature", "reshading", "occlusion_edges", "edges_2d", "keypoints_2d", "keypoints_3d")

COLUMNS = {
    "rgb": Column(codebook_size=16384, diffusion=DiffusionConfig(), epochs=5),
    "normals": Column(codebook_size=8192, diffusion=DiffusionConfig()),
    "depth": Column(codebook_size=8192, diffusion=DiffusionConfig(clip=False)),  # depth has no bounds
    "semseg": Column(codebook_size=4096, small_batch=10),
    "clip": Column(codebook_size=8192, batch_size=1024, unit=1),
    # of 4M-21, trained like CLIP's, whose settings the authors share with them; patches of 14 pixels
    "dinov2": Column(codebook_size=8192, batch_size=1024, unit=1, cells=range(16, 33)),
    "imagebind": Column(codebook_size=8192, batch_size=1024, unit=1, cells=range(16, 33)),
    # of the benchmark's transfers (E.1), "in the same way as we did for pre-training"; sizes are ours
    **dict.fromkeys(TASKONOMY, Column(codebook_size=8192)),
}


@dataclass(frozen=True, kw_only=True)
class VectorColumn:
    """What differs between the tokenizers of single vectors."""

    codebook_size: int
    codebooks: int
    warmup_epochs: int = 5


VECTORS = {
    "dinov2_global": VectorColumn(codebook_size=8192, codebooks=16),
    "imagebind_global": VectorColumn(codebook_size=8192, codebooks=16),
    "human_pose": VectorColumn(codebook_size=1024, codebooks=8, warmup_epochs=1),
}


def base(modality: str, size: str = "B") -> TokenizerRun:
    """A column of Table 3: 100 epochs of ImageNet-1K, of which 5 are warm-up."""
    column = COLUMNS[modality]
    stage = TokenizerStage(
        decoder=UNetConfig() if column.diffusion else VITS[size],
        diffusion=column.diffusion,
        train=TrainConfig(
            length=Duration(100 * IMAGENET, "samples"),
            warmup=Duration(5 * IMAGENET, "samples"),
            batch_size=column.batch_size,
            optim=OptimConfig(base_lr=5e-5),
            precision="fp16" if column.diffusion else "bf16",
        ),
    )
    return TokenizerRun(modality=modality, codebook_size=column.codebook_size, encoder=VITS[size], stages=(stage,))


def more_data(modality: str, size: str = "B") -> TokenizerRun:
    """The second part of a column of Table 3: 15 epochs of CC12M, of which one is warm-up."""
    run = base(modality, size)
    (stage,) = run.stages
    train = dataclasses.replace(stage.train, length=Duration(15 * CC12M, "samples"), warmup=Duration(CC12M, "samples"))
    return dataclasses.replace(run, stages=(dataclasses.replace(stage, train=train),), requires_init_from=True)


def multi_resolution(modality: str, size: str = "B") -> TokenizerRun:
    """An epoch of CC12M, five for RGB, at 224² to 448² (B.3)."""
    run, column = base(modality, size), COLUMNS[modality]
    (stage,) = run.stages
    train = dataclasses.replace(
        stage.train,
        length=Duration(column.epochs * CC12M, "samples"),
        warmup=Duration(0, "steps"),
        batch_size=GPUS * column.small_batch,
    )
    resolutions = tuple(cells * column.unit for cells in column.cells)
    stages = (dataclasses.replace(stage, train=train, resolutions=resolutions),)
    return dataclasses.replace(run, stages=stages, requires_init_from=True)


def vector(modality: str) -> TokenizerRun:
    """15 epochs, as in the authors' public configurations; that they are of ImageNet-1K, and the batch, are ours."""
    column, mlp = VECTORS[modality], MLPConfig(width=1024, depth=6)
    stage = TokenizerStage(
        decoder=mlp,
        train=TrainConfig(
            length=Duration(15 * IMAGENET, "samples"),
            warmup=Duration(column.warmup_epochs * IMAGENET, "samples"),
            batch_size=1024,
            optim=OptimConfig(base_lr=1e-4, betas=(0.9, 0.99), clip=1.0),
            ema=0.99,
        ),
    )
    return TokenizerRun(
        modality=modality,
        codebook_size=column.codebook_size,
        codebooks=column.codebooks,
        latent_dim=1024,
        encoder=mlp,
        stages=(stage,),
    )


def small(modality: str) -> TokenizerRun:
    """A network of 1.7M weights on images of 128 pixels, with a learning rate for its batch: 500 steps of 32 samples,
    some minutes on two cores. The networks and the rate are those of the scenes' tokenizers."""
    run = scenes.tokenizer(modality, 512, "500 steps", 100)
    if modality not in VECTORS:
        return run
    column, mlp = VECTORS[modality], MLPConfig(width=256, depth=2)
    stages = tuple(dataclasses.replace(stage, decoder=mlp) for stage in run.stages)
    return dataclasses.replace(run, encoder=mlp, codebooks=column.codebooks, latent_dim=256, stages=stages)


SUFFIXES = {"": "B", "-s": "S", "-l": "L"}
TRAININGS = {"": base, "-cc12m": more_data, "-448": multi_resolution}
CONFIGS: dict[str, Callable[[], TokenizerRun]] = {
    **{
        f"tokenizer-{name}{suffix}{kind}": partial(training, name, size)
        for name in COLUMNS
        for suffix, size in SUFFIXES.items()
        for kind, training in TRAININGS.items()
    },
    **{f"tokenizer-{name}": partial(vector, name) for name in VECTORS},
    **{f"tokenizer-{name}-debug": partial(small, name) for name in (*COLUMNS, *VECTORS)},
}
"""Every configuration of this file by its name on the command line."""
