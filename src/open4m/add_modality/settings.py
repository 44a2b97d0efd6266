"""What determines the addition of a modality to a model: how long, at which rates, by which masks."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from open4m import modalities, weights
from open4m.config import Duration
from open4m.configs import mine
from open4m.fourm import FourMBase
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import Architecture, ModalitySpec
from open4m.ranges import Length, Positive, Share, Size, check_ranges
from open4m.stages import StagesConfig
from open4m.store.shards import RawDataset
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.trainable import Trainable
from open4m.types import Open4MError

logger = logging.getLogger("open4m")


@dataclass(frozen=True, kw_only=True)
class AdditionConfig(StagesConfig):
    """Everything that determines the addition of a modality.

    ``program``: the SHA-256 of the new modality's file. ``warmup``: the training of its embeddings; ``pretrain``: that
    of all. ``rehearsed``: the masks by which the old modalities are compared, of the old modalities alone.
    """

    model: str
    modality: str
    program: str = ""
    warmup: PretrainConfig
    rehearsed: MaskingConfig
    compared: Size = 256  # validation samples

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What may be said of an addition before the data are looked at. None and 0: what the data suggest.

    ``share``: of the training samples whose masks are about the new modality, which show it or ask for nothing else;
    the others rehearse all modalities. ``budget``: the most tokens that are shown, and that are asked for.
    ``batch_size``: by default 32, or the number of training samples. Lengths: of the tokenizer, by default 50 epochs,
    but 500 to 3,000 steps; of the warm-up, a fifth of ``length``; of the training of all, 20 epochs, but 500 to 20,000
    steps. Learning rates are peaks for batches of 32; they scale linearly with the batch.
    """

    share: Share = 0.4
    budget: Size = mine.BUDGET
    batch_size: Length = 0
    tokenizer_length: Duration | None = None
    warmup_length: Duration | None = None
    length: Duration | None = None
    tokenizer_lr: Positive = 2e-3
    warmup_lr: Positive = 3e-3
    lr: Positive = 1e-4

    def __post_init__(self) -> None:
        check_ranges(self)

    def on(self, model: FourMBase, modality: str, root: Path) -> AdditionConfig:
        """The whole configuration: ``modality`` is added to ``model`` on raw data in ``root/{train,validation}``.

        Raises :class:`Open4MError` if the model knows the modality, if it has no tokens, or if the data lack it or one
        of the model's: what is not rehearsed is forgotten.
        """
        old = model.config
        if modality in old.keys:
            raise Open4MError(f"{modality}: the model {model.name} knows it (modalities: {', '.join(old.keys)})")
        if why := mine.untrainable(modality):
            raise Open4MError(f"{modality}: {why}, so a model cannot learn to generate it")
        size, patch = _image_size(model)
        for split in mine.SPLITS:
            _check_data(root / split, [*old.keys, modality], modality)
        data = RawDataset(root / mine.SPLITS[0], [modality])
        count = len(data) - data.missing(modality)
        batch = self.batch_size or min(32, count)
        is_sequence = mine.is_sequence(modality)
        if is_sequence and model.text is None:
            raise Open4MError(f"{modality}: a sequence, and the model {model.name} has no text tokenizer")
        length = mine.sequence_length(data, modality) if is_sequence else mine.cells(data, modality, size)
        if is_sequence:  # every other token may be a span of its own, which the model's tokenizer has a sentinel for
            length = min(length, max(1, 2 * len(model.text.sentinels) - 2))
        finest = max((max(spec.grid) for spec in old.modalities if spec.has_places), default=0)
        if old.rotary and not is_sequence and math.isqrt(length) > finest:
            raise Open4MError(
                f"{modality}: {length} tokens are a finer grid than the model's finest, {finest}×{finest}, by which it "
                "turns places: a coarser one is needed"
            )
        logger.info("add-modality: %d training samples of %s in %s, %d tokens each", count, modality, root, length)
        specs = {spec.key: spec for spec in old.modalities}
        tokens = {spec.key: spec.length // (2 if spec.is_sequence else 1) for spec in old.modalities}
        every = tokens | {modality: length // 2 if is_sequence else length}
        rehearsal, own = self._masking(every, specs), self._about(every, modality, specs)
        steps = _steps(self.length, 20 * count / batch, 500, 20_000, batch, count)
        shorter = _steps(self.tokenizer_length, 50 * count / batch, 500, 3_000, batch, count)
        first = _steps(self.warmup_length, steps / 5, 1, 20_000, batch, count)
        joint = PretrainConfig(
            modalities=(*old.keys, modality),
            architecture=Architecture(**{f.name: getattr(old, f.name) for f in dataclasses.fields(Architecture)}),
            masking=_mixed(rehearsal, own, self.share),
            train=mine.training(steps, batch, OptimConfig(base_lr=8 * self.lr, clip=1.0)),
            image_size=size,
            patch_size=patch,
        )
        tokenizer = mine.training(shorter, batch, OptimConfig(base_lr=8 * self.tokenizer_lr, clip=1.0))
        return AdditionConfig(
            name=f"add-{modality}",
            model=str(model.name),
            modality=modality,
            program=_program(modality),
            tokenizers={} if is_sequence else {modality: mine.tokenizer_run(modality, count * length, size, tokenizer)},
            text_vocab=1,  # that of the model's text tokenizer, which is kept
            max_length={s.key: s.max_length for s in old.modalities if s.is_causal}
            | ({modality: length} if is_sequence else {}),
            warmup=dataclasses.replace(
                joint,
                masking=dataclasses.replace(rehearsal, strategies=own),
                train=mine.training(first, batch, OptimConfig(base_lr=8 * self.warmup_lr, clip=1.0)),
                init_from=str(model.name),
                trainable=Trainable(embeddings=(modality,), encoder=0, decoder=0),
            ),
            pretrain=joint,
            rehearsed=self._masking(tokens, specs),
        )

    def _masking(self, tokens: dict[str, int], specs: dict[str, ModalitySpec]) -> MaskingConfig:
        """Pixels → All, All → All and texts → All of these modalities, as far as the model reads and predicts them."""
        found = mine.masking(tokens)
        strategies = [made for s in found.strategies if (made := self._within(s, specs))]
        budgets = (min(found.input_budget[1], self.budget), min(found.target_budget, self.budget))
        return MaskingConfig(
            input_budget=(0, budgets[0]), target_budget=max(1, budgets[1]), strategies=tuple(strategies)
        )

    def _about(self, tokens: dict[str, int], modality: str, specs: dict[str, ModalitySpec]) -> tuple[Strategy, ...]:
        """All → new, pixels → new and new → All."""
        old = [key for key in tokens if key != modality]
        pixels = [key for key in old if specs[key].content == "pixels"]
        asked = {modality: 0.5}
        most = max(1, min(self.budget, tokens[modality]))
        found = [
            Strategy(
                name=f"all_to_{modality}",
                input_alpha=dict.fromkeys(old, 0.5),
                target_alpha=asked,
                target_budget=(most, most),
            ),
            *(
                Strategy(
                    name=f"{key}_to_{modality}",
                    input_alpha={key: 0.5},
                    target_alpha=asked,
                    input_budget=(tokens[key], tokens[key]),
                    target_budget=(most, most),
                )
                for key in pixels
            ),
            Strategy(
                name=f"{modality}_to_all",
                input_alpha={**dict.fromkeys(old, 0.05), modality: 5.0},
                target_alpha={key: 1.0 if specs[key].is_sequence else 0.5 for key in old if specs[key].is_target},
            ),
        ]
        return tuple(made for s in found if (made := self._within(s, specs)))

    def _within(self, strategy: Strategy, specs: dict[str, ModalitySpec]) -> Strategy | None:
        """The strategy with the budget, and the old modalities that the model reads as inputs, that it predicts as
        targets; None if nothing is left of one side."""
        inputs = {k: a for k, a in strategy.input_alpha.items() if k not in specs or specs[k].is_input}
        targets = {k: a for k, a in strategy.target_alpha.items() if k not in specs or specs[k].is_target}
        if not (inputs and targets):
            return None
        budget = strategy.input_budget and tuple(min(n, self.budget) for n in strategy.input_budget)
        return dataclasses.replace(
            strategy,
            input_alpha=inputs,
            target_alpha=targets,
            input_budget=budget,
            unmasked=tuple(key for key in strategy.unmasked if key in inputs),
        )


def _steps(length: Duration | None, suggested: float, fewest: int, most: int, batch: int, count: int) -> int:
    chosen = length or Duration(int(min(max(suggested, fewest), most)), "steps")
    return chosen.steps(batch, 2 * mine.BUDGET, count)


def _mixed(rehearsal: MaskingConfig, own: tuple[Strategy, ...], share: float) -> MaskingConfig:
    """A mixture of which ``own`` have a share."""
    groups = [(rehearsal.strategies, 1 - share), (own, share)]
    strategies = [
        dataclasses.replace(s, weight=s.weight * part / sum(one.weight for one in some))
        for some, part in groups
        if part
        for s in some
    ]
    return dataclasses.replace(rehearsal, strategies=tuple(strategies))


def _image_size(model: FourMBase) -> tuple[int, int]:
    """The size of the images that the model reads, in pixels, and of its patches; where it reads none, those of its
    first map."""
    for spec in model.config.modalities:
        if spec.content == "pixels":
            return spec.grid[0] * spec.patch_size, spec.patch_size
    maps = [spec.key for spec in model.config.modalities if spec.has_codebook and spec.has_places]
    sizes = [tokenizer.config.image_size for key in maps if (tokenizer := model.grids.get(key)) is not None]
    return (sizes or [mine.MOST_PIXELS])[0], mine.PATCH


def _check_data(root: Path, keys: list[str], new: str) -> None:
    """Raise :class:`Open4MError` unless raw data hold these modalities, or what they are computed from."""
    lacking = {}
    for key in keys:
        name = key if (root / key).is_dir() else modalities.get(key).name
        try:
            data = RawDataset(root, [name])
            if data.missing(name) == len(data):
                lacking[key] = "no sample has it"
        except Open4MError as error:
            lacking[key] = str(error)
    if new in lacking:
        raise Open4MError(
            f"{root}: no {new} ({lacking[new]}): label it (open4m label, or --labeller here), or say in its file how "
            "it is computed (source and derive)"
        )
    if lacking:
        raise Open4MError(
            f"{root}: no {', '.join(lacking)}, which the model knows and would forget without: label it, as by "
            f"open4m label {root.parent} --modality {next(iter(lacking))}"
        )


def _program(modality: str) -> str:
    text = modalities.text_of(modality)
    return weights.fingerprint({}, text) if text is not None else ""
