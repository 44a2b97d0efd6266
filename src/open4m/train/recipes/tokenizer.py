"""Training the tokenizer of a dense modality on labelled data: ``open4m train tokenizer-rgb --data FOLDER``."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from open4m import config as configs
from open4m import files, modalities, ranks
from open4m.datasets.classes import Classes, of_data
from open4m.modalities.features import Vector
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.progress import track
from open4m.ranges import Count, Share, Size, check_ranges
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import TokenizerConfig, grid_modality
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.quantizers.base import QuantizerConfig
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train.config import TrainConfig, claim
from open4m.train.loop import train
from open4m.train.tasks.tokenizer import TokenizerTask
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

NO_CLASSES = Classes()


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """One training, which starts from the tokenizer of the stage before. Fields are those of ``TokenizerConfig``.

    ``crop_scale``: the least and the most area of a training crop; None: that of the modality (Table 3).
    """

    decoder: ViTConfig | UNetConfig | MLPConfig
    train: TrainConfig
    diffusion: DiffusionConfig | None = None
    frozen_encoder: bool = False
    continuous_steps: Count = 0
    resolutions: tuple[Size, ...] = ()
    crop_scale: tuple[Share, Share] | None = field(default=None, metadata=configs.LATER)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class TokenizerRun(QuantizerConfig):
    """A tokenizer and its training. Feature maps and vectors have a size of their own, whatever ``image_size``.

    ``continuous_steps`` is a matter of each stage: the run's own value is not used.
    """

    modality: str
    encoder: ViTConfig | MLPConfig
    stages: tuple[TokenizerStage, ...]
    image_size: Size = 224  # pixels
    patch_size: Size = 16  # pixels
    standardize: bool = False  # each value by itself, which loses its units: depth without a scale
    init_from: str | None = None  # the folder of a trained tokenizer that the first stage starts from
    requires_init_from: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise Open4MError(f"tokenizer of {self.modality}: expected one or more stages, got none")


def fit_tokenizer(
    config: TokenizerRun,
    data: Path,
    directory: Path,
    classes: Classes = NO_CLASSES,
    device: str = "cpu",
    large: Path | None = None,
) -> None:
    """Train a tokenizer in ``directory``, stage by stage; it is in ``model/`` when done. Resumes what is there.

    ``data``: a folder with the raw shards ``train`` and ``validation``. ``large``: another one, of larger values, for
    the stages of several resolutions. ``classes``: of a categorical modality, by default those that the data name, or
    its own. Raises :class:`Open4MError` if the data or the classes do not fit, or the tokenizer that a stage starts
    from.
    """
    name, modality = config.modality, grid_modality(config.modality)
    if modality.categorical and not classes.names:
        classes = of_data(data / "train", name)
        classes = classes if classes.names else Classes(names=modality.class_names)
    if modality.categorical != bool(classes.names):
        raise Open4MError(
            f"{name}: its tokenizer needs the names of the classes: --classes FILE, one name per line"
            if modality.categorical
            else f"{name}: has no classes, leave their names out"
        )
    if config.requires_init_from and config.init_from is None:
        raise Open4MError(f"{name}: this training continues that of a tokenizer: init_from=FOLDER")
    if config.stages[0].frozen_encoder and config.init_from is None:
        raise Open4MError(f"{name}: a frozen encoder needs a trained tokenizer to start from: init_from=FOLDER")
    training, validation = (RawDataset(data / split, [name]) for split in ("train", "validation"))
    fine = RawDataset(large / "train", [name]) if large else training
    for part in (training, validation, fine):
        if part.missing(name) == len(part):
            raise Open4MError(f"{part.root}: holds no samples of {name}")
    trained = Tokenizer.load(config.init_from, device) if config.init_from else None
    known = _fields(config, training, classes, trained)
    stages = [
        TokenizerConfig.of(
            name,
            decoder=stage.decoder,
            diffusion=stage.diffusion,
            frozen_encoder=stage.frozen_encoder,
            resolutions=stage.resolutions,
            **{**known, "continuous_steps": stage.continuous_steps},
        )
        for stage in config.stages
    ]
    lengths = [stage.train.on_data(_count(fine if stage.resolutions else training, name)) for stage in config.stages]

    def claimed() -> bool:
        finished = files.is_filled(directory / "model")
        claim(directory, {"tokenizer": config, "classes": classes}, finished)
        return finished

    if ranks.on_first(claimed):
        return
    for number, (stage, task_config) in enumerate(zip(config.stages, stages, strict=True), 1):
        run = directory / f"stage-{number}"
        if ranks.on_first(partial(_finished, run, {"train": stage.train, "task": task_config})):
            logger.info("%s: stage %d of %d is done", name, number, len(stages))
        else:
            task = TokenizerTask(
                task_config,
                fine if stage.resolutions else training,
                validation,
                batch_size=stage.train.batch_size,
                seed=stage.train.seed,
                allow_rejects=stage.train.allow_rejects,
                crop_scale=stage.crop_scale,
            )
            logger.info("%s: stage %d of %d", name, number, len(stages))
            prepare = None if trained is None else partial(_start_from, trained)
            train(task, lengths[number - 1], run, device=device, prepare=prepare, task_config=task_config)
        trained = Tokenizer.load(run / "model", device)
    ranks.on_first(lambda: files.write_folder(directory / "model", trained.save))


def _finished(run: Path, description: Any) -> bool:
    """Whether a stage is done. Raises :class:`Open4MError` if it was one of another configuration."""
    done = files.is_filled(run / "model")
    if done:
        claim(run, description, finished=True)
    return done


def _start_from(trained: Tokenizer, model: VQVAE, begins: bool) -> None:
    if begins:
        model.init_from(trained.model)


def _count(data: RawDataset, name: str) -> int:
    """How many samples have a modality."""
    return len(data) - data.missing(name)


def _fields(config: TokenizerRun, training: RawDataset, classes: Classes, trained: Tokenizer | None) -> dict[str, Any]:
    """The fields of ``TokenizerConfig`` that all stages share: those of the run, and those that the data determine."""
    modality = grid_modality(config.modality)
    known = {f.name: getattr(config, f.name) for f in fields(QuantizerConfig)}
    known |= {"encoder": config.encoder, "image_size": config.image_size, "patch_size": config.patch_size}
    if config.standardize:
        known["standardize"] = True
    elif modality.normalization == "fit":
        known["mean"], known["std"] = statistics(training, config.modality)
    if modality.categorical:
        known |= {"class_names": classes.names, "palette": classes.palette}
    if modality.feature_map:
        height, _, channels = training.having(config.modality)[0][config.modality].shape
        known |= {"image_size": height, "channels": channels, "patch_size": 1}
    if isinstance(modality, Vector):
        known |= {
            "image_size": 1,
            "channels": len(training.having(config.modality)[0][config.modality]),
            "patch_size": 1,
        }
    if trained is not None:  # its encoder knows values of this normalization only
        known |= {name: getattr(trained.config, name) for name in ("mean", "std", "standardize")}
    return known


def classes_of(root: Path, name: str) -> Classes:
    """The classes of a modality's tokenizer: those that raw data name, else the modality's own, or numbers."""
    modality = grid_modality(name)
    if not modality.categorical:
        return NO_CLASSES
    if (known := of_data(root, name)).names:
        return known
    own = modality.class_names
    return Classes(names=own) if own else numbered(RawDataset(root, [name]), name)


def numbered(raw: RawDataset, name: str) -> Classes:
    """Classes of a categorical modality that are called by their numbers, up to the highest in the data; the mark of
    pixels without a class is none."""
    data, modality = raw.having(name), modalities.get(name)
    values = (data[i][name] for i in track(range(len(data)), f"count classes of {name}", unit="samples"))
    marked = ((value, modality.valid(value)) for value in values)
    highest = max((int(v.max(initial=0, where=True if valid is None else valid)) for v, valid in marked), default=0)
    return Classes(names=tuple(f"class {i}" for i in range(highest + 1)))


def statistics(raw: RawDataset, name: str, limit: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of a grid modality, over the measured pixels of ``limit`` samples spread
    over those that have it."""
    data, modality = raw.having(name), modalities.get(name)
    chosen = np.linspace(0, len(data) - 1, min(limit, len(data))).astype(int)
    parts = []
    for value in (data[int(i)][name] for i in chosen):
        tensor, valid = modality.tensor(value), modality.valid(value)
        parts.append(tensor.reshape(len(tensor), -1) if valid is None else tensor[:, valid])
    flat = np.concatenate(parts, 1).astype(np.float64)  # (C, pixels)
    return tuple(flat.mean(1).tolist()), tuple(np.maximum(flat.std(1), 1e-6).tolist())
