"""A transfer as a task of the training loop: augmented batches, the head's loss, its figures and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from open4m.data.order import rows_for_step
from open4m.data.readable import Readable
from open4m.datasets.labelled.base import PICTURE, Example, Labelled, check_example, check_target
from open4m.rng import Part, generator_of, seeded, stream
from open4m.store.shards import UnreadableSample
from open4m.transfer import heads
from open4m.transfer.augment import Mixing, needed, partner
from open4m.transfer.config import TransferConfig
from open4m.transfer.frames import Placed
from open4m.transfer.heads import contract
from open4m.transfer.heads.base import Batch
from open4m.transfer.network import Contents, TransferNetwork, predictions, spread
from open4m.transfer.origin import Origin
from open4m.types import Open4MError

AUGMENTED, MIXED = 1, 2  # what random numbers are for
LABEL = "label"
PLAIN = Mixing(mixup=0.0, cutmix=0.0, smoothing=0.0)
"""No mixing: labels are as they are."""

SHOWN = 6
"""Validation examples in pictures."""


@dataclass
class TransferBatch:
    """What the network reads, and what its head learns. ``keys``: of the examples."""

    inputs: dict[str, Tensor]
    batch: Batch
    keys: list[str]

    def __len__(self) -> int:
        return len(self.keys)


class TransferTask:
    """``origin``: where the encoder comes from. ``save``: writes the trained network into a new folder."""

    def __init__(
        self,
        config: TransferConfig,
        origin: Origin,
        train: Labelled,
        validation: Labelled,
        save: Callable[[TransferNetwork, Path], None],
    ):
        self.name = Path(config.kind).stem
        self.config, self.train, self.validation = config, train, validation
        self.origin, self._save = origin, save
        self.seed, self.batch_size = config.train.seed, config.train.batch_size
        self.target = heads.target_of(config.kind, config.head)
        self.classes = train.classes(self.target)
        try:
            with torch.device("meta"):  # only prepares contents and counts, for which it needs no weights
                self.sketch = self._network()
        except (RuntimeError, OverflowError) as error:  # of torch, for sizes that no number holds
            raise Open4MError(f"{self.name}: layers of sizes that no network can have ({error})") from error
        if config.augment.mixing is not None and self.target != LABEL:
            raise Open4MError(f"augment.mixing: mixes labels of images, and {self.name} learns {self.target}: set none")
        self.learns_in_forward = any(True for m in self.sketch.modules() if isinstance(m, _BatchNorm))
        self.contents = Contents(
            self.sketch.backbone, config.backbone.inputs, origin.tokenizers, config.backbone.image_size
        )
        self._readable = Readable(range(self.samples), config.train.allow_rejects)
        self.augment, self.place, self.mixing = config.augment.train, config.augment.evaluation, config.augment.mixing

    def _network(self) -> TransferNetwork:
        """The network without its weights."""
        backbone = self.origin.make()
        head = heads.get(self.config.kind)(self.config.head, backbone.width, self.classes, backbone.patch)
        return TransferNetwork(backbone, head)

    @cached_property
    def chosen(self) -> np.ndarray:
        """The places of the training examples that are used."""
        order = stream(self.seed, len(self.train)).permutation(len(self.train))
        return order[: self.config.examples]

    @property
    def samples(self) -> int:
        return min(len(self.train), self.config.examples or len(self.train))

    def build_model(self) -> TransferNetwork:
        generator, network = seeded(self.seed), self._network()
        self.origin.load(network.backbone, generator)
        network.backbone.tune(self.config.backbone, generator)
        network.head.initialize(generator)
        return network

    # ---- batches
    def batch(self, step: int, rows: range) -> TransferBatch:
        order = rows_for_step(self.seed, step, self.batch_size, self.samples)
        made = {row: self._example(step, row, order) for row in self._needed(rows)}
        examples = [self._mixed(step, row, made) for row in rows]
        batch = self._targets(examples, [made[row][1] for row in rows])
        return TransferBatch(self.contents.of(examples), batch, [made[row][2] for row in rows])

    def _needed(self, rows: Sequence[int]) -> Sequence[int]:
        return rows if self.mixing is None else needed(rows, self.batch_size)

    def _index(self, place: int) -> int:
        return int(self.chosen[place])

    def _example(self, step: int, row: int, order: np.ndarray) -> tuple[Example, Placed, str]:
        """The augmented example of a row of a step, and its key: a pure function of (seed, step, row), but where
        another example takes the place of a damaged one."""
        example, key = self._readable.use(int(order[row]), self._read)
        example, where = self.augment(example, stream(self.seed, step, row, AUGMENTED))
        label = example.get(LABEL)
        if isinstance(label, int | np.integer):
            example = {**example, LABEL: (self.mixing or PLAIN).smoothed(int(label), len(self.classes))}
        return example, where, key

    def _read(self, place: int) -> tuple[Example, str]:
        """A training example and its key. Raises :class:`UnreadableSample` if it cannot be read, its maps are not of
        the size of its image, or it has classes that are none."""
        index = self._index(place)
        key = self.train.key(index)
        try:
            example = self.train[index]
            check_example(example, key)
            check_target(example, self.target, self.classes, key)
        except Open4MError as error:
            raise UnreadableSample(str(error)) from error
        except (OSError, ValueError) as error:  # of a user's data set
            raise UnreadableSample(f"{key}: cannot be read ({type(error).__name__}: {error})") from error
        return example, key

    def _mixed(self, step: int, row: int, made: Mapping[int, tuple[Example, Placed, str]]) -> Example:
        """The example of a row, mixed with that of its partner where images are mixed."""
        example = made[row][0]
        if self.mixing is None:
            return example
        other = made[partner(row, self.batch_size)][0]
        image, label = self.mixing.mixed(
            example[PICTURE], example[LABEL], other[PICTURE], other[LABEL], stream(self.seed, step, row, MIXED)
        )
        return {**example, PICTURE: image, LABEL: label}

    def _targets(self, examples: Sequence[Example], placed: Sequence[Placed]) -> Batch:
        return Batch({self.target: [as_target(example[self.target]) for example in examples]}, placed)

    # ---- what the loop asks
    def counts(self, batch: TransferBatch) -> Sequence[int]:
        return [self.sketch.head.count(batch.batch)]

    def loss(
        self,
        model: TransferNetwork,
        batch: TransferBatch,
        generator: torch.Generator | Part,
        counts: Sequence[int] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        device = next(model.parameters()).device
        outputs = model({key: content.to(device) for key, content in batch.inputs.items()}, generator)
        cost, details = contract.loss(model.head, outputs, batch.batch, generator_of(generator))
        share = 1.0 if counts is None else model.head.count(batch.batch) / counts[0]
        return cost * share, {name: torch.as_tensor(value).detach() * share for name, value in details.items()}

    def tokens(self, batch: TransferBatch) -> int:
        return sum(content.shape[0] for content in batch.inputs.values())

    def flops(self, batch: TransferBatch) -> float:
        return 0.0

    def samples_of(self, step: int) -> list[str]:
        """The keys of a step, before others take the places of damaged ones."""
        order = rows_for_step(self.seed, step, self.batch_size, self.samples)
        return [self.train.key(self._index(place)) for place in order]

    def evaluate(self, model: TransferNetwork) -> dict[str, float]:
        places = spread(len(self.validation), self.config.evaluate_samples)
        pairs = predictions(model, self.contents, self.place, self.validation, places, self.config.at_once)
        examples, found = [], []
        for place, (example, prediction) in zip(places, pairs, strict=True):
            check_target(example, self.target, self.classes, self.validation.key(place))
            examples.append(model.head.kept(example))
            found.append(prediction)
        return contract.measure(model.head, found, examples)

    def pictures(self, model: TransferNetwork) -> dict[str, Image.Image]:
        places = spread(len(self.validation), SHOWN)
        pairs = predictions(model, self.contents, self.place, self.validation, places, self.config.at_once)
        return {f"validation-{i}": contract.draw(model.head, *pair) for i, pair in enumerate(pairs)}

    def save(self, model: TransferNetwork, folder: Path) -> None:
        self._save(model, folder)


def as_target(value: Any) -> Any:
    """A target as a tensor: maps (H, W) or (C, H, W), numbers and probabilities; what is no array stays."""
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.array(value))  # a copy: what was decoded may be read-only
        return tensor.movedim(-1, 0) if tensor.ndim == 3 else tensor
    return value
