"""Pre-training 4M on a token store, whoever made it: from tokens to a model directory (paper C.2, Table 5)."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4m import config as configs
from open4m import files, modalities, weights
from open4m.config import Duration
from open4m.data.rows import specs_of
from open4m.fourm import FourMBase
from open4m.hub.parts import TEXT, parts_of
from open4m.masking.config import MaskingConfig
from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.ranges import Size, Steps, check_ranges
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train import checkpoint
from open4m.train.config import RUN, TrainConfig, claim, described
from open4m.train.loop import train
from open4m.train.losses import Aggregation
from open4m.train.start import built
from open4m.train.tasks.fourm import FourMTask
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

COOLDOWN = "cooldown"
"""The folder of a run with copies of it whose learning rate decays."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that determines a pre-training, given the tokens."""

    modalities: tuple[str, ...]  # of the model, in order
    architecture: Architecture
    masking: MaskingConfig
    train: TrainConfig
    loss: Aggregation = "per_modality"
    init_from: str | None = None  # a model of the same architecture to start from; None: random weights
    requires_init_from: bool = False  # it continues a training: from random weights it would be another one
    repeats: Steps = 1  # how often a sample is masked anew in an epoch (paper E.7)
    image_size: Size = 224  # of pixel modalities
    patch_size: Size = 16  # of pixel modalities
    tokens_only: tuple[str, ...] = ()  # grids that are trained on, but not shown, if their tokenizer is not there

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.modalities:
            raise Open4MError("PretrainConfig: modalities: name at least one input and one target")


def pretrain(config: PretrainConfig, tokens: Path, tokenizers: Path, directory: Path, device: str = "cpu") -> None:
    """Train a model in ``directory``, which holds it in ``model/`` when done; resumes what is there.

    ``tokens``: the folder of the token stores ``train`` and ``validation``. ``tokenizers``: a folder with ``text`` and
    one tokenizer, or the training run that made it, per grid modality; they are saved with the model. Modalities that
    have no file in this package need no tokenizer: they are trained on the tokens that the store holds. So are those
    that the configuration lists as ``tokens_only``, if their tokenizer is not there.
    Raises :class:`Open4MError` if tokens and tokenizers do not fit, and for a finished run of another configuration.
    """
    config = _restricted(config)
    if (directory / "model").exists():  # whose tokens may be gone
        model_config = FourMConfig.of(config.architecture, _recorded(config, directory), config.masking.directions)
        samples = described(directory)["train"].get("epoch_samples")
        claim(directory, _description(config, model_config, samples or 1), finished=True)
        return
    if config.requires_init_from and config.init_from is None and checkpoint.latest(directory) is None:
        raise Open4MError(
            "this training continues that of a model: init_from=MODEL (a directory, or a name on the hub); to begin "
            "with random weights all the same: requires_init_from=false"
        )
    task = build_task(config, tokens, tokenizers, device)
    description = _description(config, task.config, task.samples)
    model = built(task, device)
    begins = checkpoint.latest(directory) is None
    if begins:
        task.fit_patches(model)
    if begins and config.init_from is not None:
        new = model.init_from(FourMBase.from_pretrained(config.init_from).model)
        logger.info("starting from %s; new modalities: %s", config.init_from, ", ".join(new) or "none")
    train(task, description["train"], directory, model, task_config=description["task"])


def cool_down(config: PretrainConfig, tokens: Path, tokenizers: Path, run: Path, device: str = "cpu") -> Path:
    """Weights of a pre-training that goes on: its learning rate decays now, in a copy; returns the copy's directory.

    The copy, ``run/cooldown/step-…``, begins with the newest checkpoint of ``run`` and holds the model in ``model/``
    when done; one that was interrupted is finished first. The run itself is not touched, and may train meanwhile.
    Raises :class:`Open4MError` if the configuration has no ``train.decay``, or the run no checkpoint.
    """
    config = _restricted(config)
    if config.train.decay is None:
        raise Open4MError("train.decay: a cool-down needs one, such as '2000 steps'; got none")
    unfinished = [path for path in cool_downs(run) if not (path / "model").exists()]
    if unfinished:
        directory = unfinished[0]
    else:
        newest = checkpoint.newest_intact(run)
        directory = run / COOLDOWN / newest.name
        if not directory.exists():
            files.write_folder(directory / checkpoint.FOLDER / newest.name, lambda copy: shutil.copytree(newest, copy))
    length = _length(config, len(TokenStore(tokens / "train", config.modalities)) if config.train.in_epochs else None)
    steps = checkpoint.step_of(directory) + length.decay_steps
    train = dataclasses.replace(config.train, length=Duration(steps, "steps"))
    pretrain(dataclasses.replace(config, train=train), tokens, tokenizers, directory, device)
    return directory


def cool_downs(run: Path) -> list[Path]:
    """The directories of a run's cool-downs, the earliest first."""
    return sorted((run / COOLDOWN).glob("step-*"), key=checkpoint.step_of)


def _description(config: PretrainConfig, model: FourMConfig, samples: int | None) -> dict[str, Any]:
    """What determines a pre-training of a model on so many samples, as its directory holds it."""
    task = {name: getattr(config, name) for name in ("masking", "repeats", "loss", "init_from")}
    return {"train": _length(config, samples), "task": {"model": model, **task}}


def _recorded(config: PretrainConfig, directory: Path) -> tuple[ModalitySpec, ...]:
    """The model's modalities of a finished run, as its directory describes them; pixels as the configuration does."""
    model = described(directory)["task"].get("model")
    held = model.get("modalities") if isinstance(model, dict) else None
    specs = {spec.key: spec for spec in configs.from_dict(tuple[ModalitySpec, ...], held, RUN)}
    if specs.keys() != set(config.modalities):
        raise Open4MError(
            f"{directory} holds a run with another configuration (modalities: {', '.join(specs)} -> "
            f"{', '.join(config.modalities)}): use another directory, or the same configuration, whose run is finished"
        )
    side = config.image_size // config.patch_size
    pixels = {"grid": (side, side), "patch_size": config.patch_size}
    return tuple(
        dataclasses.replace(specs[key], **(pixels if specs[key].content == "pixels" else {}))
        for key in config.modalities
    )


def _length(config: PretrainConfig, samples: int | None) -> TrainConfig:
    """How long to train on data of so many samples, where lengths in tokens mean those of the masking.

    ``samples`` is needed for lengths in epochs only.
    """
    return config.train.on_data(samples, config.masking.tokens_per_sample)


def _restricted(config: PretrainConfig) -> PretrainConfig:
    """The same pre-training, whose strategies show and ask for its modalities only; what they lose is logged.

    So a configuration is restricted by naming fewer ``modalities``. Names that are no modality at all stay, for the
    masking to refuse.
    """
    kept = {*config.modalities}
    lost: dict[str, None] = {}

    def rest(named: Iterable[str]) -> list[str]:
        gone = [key for key in named if key not in kept and modalities.is_known(key)]
        lost.update(dict.fromkeys(gone))
        return [key for key in named if key not in gone]

    strategies = []
    for strategy in config.masking.strategies:
        inputs = {key: strategy.input_alpha[key] for key in rest(strategy.input_alpha)}
        targets = {key: strategy.target_alpha[key] for key in rest(strategy.target_alpha)}
        shown = tuple(rest(strategy.unmasked))
        if inputs and targets:
            fields = {"input_alpha": inputs, "target_alpha": targets, "unmasked": shown}
            strategies.append(dataclasses.replace(strategy, **fields))
        else:
            logger.warning("strategy %s is left out: none of its modalities are trained", strategy.name)
    if not lost:
        return config
    if not strategies:
        raise Open4MError(f"modalities: no strategy has an input and a target among {', '.join(config.modalities)}")
    logger.warning("masking: without %s, which are not among the modalities", ", ".join(lost))
    return dataclasses.replace(config, masking=dataclasses.replace(config.masking, strategies=tuple(strategies)))


def build_task(config: PretrainConfig, tokens: Path, tokenizers: Path, device: str = "cpu") -> FourMTask:
    """The task that :func:`pretrain` trains. Raises :class:`Open4MError` if tokens and tokenizers do not fit."""
    stores = {split: TokenStore(tokens / split, config.modalities) for split in ("train", "validation")}
    specs = specs_of(stores["train"], config.image_size, config.patch_size, config.masking.strategies)
    model_config = FourMConfig.of(config.architecture, specs, config.masking.directions)
    if unknown := [key for key in config.modalities if not modalities.is_known(key)]:
        logger.warning("%s: trained, but never shown: there is no modality of that name", ", ".join(unknown))
    absent = [key for key in config.tokens_only if key not in unknown and not (tokenizers / key).is_dir()]
    if absent:
        logger.warning("%s: trained, but never shown: no tokenizer in %s", ", ".join(absent), tokenizers)
    grids = {
        s.key: Tokenizer.load(_tokenizer(tokenizers / s.key), device)
        for s in specs
        if s.has_codebook and s.key not in (*unknown, *absent)
    }
    parts = [key for key in parts_of(specs) if (tokenizers / key).is_dir()]
    grids |= {key: Tokenizer.load(_tokenizer(tokenizers / key), device) for key in parts}
    text = TextTokenizer.load(tokenizers / TEXT) if any(s.is_causal for s in specs) else None
    return FourMTask(
        model_config,
        config.masking,
        stores["train"],
        stores["validation"],
        grids,
        text,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        repeats=config.repeats,
        loss=config.loss,
    )


def _tokenizer(folder: Path) -> Path:
    """The folder of a tokenizer: ``model`` in this one, if that is a finished training run, or this one."""
    for path in (folder / "model", folder):
        if (path / weights.CONFIG).is_file() and (path / weights.WEIGHTS).is_file():
            return path
    raise Open4MError(f"{folder}: holds no tokenizer; it is needed to show and to save the model")
