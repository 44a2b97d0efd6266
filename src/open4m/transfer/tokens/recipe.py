"""One transfer from tokens to tokens: a pre-trained model is fine-tuned to predict one modality from others (E.1).

The Transformer and what the model knows of the inputs are kept: the projection of pixels, and embeddings of tokens that
its own tokenizers made. All other embeddings begin anew, whatever their modality is called. First they are trained
alone, then everything, at a constant rate. In the folder of a transfer::

    frozen/, full/      trainings (open4m.train.recipes.pretrain), of which the records are kept
    best/               the model of the best evaluation, if it is wanted
    result.json         the validation losses, when it is done
"""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from open4m import config as configs
from open4m import files, ranks
from open4m.evaluate.curves import VALIDATION, entries, is_number
from open4m.fourm import FourMBase
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import Architecture, FourMConfig
from open4m.store.remote import joined
from open4m.store.tokens import TokenStore
from open4m.train.recipes.pretrain import PretrainConfig, pretrain
from open4m.train.tasks.fourm import FourMTask
from open4m.train.trainable import Trainable
from open4m.transfer.tokens.config import TokenTransfer
from open4m.transfer.tokens.result import Evaluation, Start, TransferResult, finished
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

STRATEGY = "transfer"
"""The name of the one way to mask a sample."""

FROZEN, FULL, BEST = "frozen", "full", "best"
RECORD = "best.json"
"""The file in the folder of the best model that says of which step it is."""


class TransferTask(FourMTask):
    """Evaluates the loss alone, and keeps the model of the best evaluation in the folder ``best``, if one is named.

    ``first``: how many steps were done before this training.
    """

    name = "transfer"

    def __init__(self, *arguments: Any, best: Path | None = None, first: int = 0, **options: Any):
        super().__init__(*arguments, **options)
        self._best, self._first = best, first

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"loss": self.strategy_losses(model)[f"{STRATEGY}/loss"]}

    def pictures(self, model: nn.Module) -> dict:
        return {}

    def after_evaluation(self, step: int, values: Mapping[str, float], model: nn.Module) -> None:
        """Save the model if no earlier evaluation was better. Those of later steps are of a run that was resumed."""
        if self._best is None or not math.isfinite(loss := values["loss"]):
            return
        step, path = step + self._first, self._best / RECORD
        held = configs.load(dict[str, float], path) if path.is_file() else {"step": math.inf, "loss": math.inf}
        if loss < held["loss"] or step <= held["step"]:

            def write(folder: Path) -> None:
                self.save(model, folder)
                configs.save({"step": float(step), "loss": loss}, folder / RECORD)
                shutil.rmtree(self._best, ignore_errors=True)

            files.write_folder(self._best, write)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens:
    """Where the tokens of a transfer's data are: a folder or URL with the stores ``train`` and ``validation``, and the
    folder of the tokenizers that made them. ``image_size``: of pixels."""

    root: Path | str
    tokenizers: Path
    image_size: int


def transfer(
    config: TokenTransfer, start: Start, tokens: Tokens, folder: Path, device: str = "cpu", keep_best: bool = False
) -> TransferResult:
    """Make a transfer in a folder, or go on with it; its result, at once if it is done.

    ``keep_best``: save the model of the best evaluation. Raises :class:`Open4MError` if the folder holds another
    transfer, and if the model cannot read the data's images.
    """
    if (found := ranks.on_first(partial(finished, folder, config, start))) is not None:
        ranks.on_first(partial(clear, folder))
        return found
    base = FourMBase.from_pretrained(start.model)
    store, validation = (TokenStore(joined(tokens.root, split), config.keys) for split in ("train", "validation"))
    samples, fresh = store.samples, fresh_of(base, store, start.pretrained)
    first = config.frozen_steps(samples) if start.pretrained and fresh else 0
    make = partial(
        TransferTask,
        validation_samples=config.validation_samples or validation.samples,
        best=folder / BEST if keep_best else None,
    )
    whole = pretraining(config, base.config, store, tokens.image_size)
    model, rest = str(start.model), fresh
    if first:
        warmup = dataclasses.replace(
            whole,
            train=config.training(0, first, samples, frozen=True),
            init_from=model,
            fresh=fresh,
            trainable=Trainable(embeddings=fresh, encoder=0, decoder=0),
        )
        pretrain(warmup, tokens.root, tokens.tokenizers, folder / FROZEN, device, make)
        model, rest = str((folder / FROZEN / "model").absolute()), ()
    if start.pretrained:
        whole = dataclasses.replace(whole, init_from=model, fresh=rest)
    whole = dataclasses.replace(whole, train=config.training(first, config.steps(samples), samples, frozen=False))
    pretrain(whole, tokens.root, tokens.tokenizers, folder / FULL, device, partial(make, first=first))

    def conclude() -> TransferResult:
        parts = [(FROZEN, 0)] * bool(first) + [(FULL, first)]
        curve = [e for part, before in parts for e in curve_of(folder / part, before, config, samples)]
        result = TransferResult.of(
            tuple(curve),
            transfer=config,
            start=start,
            fresh=fresh,
            uniform=math.log(store.header(config.target).vocab_size),
            samples=(samples, min(validation.samples, config.validation_samples or validation.samples)),
            steps=config.steps(samples),
            seconds=sum(seconds_of(folder / part) for part, _ in parts),
        )
        result.save(folder)
        clear(folder)
        return result

    return ranks.on_first(conclude)


def pretraining(config: TokenTransfer, model: FourMConfig, store: TokenStore, image_size: int) -> PretrainConfig:
    """The whole training of a transfer with the architecture of a model, from random weights."""
    patch = patch_of(model, image_size)
    return PretrainConfig(
        modalities=config.keys,
        architecture=architecture_of(model),
        masking=masking(config, lengths_of(store, image_size // patch)),
        train=config.training(0, config.steps(store.samples), store.samples, frozen=False),
        image_size=image_size,
        patch_size=patch,
    )


def fresh_of(base: FourMBase, store: TokenStore, pretrained: bool = True) -> tuple[str, ...]:
    """The modalities of a store of which a model does not know the tokens: it lacks them, or another tokenizer made
    them. Of a model with random weights, all."""

    def is_known(key: str) -> bool:
        header = store.header(key)
        if not pretrained or key not in base.config.keys:
            return False
        if header.vocab_size is None:
            return True
        spec = base.config.spec(key)
        if spec.vocab_size != header.vocab_size or spec.target_positions:  # an oddity that transfers do without
            return False
        own = base.text if spec.is_causal else base.grids.get(key)
        return own is not None and own.fingerprint == header.tokenizer

    return tuple(key for key in store.modalities if not is_known(key))


def start_of(name: str, model: str, pretrained: bool = True) -> Start:
    """What a transfer from a model begins with, or from random weights of its architecture."""
    base = FourMBase.from_pretrained(model)
    own = base.fingerprint if pretrained else configs.fingerprint(architecture_of(base.config))
    return Start(name=name, model=model, fingerprint=own, pretrained=pretrained)


def architecture_of(config: FourMConfig) -> Architecture:
    """A model's architecture, with the grid that sets its angles: the transfer's modalities may lack it."""
    known = {f.name: getattr(config, f.name) for f in dataclasses.fields(Architecture)}
    return Architecture(**{**known, "finest": config.finest_grid if config.rotary else config.finest})


def patch_of(config: FourMConfig, image_size: int) -> int:
    """The patches of pixels that a model reads; of one that reads none, the paper's. Raises :class:`Open4MError` if
    they do not divide the images."""
    size = next((spec.patch_size for spec in config.modalities if spec.content == "pixels"), PATCH)
    if image_size % size:
        raise Open4MError(f"image_size {image_size} is not a multiple of the model's patches, {size} pixels")
    return size


PATCH = 16
"""Pixels per side of a patch in all models of the paper."""


@dataclasses.dataclass(frozen=True)
class Length:
    """How many tokens a modality has at most."""

    tokens: int
    is_sequence: bool


def lengths_of(store: TokenStore, side: int) -> dict[str, Length]:
    """The lengths of the modalities of a store; images have ``side`` patches per side."""
    found = {}
    for key in store.modalities:
        header = store.header(key)
        tokens = header.max_length or math.prod(header.grid or (side, side))
        found[key] = Length(tokens, header.max_length is not None)
    return found


def masking(config: TokenTransfer, lengths: Mapping[str, Length]) -> MaskingConfig:
    """All tokens of the inputs are shown, all of the target predicted.

    Sequences may take the whole budget, of which they use what they have; all else has room in the rest.
    """
    shown, asked = {key: lengths[key] for key in config.inputs}, lengths[config.target]
    strategy = Strategy(
        name=STRATEGY,
        input_alpha={key: LARGE * own.tokens if own.is_sequence else 1.0 for key, own in shown.items()},
        target_alpha={config.target: 1.0},
        unmasked=tuple(key for key, own in shown.items() if own.is_sequence),
        leftover="all",
    )
    budget = sum(own.tokens for own in shown.values())
    return MaskingConfig(
        input_budget=budget,
        target_budget=asked.tokens + asked.is_sequence,  # a sequence is followed by the sentinel that ends it
        strategies=(strategy,),
    )


LARGE = 1e6
"""A concentration beside which those of grids get nothing."""


def curve_of(run: Path, before: int, config: TokenTransfer, samples: int) -> list[Evaluation]:
    """The evaluations that a training recorded, after so many steps ``before`` it. Losses that are not finite are not
    recorded."""
    found: dict[int, Evaluation] = {}
    for entry in entries(run):
        if is_number(loss := entry.get(f"{VALIDATION}loss")):
            step = before + int(entry["step"])
            epoch = step * config.batch_size / samples
            found[step] = Evaluation(step=step, epoch=round(epoch, 4), loss=float(loss), frozen=run.name == FROZEN)
    return list(found.values())


def seconds_of(run: Path) -> float:
    return max((float(entry["seconds"]) for entry in entries(run)), default=0.0)


def clear(folder: Path) -> None:
    """Remove the weights of a transfer that is done: what is compared is its losses. Empty folders say that trainings
    are finished."""
    for part in (FROZEN, FULL):
        for name in ("checkpoints", "model"):
            if (folder / part / name).is_dir():
                shutil.rmtree(folder / part / name)
                files.make_folder(folder / part / name)
