"""Training the tokenizer of a dense modality on labelled data: ``open4m train tokenizer-rgb --data FOLDER``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from open4m import hub
from open4m.datasets.classes import Classes
from open4m.modalities.base import Vector
from open4m.store import build
from open4m.store.shards import RawDataset
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.mlp import MLPConfig
from open4m.tokenizers.unet import UNetConfig
from open4m.tokenizers.vit import ViTConfig
from open4m.tokenizers.vqvae import Tokenizer, TokenizerConfig, grid_modality
from open4m.train.loop import TrainConfig, claim, train
from open4m.train.tasks.tokenizer import TokenizerTask
from open4m.types import Open4MError

NO_CLASSES = Classes()


@dataclass(frozen=True, kw_only=True)
class TokenizerStage:
    """One training, from what the stage before it left. The fields are those of ``TokenizerConfig``."""

    decoder: ViTConfig | UNetConfig | MLPConfig
    train: TrainConfig
    diffusion: DiffusionConfig | None = None
    frozen_encoder: bool = False
    continuous_steps: int = 0
    resolutions: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """A tokenizer and its training. Feature maps and vectors have a size of their own, whatever ``image_size``."""

    modality: str
    codebook_size: int
    encoder: ViTConfig | MLPConfig
    stages: tuple[TokenizerStage, ...]
    latent_dim: int = 32
    codebooks: int = 1  # tokens of a vector
    image_size: int = 224  # pixels
    patch_size: int = 16  # pixels
    standardize: bool = False  # each value by itself, which loses its units: depth without a scale
    start: str | None = None  # the folder of a trained tokenizer that the first stage starts from


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
    the stages of several resolutions. ``classes``: of a categorical modality. Raises :class:`Open4MError` if the data,
    the classes, or what a stage starts from do not fit.
    """
    if (directory / "model").exists():
        return
    name, modality = config.modality, grid_modality(config.modality)
    if modality.categorical and not classes.names:
        raise Open4MError(f"{name}: its tokenizer needs the names of the classes")
    claim(directory, {"tokenizer": config, "classes": classes})
    training, validation = (RawDataset(data / split, [name]) for split in ("train", "validation"))
    fields = {"image_size": config.image_size, "patch_size": config.patch_size}
    if config.standardize:
        fields["standardize"] = True
    elif modality.normalization == "fit":
        fields["mean"], fields["std"] = build.statistics(training, name)
    if modality.categorical:
        fields |= {"class_names": classes.names, "palette": classes.palette}
    if modality.feature_map:
        height, _, channels = training[0][name].shape
        fields |= {"image_size": height, "channels": channels, "patch_size": 1}
    if isinstance(modality, Vector):
        fields |= {"image_size": 1, "channels": len(training[0][name]), "patch_size": 1}
    trained = Tokenizer.load(config.start, device) if config.start else None
    if trained is not None:  # what it was normalized by stays
        fields |= {name: getattr(trained.config, name) for name in ("mean", "std", "standardize")}
    for number, stage in enumerate(config.stages, 1):
        task_config = TokenizerConfig.of(
            name, codebook_size=config.codebook_size, codebooks=config.codebooks, latent_dim=config.latent_dim,
            encoder=config.encoder, decoder=stage.decoder, diffusion=stage.diffusion,
            frozen_encoder=stage.frozen_encoder, continuous_steps=stage.continuous_steps, resolutions=stage.resolutions,
            **fields,
        )  # fmt: skip
        run = directory / f"stage-{number}"
        if not (run / "model").exists():
            at_sizes = RawDataset(large / "train", [name]) if large and stage.resolutions else training
            task = TokenizerTask(
                task_config, at_sizes, validation, batch_size=stage.train.batch_size, seed=stage.train.seed,
                device=device, start=trained,
            )  # fmt: skip
            train(task, stage.train, run, task_config=task_config)
        trained = Tokenizer.load(run / "model", device)
    hub.write_whole(directory / "model", trained.save)
