"""4M on labelled data of your own, whatever modalities they have: ``open4m train mine --data RAW``.

Small networks and short trainings, for some hundred to some ten thousand images and a machine without a GPU:
:class:`OwnData` says which, and follows the data where it says nothing. For more, the paper's configurations
(``4m-7-b``) read the tokens that ``open4m tokenize`` makes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open4m import modalities
from open4m.config import Duration
from open4m.configs import scenes
from open4m.data.inspect import stored
from open4m.masking.config import MaskingConfig, Strategy
from open4m.modalities.families import Modality, TokenGrid, TokenSequence
from open4m.modalities.features import Vector
from open4m.model.config import SIZES
from open4m.nn.mlp import MLPConfig
from open4m.ranges import Length, Positive, Size, check_ranges
from open4m.stages import StagesConfig
from open4m.store.shards import RawDataset
from open4m.train.config import TrainConfig
from open4m.train.optim import OptimConfig
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun, TokenizerStage
from open4m.types import Boxes, Open4MError, Value

logger = logging.getLogger("open4m")

SPLITS = ("train", "validation")
LOOKED_AT = 256
"""Samples per modality, spread over the training data, whose sizes and lengths are looked at."""
PATCH = 16
MOST_PIXELS = 128
BUDGET = 256
"""The most input tokens, and the most target tokens, that are shown and asked for at once."""
CODEBOOKS = 8
"""Tokens of a single vector."""
MLP = MLPConfig(width=256, depth=2)
SEQUENCE = 128
"""Tokens of a sequence that is neither text nor boxes."""


def config() -> OwnData:
    return OwnData()


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """What may be said before the data are looked at. Empty and None: what the data suggest.

    ``modalities``: of the raw data, by default all that both splits have. ``image_size``: in pixels, by default 128, or
    the largest multiple of 16 that half of the images have. ``size``: of the model, one of ``SIZES``. ``batch_size``:
    by default 32, or the number of training samples. ``tokenizer_length``, ``length``: of each tokenizer's training, by
    default 50 epochs, but 500 to 3,000 steps, and of 4M's, 200 epochs, but 2,000 to 20,000 steps. ``tokenizer_lr``,
    ``lr``: their peak learning rates for batches of 32; they scale linearly with the batch.
    """

    modalities: tuple[str, ...] = ()
    image_size: Length = 0
    size: str = "scenes"
    batch_size: Length = 0
    tokenizer_length: Duration | None = None
    length: Duration | None = None
    tokenizer_lr: Positive = 2e-3
    lr: Positive = 3e-3
    text_vocab: Size = 8_000

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.size not in SIZES:
            raise Open4MError(f"size: expected one of {', '.join(SIZES)}, got {self.size!r}")
        if self.image_size % PATCH:
            raise Open4MError(f"image_size: expected a multiple of {PATCH}, got {self.image_size}")

    def on(self, root: Path) -> StagesConfig:
        """The whole configuration for the raw data ``root/train`` and ``root/validation``.

        Raises :class:`Open4MError` if a split or one of the ``modalities`` is not there, or cannot be trained.
        """
        names = self._found(root)
        data = {name: RawDataset(root / SPLITS[0], [name]) for name in names}
        count = max(len(part) - part.missing(name) for name, part in data.items())
        size, batch = self.image_size or _image_size(data), self.batch_size or min(32, count)
        lengths = {name: sequence_length(part, name) for name, part in data.items() if is_sequence(name)}
        grids = {name: cells(part, name, size) for name, part in data.items() if not is_sequence(name)}
        pixels = [key for key in modalities.names() if _pixels_of(key) in names]
        logger.info(
            "mine: at most %d training samples in %s have %s; images are read at %d pixels",
            count,
            root,
            ", ".join(names),
            size,
        )

        def steps(length: Duration | None, epochs: int, fewest: int, most: int) -> int:
            chosen = length or Duration(min(max(epochs * count / batch, fewest), most), "steps")
            return chosen.steps(batch, 2 * BUDGET, count)

        def tokenizer(name: str) -> TokenizerRun:
            optim = OptimConfig(base_lr=8 * self.tokenizer_lr, clip=1.0)
            train = training(steps(self.tokenizer_length, 50, 500, 3_000), batch, optim)
            return tokenizer_run(name, count * grids[name], size, train)

        tokens = dict.fromkeys(pixels, (size // PATCH) ** 2) | grids | {k: n // 2 for k, n in lengths.items()}
        return StagesConfig(
            name="mine",
            tokenizers={name: tokenizer(name) for name in grids},
            text_vocab=self.text_vocab,
            text_bins=bins([modalities.get(name) for name in lengths], size),
            max_length=lengths,
            pretrain=PretrainConfig(
                modalities=(*pixels, *grids, *lengths),
                architecture=SIZES[self.size],
                masking=masking(tokens),
                train=training(
                    steps(self.length, 200, 2_000, 20_000),
                    batch,
                    OptimConfig(base_lr=8 * self.lr, clip=1.0, muon_lr=2 * self.lr * batch / 32, muon_iterations=3),
                ),
                image_size=size,
                patch_size=PATCH,
            ),
        )

    def _found(self, root: Path) -> list[str]:
        """The modalities to train, of which both splits hold some."""
        for split in SPLITS:
            if not (root / split).is_dir():
                raise Open4MError(
                    f"{root / split}: no such folder; expected raw data, as open4m data import SOURCE {root} writes"
                )
        there = {split: _held(root / split) for split in SPLITS}
        if unknown := [name for name in self.modalities if name not in there[SPLITS[0]]]:
            raise Open4MError(
                f"{root / SPLITS[0]}: no {', '.join(unknown)} (modalities: {', '.join(there[SPLITS[0]])})"
            )
        names = list(self.modalities) or there[SPLITS[0]]
        reasons = {name: why for name in names if (why := untrainable(name))}
        if reasons and self.modalities:
            raise Open4MError(f"modalities: {'; '.join(f'{name} {why}' for name, why in reasons.items())}")
        for name, why in reasons.items():
            logger.warning("%s is left out: it %s", name, why)
        names = [name for name in names if name not in reasons]
        if lacking := [name for name in names if name not in there[SPLITS[1]]]:
            raise Open4MError(
                f"{root / SPLITS[1]}: no {', '.join(lacking)}: label it as the training data (open4m label {root} does "
                f"both), or leave it out: modalities={','.join(name for name in names if name not in lacking)}"
            )
        if not names:
            raise Open4MError(f"{root / SPLITS[0]}: nothing to train on; expected images, maps, boxes or texts")
        return names


def summary(config: StagesConfig) -> list[str]:
    """What is trained for how long, in lines; tokenizers of equal trainings share one."""
    alike: dict[str, list[str]] = {}
    for name, run in config.tokenizers.items():
        alike.setdefault(_said(run.stages[0].train), []).append(name)
    return [
        *(f"{config.name}: tokenizers of {', '.join(names)}: {said}" for said, names in alike.items()),
        f"{config.name}: 4M: {_said(config.pretrain.train)}, {config.pretrain.image_size} pixels",
        f"{config.name}: FIELD=VALUE changes any of it, --print-config lists all",
    ]


def _said(train: TrainConfig) -> str:
    rate = train.optim.base_lr * train.batch_size / 256
    return f"{train.length} of {train.batch_size} samples, learning rate {rate:.3g}"


def masking(tokens: dict[str, int]) -> MaskingConfig:
    """Pixels → All, All → All (paper Table 20), and whole texts → All (A.2), as far as there are such modalities.

    ``tokens``: how many a sample has, by modality; half of them, at most 256, are shown and asked for. Inputs range
    from nothing to that, since generation begins with nothing.
    """
    pixels = [key for key in tokens if _pixels_of(key)]
    texts = [key for key in tokens if modalities.get(key).is_text]
    asked = {key: 1.0 if is_sequence(key) else 0.5 for key in tokens if key not in pixels}
    budget, most = (max(1, min(BUDGET, sum(tokens[key] for key in keys) // 2)) for keys in (asked, tokens))
    every = dict.fromkeys(tokens, 0.5)
    strategies = [Strategy(name="all_to_all", weight=0.3, input_alpha=every, target_alpha=asked)]
    for key in pixels:
        if asked.keys() - {_pixels_of(key)}:  # else there is nothing that it does not show itself
            shown, whole = {key: 0.5}, (tokens[key], tokens[key])
            name = f"{_pixels_of(key)}_to_all"
            strategies.append(
                Strategy(name=name, weight=0.4, input_alpha=shown, target_alpha=asked, input_budget=whole)
            )
    for key in texts:
        if others := {name: alpha for name, alpha in asked.items() if name != key}:
            strategies.append(
                Strategy(
                    name=f"{key}_to_all",
                    weight=0.3 / len(texts),
                    input_alpha={**dict.fromkeys(tokens, 0.05), key: 5.0},
                    target_alpha=others,
                    input_budget=(most, most),
                    unmasked=(key,),
                    leftover="uniform",
                )
            )
    return MaskingConfig(input_budget=(0, most), target_budget=budget, strategies=tuple(strategies))


def tokenizer_run(name: str, tokens: int, image_size: int, train: TrainConfig) -> TokenizerRun:
    """A small tokenizer, whose codebook has one entry per 16 tokens of the training data, but 64 to 512."""
    entries = 2 ** int(min(max(math.log2(max(1, tokens / 16)), 6), 9))
    modality, quantizer = _modality(name), {}
    network = scenes.vit(depth=2 if modality.feature_map else 4)
    if isinstance(modality, Vector):
        network, quantizer = MLP, {"codebooks": CODEBOOKS, "latent_dim": MLP.width}
    stage = TokenizerStage(decoder=network, continuous_steps=train.steps // 8, train=train)
    return TokenizerRun(
        modality=name, codebook_size=entries, encoder=network, image_size=image_size, stages=(stage,), **quantizer
    )


def training(steps: int, batch_size: int, optim: OptimConfig) -> TrainConfig:
    return TrainConfig(
        length=Duration(steps, "steps"),
        warmup=Duration(min(100, steps // 10), "steps"),
        batch_size=batch_size,
        optim=optim,
        precision="fp32",
        workers=0,
        evaluate_every=500,
        checkpoint_every=250,
    )


# ---- what the data have
def _held(root: Path) -> list[str]:
    """The modalities of which raw data have at least one sample."""
    names = [name for name in stored(root) if modalities.get(name).extension]
    data = {name: RawDataset(root, [name]) for name in names}
    return [name for name, part in data.items() if part.missing(name) < len(part)]


def untrainable(name: str) -> str:
    """Why a modality of raw data cannot be trained by this configuration; an empty text if it can."""
    modality = modalities.get(name)
    if isinstance(modality, TokenSequence) and modality.part:
        return f"needs a tokenizer of {modality.part}, its parts"
    return "" if isinstance(modality, TokenGrid | TokenSequence) else "has no tokens"


def _modality(name: str) -> TokenGrid:
    return modalities.get(name)


def is_sequence(name: str) -> bool:
    return modalities.get(name).family.is_sequence


def _pixels_of(key: str) -> str | None:
    """The modality that a modality of pixels is read from; None for others."""
    modality = modalities.get(key)
    return modality.source if modality.family.content == "pixels" else None


def _some(data: RawDataset, name: str) -> Iterator[Value]:
    """Values of a modality, spread over the data."""
    there = data.having(name)
    chosen = np.unique(np.linspace(0, len(there) - 1, LOOKED_AT).astype(int))
    return (there[int(i)][name] for i in chosen)


def _image_size(data: dict[str, RawDataset]) -> int:
    maps = [name for name in data if not is_sequence(name) and not _is_vector(name) and not _modality(name).feature_map]
    shown = sorted(maps, key=lambda name: not modalities.get(name).image)[:1]
    sides = [min(value.shape[:2]) for name in shown for value in _some(data[name], name)]
    if not sides:
        return MOST_PIXELS
    return max(PATCH, min(MOST_PIXELS, int(np.median(sides)) // PATCH * PATCH))


def _is_vector(name: str) -> bool:
    return isinstance(modalities.get(name), Vector)


def cells(data: RawDataset, name: str, image_size: int) -> int:
    """The tokens of a grid."""
    if _is_vector(name):
        return CODEBOOKS
    if _modality(name).feature_map:
        return math.prod(next(_some(data, name)).shape[:2])
    return (image_size // PATCH) ** 2


def bins(sequences: Sequence[Modality], image_size: int) -> int:
    """Numbers per axis of the text tokenizer: a place per pixel, and all that sequences of numbers write."""
    pixels = image_size + 1 if any(modality.has_positions for modality in sequences) else 2
    return max([pixels, *(modality.largest_number + 1 for modality in sequences)])


def sequence_length(data: RawDataset, name: str) -> int:
    """Tokens of a sequence, at most: room for half as many again as the longest that was looked at, 32 to 256."""
    count: Callable[[Value], int]
    if modalities.get(name).is_text:
        count = _words
    elif modalities.get(name).has_positions:
        count = _numbers
    else:
        return SEQUENCE
    longest = max(map(count, _some(data, name)))
    return min(BUDGET, max(32, -(-int(1.5 * longest + 2) // 32) * 32))


def _words(value: Value) -> int:
    return len(str(value).split())


def _numbers(value: Value) -> int:
    """Tokens of boxes: four numbers and a name."""
    return 5 * len(value.labels) if isinstance(value, Boxes) else SEQUENCE
