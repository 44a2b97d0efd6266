"""The benchmark of 35 transfers by which the paper compares pre-trainings (5, E.1), and a small one on rendered scenes.

``open4m benchmark transfers --model MODEL --data FOLDER``. The paper took about 3 days on 8 A100 for one model.
``open4m benchmark transfers --model scenes --tasks "scenes-*"`` is that of a laptop (``docs/token_transfers.md``).

The paper does not say how many crops of an image there are, how strong color jitter is, nor how long tokenizers of
Taskonomy and Hypersim are trained: these are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from open4m.config import Duration
from open4m.configs import scenes, tokenizers
from open4m.data.views import Crops
from open4m.nn.vit import ViTConfig
from open4m.train.recipes.tokenizer import TokenizerRun
from open4m.transfer.tokens.config import TokenTransfer, TransferData
from open4m.transfer.tokens.table import AVERAGE

PIXELS = "rgb_pixels"
IMAGES = (PIXELS, "rgb")
COCO, ADE20K, TASKONOMY, HYPERSIM, SCENES = "coco", "ade20k", "taskonomy", "hypersim", "scenes"
DETECTION, SEGMENTATION, FROM_RGB, ONE, TWO = "COCO Det.", "ADE20K Seg.", "RGB→X", "X→Y", "X+Y→Z"
"""The columns of the table."""

DEVIATIONS = {DETECTION: 0.008, SEGMENTATION: 0.008, FROM_RGB: 0.021, ONE: 0.018, TWO: 0.016, AVERAGE: 0.010}
"""Standard deviations over ten reference models (Table 15)."""

VIEWS = 10
"""Stored views of each image, of which every visit sees one."""

CROPPED = Crops(count=VIEWS, scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
COLORED = dataclasses.replace(CROPPED, color=0.4)
RESIZED = Crops(count=VIEWS, resized=(0.1, 2.0), color=0.4)
"""Large-scale jitter, with color jitter (Table 10)."""


def transfer(group: str, data: str, inputs: Sequence[str], target: str, **fields) -> TokenTransfer:
    name = f"{data}-{'+'.join(inputs)}-to-{target}"
    return TokenTransfer(name=name, group=group, data=data, inputs=tuple(inputs), target=target, **fields)


def from_rgb(data: str, target: str) -> TokenTransfer:
    """Table 12."""
    known = {
        TASKONOMY: {"epochs": 100, "warmup_epochs": 5, "frozen_epochs": 0, "crops": CROPPED},
        HYPERSIM: {"epochs": 50, "warmup_epochs": 2, "frozen_epochs": 2, "crops": COLORED},
    }
    return transfer(FROM_RGB, data, [PIXELS], target, frozen_lr=1e-4, **known[data])


def from_others(data: str, inputs: Sequence[str], target: str) -> TokenTransfer:
    """Table 13: color jitter only if RGB is in the input."""
    known = {
        TASKONOMY: {"epochs": 100, "warmup_epochs": 5, "frozen_epochs": 25},
        HYPERSIM: {"epochs": 50, "warmup_epochs": 2, "frozen_epochs": 20},
    }
    crops = COLORED if {*inputs} & {*IMAGES} else CROPPED
    return transfer(ONE if len(inputs) == 1 else TWO, data, inputs, target, frozen_lr=2e-3, crops=crops, **known[data])


TASKS: tuple[TokenTransfer, ...] = (
    # Tables 10 and 11
    transfer(DETECTION, COCO, [PIXELS], "boxes", epochs=100, warmup_epochs=5, crops=RESIZED),
    transfer(SEGMENTATION, ADE20K, [PIXELS], "semseg", epochs=200, warmup_epochs=20, weight_decay=0.5, crops=CROPPED),
    *(
        from_rgb(TASKONOMY, target)
        for target in (
            "depth",
            "curvature",
            "reshading",
            "occlusion_edges",
            "edges_2d",
            "keypoints_2d",
            "keypoints_3d",
        )
    ),
    *(from_rgb(HYPERSIM, target) for target in ("normals", "semseg", "edges_2d")),
    from_others(TASKONOMY, ["curvature"], "keypoints_2d"),
    from_others(TASKONOMY, ["depth"], "normals"),
    from_others(TASKONOMY, ["edges_2d"], "depth"),
    from_others(TASKONOMY, ["normals"], "edges_2d"),
    from_others(TASKONOMY, ["occlusion_edges"], "curvature"),
    from_others(TASKONOMY, ["rgb"], "normals"),
    from_others(HYPERSIM, ["rgb"], "semseg"),
    from_others(HYPERSIM, ["edges_2d"], "semseg"),
    from_others(HYPERSIM, ["normals"], "semseg"),
    from_others(HYPERSIM, ["semseg"], "edges_2d"),
    from_others(HYPERSIM, ["semseg"], "normals"),
    from_others(TASKONOMY, [PIXELS, "normals"], "depth"),
    from_others(TASKONOMY, [PIXELS, "depth"], "reshading"),
    from_others(TASKONOMY, ["reshading", "keypoints_2d"], "normals"),
    from_others(TASKONOMY, ["edges_2d", "keypoints_3d"], "rgb"),
    from_others(TASKONOMY, ["edges_2d", "curvature"], "occlusion_edges"),
    from_others(TASKONOMY, ["occlusion_edges", "keypoints_2d"], "curvature"),
    from_others(HYPERSIM, [PIXELS, "depth"], "semseg"),
    from_others(HYPERSIM, [PIXELS, "normals"], "semseg"),
    from_others(HYPERSIM, [PIXELS, "semseg"], "depth"),
    from_others(HYPERSIM, ["depth", "semseg"], "rgb"),
    from_others(HYPERSIM, ["keypoints_2d", "normals"], "semseg"),
    from_others(HYPERSIM, ["edges_2d", "depth"], "semseg"),
)
"""The 35 transfers of E.1."""


def fresh(modality: str, scale: tuple[float, float] = (0.2, 1.0)) -> TokenizerRun:
    """A tokenizer of a data set: a column of Table 3, for the length that E.1 says of ADE20K's, on crops as small as
    those of transfers."""
    run = tokenizers.base(modality)
    (stage,) = run.stages
    train = dataclasses.replace(stage.train, length=Duration(1500, "epochs"), warmup=Duration(150, "epochs"))
    return dataclasses.replace(run, stages=(dataclasses.replace(stage, train=train, crop_scale=scale),))


def data(name: str, keys: Sequence[str], **fields) -> TransferData:
    """Pictures keep 512 pixels of their shorter side, so that a fifth of the area has the 224 of images."""
    return TransferData(name=name, tokenizers={key: fresh(key) for key in keys}, side=512, **fields)


DATA: dict[str, Callable[[], TransferData]] = {
    COCO: partial(data, COCO, (), max_length={"boxes": 256}),
    ADE20K: partial(data, ADE20K, ("semseg",)),
    TASKONOMY: partial(
        data, TASKONOMY, ("rgb", "depth", "normals", *tokenizers.TASKONOMY), train=20_000, validation=2_000
    ),
    HYPERSIM: partial(data, HYPERSIM, ("rgb", "depth", "normals", "semseg", "edges_2d", "keypoints_2d")),
    SCENES: lambda: scenes_data(),
}
"""The data sets of transfers, by the names of their folders."""


# ---- rendered scenes


def scenes_transfer(group: str, inputs: Sequence[str], target: str) -> TokenTransfer:
    """A hundred steps: about two minutes on two cores."""
    return transfer(
        group,
        SCENES,
        inputs,
        target,
        epochs=4,
        warmup_epochs=0.5,
        frozen_epochs=0 if group in (DETECTED, FROM_RGB) else 1,
        base_lr=16e-3,
        frozen_lr=48e-3,
        batch_size=16,
        clip=1.0,
        ema=0.95,
        evaluations=8,
        crops=Crops(count=2, scale=(0.5, 1.0)),
        precision="fp32",
        workers=0,
    )


DETECTED = "Detection"
SCENES_TASKS = (
    scenes_transfer(DETECTED, [PIXELS], "boxes"),
    scenes_transfer(FROM_RGB, [PIXELS], "edges_2d"),
    scenes_transfer(FROM_RGB, [PIXELS], "occlusion_edges"),
    scenes_transfer(ONE, ["depth"], "edges_2d"),
    scenes_transfer(ONE, ["normals"], "depth"),
    scenes_transfer(TWO, [PIXELS, "depth"], "normals"),
)


SCENES_MAPS = ("edges_2d", "occlusion_edges", "depth", "normals")
"""Of which tokenizers are trained."""


def scenes_tokenizer(modality: str) -> TokenizerRun:
    """About a minute on two cores: good enough to be predicted, not to be looked at."""
    run, network = scenes.tokenizer(modality, 128, "300 steps", 50), ViTConfig(width=64, depth=2, heads=1)
    stages = tuple(dataclasses.replace(stage, decoder=network) for stage in run.stages)
    return dataclasses.replace(run, encoder=network, stages=stages)


def scenes_data() -> TransferData:
    """Scenes that the shipped model has not seen."""
    return TransferData(
        name=SCENES,
        tokenizers={key: scenes_tokenizer(key) for key in SCENES_MAPS},
        max_length={"boxes": 32},
        text_vocab=1000,
        text_bins=129,
        image_size=128,
        train=400,
        validation=64,
        world="scenes",
        seed=1,
    )


CONFIGS: dict[str, Callable[[], TokenTransfer]] = {
    f"transfer-{task.name}": partial(dataclasses.replace, task) for task in (*TASKS, *SCENES_TASKS)
}
"""Every transfer by its name among all configurations."""
