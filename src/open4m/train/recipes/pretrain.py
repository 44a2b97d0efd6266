"""Pre-training 4M on a token store, whoever made it: from tokens to a model directory (paper C.2, Table 5)."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from open4m import config as configs
from open4m import files, modalities, ranks
from open4m.config import Duration
from open4m.data.encoders import sized, tokenizer_folder
from open4m.data.mixture import DataSet, Mixture, open_mixture
from open4m.data.rows import specs_of
from open4m.fourm import FourMBase
from open4m.hub.parts import parts_of
from open4m.masking.config import MaskingConfig
from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.fourm import FourMTransformer
from open4m.ranges import Size, Steps, check_ranges
from open4m.rng import seeded
from open4m.store.remote import joined
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TEXT, TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train import checkpoint
from open4m.train.config import RUN, SOURCES, TrainConfig, claim, described
from open4m.train.loop import train
from open4m.train.losses import Aggregation
from open4m.train.tasks.fourm import FourMTask
from open4m.train.trainable import EVERYTHING, Trainable, restrict
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
    # Modalities whose embeddings begin anew, since their tokens are not those of the model to start from (paper E.1).
    fresh: tuple[str, ...] = field(default=(), metadata=configs.LATER)
    requires_init_from: bool = False  # it continues a training: from random weights it would be another one
    repeats: Steps = 1  # how often a sample is masked anew in an epoch (paper E.7)
    image_size: Size = 224  # of pixel modalities
    patch_size: Size = 16  # of pixel modalities
    mixture: tuple[DataSet, ...] = field(default=(), metadata=configs.LATER)  # data sets, if there are several
    tokens_only: tuple[str, ...] = ()  # grids that are trained on, but not shown, if their tokenizer is not there
    trainable: Trainable = field(default=EVERYTHING, metadata=configs.LATER)

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.modalities:
            raise Open4MError("PretrainConfig: modalities: name at least one input and one target")


def pretrain(
    config: PretrainConfig,
    tokens: str | Path | None,
    tokenizers: Path,
    directory: Path,
    device: str = "cpu",
    make: Callable[..., FourMTask] = FourMTask,
) -> None:
    """Train a model in ``directory``, which holds it in ``model/`` when done; resumes what is there.

    ``tokens``: the folder or URL of the token stores ``train`` and ``validation``; None if ``config.mixture`` names
    several. ``tokenizers``: a folder with ``text`` and
    one tokenizer, or the training run that made it, per grid modality; they are saved with the model. Modalities that
    have no file in this package need no tokenizer: they are trained on the tokens that the store holds. So are those
    that the configuration lists as ``tokens_only``, if their tokenizer is not there. ``make``: of what task, if it is
    another way to evaluate the same one.
    Raises :class:`Open4MError` if tokens and tokenizers do not fit, and for a finished run of another configuration.
    """
    config = restricted(config)
    if ranks.on_first(partial(_is_finished, config, directory)):  # whose tokens may be gone
        return
    if config.requires_init_from and config.init_from is None and checkpoint.latest(directory) is None:
        raise Open4MError(
            "this training continues that of a model: init_from=MODEL (a directory, or a name on the hub); to begin "
            "with random weights all the same: requires_init_from=false"
        )
    if config.trainable != EVERYTHING and config.init_from is None and checkpoint.latest(directory) is None:
        raise Open4MError(
            "trainable: a part of a model with random weights would be trained, and the rest stay random: "
            "init_from=MODEL (a directory, or a name on the hub)"
        )
    task = build_task(config, tokens, tokenizers, device, make)
    description = _description(config, task.config, task.samples)

    if ranks.is_first():
        sources = {"tokens": tokens and str(tokens), "tokenizers": str(Path(tokenizers).resolve())}
        if tokens and Path(tokens).is_dir():
            sources["tokens"] = str(Path(tokens).resolve())
        files.make_folder(directory)
        files.write_text(directory / SOURCES, json.dumps(sources))

    def prepare(model: FourMTransformer, begins: bool) -> None:
        if begins:
            task.fit_patches(model)
        if begins and config.init_from is not None:
            new = model.init_from(FourMBase.from_pretrained(config.init_from).model, config.fresh)
            logger.info("starting from %s; new modalities: %s", config.init_from, ", ".join(new) or "none")
        restrict(model, config.trainable, seeded(config.train.seed))

    train(task, description["train"], directory, device=device, prepare=prepare, task_config=description["task"])


def _is_finished(config: PretrainConfig, directory: Path) -> bool:
    """Whether a run is done. Raises :class:`Open4MError` if it was one of another configuration."""
    if not files.is_filled(directory / "model"):
        return False
    model_config = FourMConfig.of(config.architecture, _recorded(config, directory), config.masking.directions)
    samples = described(directory)["train"].get("epoch_samples")
    claim(directory, _description(config, model_config, samples or 1), finished=True)
    return True


def cool_down(
    config: PretrainConfig, tokens: str | Path | None, tokenizers: Path, run: Path, device: str = "cpu"
) -> Path:
    """Weights of a pre-training that goes on: its learning rate decays now, in a copy; returns the copy's directory.

    The decay is that of the configuration, ``train.decay``, but at most a fifth as long as the training was until then.
    The copy, ``run/cooldown/step-…``, begins with the newest checkpoint of ``run`` and holds the model in ``model/``
    when done; one that was interrupted is finished first. The run itself is not touched, and may train meanwhile.
    Raises :class:`Open4MError` if the configuration has no ``train.decay``, or the run no checkpoint.
    """
    config = restricted(config)
    if config.train.decay is None:
        raise Open4MError("train.decay: a cool-down needs one, such as '2000 steps'; got none")
    directory = Path(ranks.on_first(partial(_begin_cool_down, run)))
    length = _length(config, store_of(config, tokens, "train").samples if config.train.in_epochs else None)
    step = checkpoint.step_of(directory)
    decay = min(length.decay_steps, max(1, step // 5))  # a longer one would be most of what the weights were trained on
    train = dataclasses.replace(config.train, length=Duration(step + decay, "steps"), decay=Duration(decay, "steps"))
    if (averaged := length.averages_from) is not None:  # the same share of the decay, and nothing before it
        tail = min(decay, round((length.steps - averaged) * decay / max(1, length.decay_steps)))
        train = dataclasses.replace(train, tail_average=Duration(max(1, tail), "steps"))
    pretrain(dataclasses.replace(config, train=train), tokens, tokenizers, directory, device)
    return directory


def _begin_cool_down(run: Path) -> str:
    """The directory of a cool-down that is not finished, or a new one with the newest checkpoint in it."""
    unfinished = [path for path in cool_downs(run) if not files.is_filled(path / "model")]
    if unfinished:
        return str(unfinished[0])
    newest = checkpoint.newest_intact(run)
    directory = run / COOLDOWN / newest.name
    if not directory.exists():
        files.write_folder(directory / checkpoint.FOLDER / newest.name, lambda copy: shutil.copytree(newest, copy))
    return str(directory)


def cool_downs(run: Path) -> list[Path]:
    """The directories of a run's cool-downs, the earliest first."""
    return sorted((run / COOLDOWN).glob("step-*"), key=checkpoint.step_of)


def _description(config: PretrainConfig, model: FourMConfig, samples: int | None) -> dict[str, Any]:
    """What determines a pre-training of a model on so many samples, as its directory holds it."""
    task = {name: getattr(config, name) for name in ("masking", "repeats", "loss", "init_from")}
    task |= {"mixture": config.mixture} if config.mixture else {}
    task |= {"fresh": config.fresh} if config.fresh else {}
    task |= {"trainable": config.trainable} if config.trainable != EVERYTHING else {}
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


def restricted(config: PretrainConfig) -> PretrainConfig:
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
    curriculum = config.masking.curriculum if any(s.final_weight is not None for s in strategies) else None
    masking = dataclasses.replace(config.masking, strategies=tuple(strategies), curriculum=curriculum)
    return dataclasses.replace(config, masking=masking)


def store_of(config: PretrainConfig, tokens: str | Path | None, split: str) -> TokenStore | Mixture:
    """The tokens of a split: of one data set, or of the mixture. Raises :class:`Open4MError` for none, and for both."""
    if (tokens is None) != bool(config.mixture):
        both = "both" if config.mixture else "neither"
        raise Open4MError(f"tokens: expected one data set, or a mixture of several, got {both}")
    if tokens is None:
        return open_mixture(config.mixture, split, config.modalities)
    return TokenStore(joined(tokens, split), config.modalities)


def _check_use(store: TokenStore | Mixture, masking: MaskingConfig) -> None:
    """Raise :class:`Open4MError` for a data set of a mixture whose samples no strategy can be used on."""
    for part in store.parts if isinstance(store, Mixture) else ():
        held = {*part.store.modalities}
        if not any(held & {*s.input_alpha} and held & {*s.target_alpha} for s in masking.strategies):
            raise Open4MError(
                f"{part.store.root}: no masking strategy has an input and a target among its modalities, "
                f"{', '.join(part.store.modalities)}: add one, or leave the data set out"
            )


def build_task(
    config: PretrainConfig,
    tokens: str | Path | None,
    tokenizers: Path,
    device: str = "cpu",
    make: Callable[..., FourMTask] = FourMTask,
) -> FourMTask:
    """The task that :func:`pretrain` trains. Raises :class:`Open4MError` if tokens and tokenizers do not fit."""
    stores = {split: store_of(config, tokens, split) for split in ("train", "validation")}
    _check_use(stores["train"], config.masking)
    specs = specs_of(stores["train"], config.image_size, config.patch_size, config.masking.strategies)
    model_config = FourMConfig.of(config.architecture, specs, config.masking.directions)
    if unknown := [key for key in config.modalities if not modalities.is_known(key)]:
        logger.warning("%s: trained, but never shown: there is no modality of that name", ", ".join(unknown))
    absent = [key for key in config.tokens_only if key not in unknown and not (tokenizers / key).is_dir()]
    if absent:
        logger.warning("%s: trained, but never shown: no tokenizer in %s", ", ".join(absent), tokenizers)
    loaded: dict[Path, Tokenizer] = {}  # of several sizes of a modality, one
    grids = {
        s.key: _tokenizer(tokenizers, s.key, device, loaded)
        for s in specs
        if s.has_codebook and s.key not in (*unknown, *absent)
    }
    parts = [key for key in parts_of(specs) if (tokenizers / key).is_dir()]
    grids |= {key: _tokenizer(tokenizers, key, device, loaded) for key in parts}
    text = TextTokenizer.load(tokenizers / TEXT) if any(s.is_causal for s in specs) else None
    return make(
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


def _tokenizer(tokenizers: Path, key: str, device: str, loaded: dict[Path, Tokenizer]) -> Tokenizer:
    if (folder := tokenizer_folder(tokenizers, key)) is None:
        raise Open4MError(f"{tokenizers / key}: holds no tokenizer; it is needed to show and to save the model")
    if folder not in loaded:
        loaded[folder] = Tokenizer.load(folder, device)
    return sized(loaded[folder], key)
