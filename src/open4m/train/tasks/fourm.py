"""Pre-training 4M: predict random tokens from other random tokens (paper 2.3, C.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.data.mixture import Mixture, order_of
from open4m.data.rows import RowReader, check_store
from open4m.fourm import FourMBase
from open4m.generate.drawing import padded, pictures
from open4m.generate.pipeline import FourM
from open4m.masking.batch import mask_batch
from open4m.masking.config import MaskingConfig
from open4m.model.config import FourMConfig
from open4m.model.embeddings import module_name
from open4m.model.flops import forward_flops
from open4m.model.fourm import FourMTransformer
from open4m.model.inspection import quick
from open4m.pictures import grid
from open4m.rng import Part, seeded
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train import directions, losses
from open4m.train.trainable import plain
from open4m.types import MaskedBatch, Open4MError

SHOWN_SAMPLES = 6
"""Samples in a picture."""

VALIDATION_SEED = 1 << 20
"""The seed of the validation masks, which are the same in every evaluation and every run."""

WHITENING_SAMPLES = 512
"""Training images, evenly spaced, that the whitening of patches is computed from."""

DIRECTION_SAMPLES = 32
"""Validation samples that the loss of every direction is measured on, in every evaluation."""

INSPECTED_BATCHES = 2
"""Validation batches that are scored with shuffled positions and without each modality, in every evaluation."""


class FourMTask:
    """A task of :func:`open4m.train.loop.train`. ``grids`` and ``text`` are saved with the model.

    Raises :class:`Open4MError` if stores, tokenizers, masking and model do not fit.
    """

    name, learns_in_forward = "4M", False

    def __init__(
        self,
        config: FourMConfig,
        masking: MaskingConfig,
        train: TokenStore | Mixture,
        validation: TokenStore | Mixture,
        grids: dict[str, Tokenizer],
        text: TextTokenizer | None,
        *,
        batch_size: int,
        seed: int = 0,
        validation_samples: int = 256,
        loss: losses.Aggregation = "per_modality",
        repeats: int = 1,
    ):
        self.config, self.masking, self.store, self.validation = config, masking, train, validation
        self.grids, self.text = grids, text
        self.batch_size, self.seed, self.aggregation, self.repeats = batch_size, seed, loss, repeats
        self.samples = train.samples
        self.sentinels = np.array(text.sentinels if text else [], dtype=np.int64)
        for store in (train, validation):
            if not len(store):
                raise Open4MError(f"{store.root}: holds no samples")
        masking.check(config.modalities, len(self.sentinels))
        for store in (train, validation):
            check_store(config, store, {**grids, **{m.key: text for m in config.modalities if m.is_causal and text}})
        for key in config.keys:
            headers = [store.header(key) for store in (train, validation)]
            made = [" and ".join(filter(None, (header.tokenizer, header.parts))) for header in headers]
            if len(set(made)) > 1:
                raise Open4MError(f"{validation.root}: {key} was made by {made[1]}, the training data by {made[0]}")
        self._read, self._read_validation = (RowReader(store, config.modalities) for store in (train, validation))
        self._order = order_of(train, seed, batch_size, repeats)
        sizes = (batch_size, masking.tokens_per_sample, self.samples)
        self._curriculum = [length.steps(*sizes) for length in masking.curriculum or ()]
        if self._curriculum and not self._curriculum[0] <= self._curriculum[1]:
            raise Open4MError(f"masking.curriculum: expected two lengths in order, got {self._curriculum} steps")
        self.validation_rows = validation.first(validation_samples)

    def build_model(self) -> FourMTransformer:
        return FourMTransformer(self.config).initialize(seeded(self.seed))

    def fit_patches(self, model: FourMTransformer) -> None:
        """Compute the whitening of a new model's patches, if it whitens them, from images of the training data."""
        whitened = {
            spec.key: model.embeddings.patches[module_name(spec.key)]
            for spec in self.config.modalities
            if spec.content == "pixels" and self.config.patch_embedding == "whitened"
        }
        if not whitened:
            return
        for key, patches in whitened.items():
            rows = self.store.rows_with(key)
            if not len(rows):
                raise Open4MError(f"{self.store.root}: no sample has {key}, whose patches are to be whitened")
            chosen = np.linspace(0, len(rows) - 1, min(WHITENING_SAMPLES, len(rows))).astype(np.int64)
            reader = RowReader(self.store, [self.config.spec(key)])
            patches.fit(torch.as_tensor(reader(rows[chosen]).normalized().pixels[key]))

    def batch(self, step: int, rows: range) -> MaskedBatch:
        order, masking = self._order.rows(step), self._masking_at(step)
        return self._masked(self._read, order[rows.start : rows.stop], masking, self.seed, step, rows.start)

    def _masking_at(self, step: int) -> MaskingConfig:
        """The mixture of strategies of a step, which a curriculum changes."""
        if not self._curriculum:
            return self.masking
        begin, end = self._curriculum
        return self.masking.at((step - begin + 1) / (end - begin + 1))

    def _masked(
        self, read: RowReader, rows: np.ndarray, masking: MaskingConfig, seed: int, step: int, first_row: int = 0
    ) -> MaskedBatch:
        return mask_batch(
            read(rows), self.config.modalities, masking, self.sentinels, seed=seed, step=step, first_row=first_row
        )

    def counts(self, batch: MaskedBatch) -> Sequence[int]:
        """The targets of each modality."""
        return batch.target_counts

    def samples_of(self, step: int) -> list[str]:
        return self.store.keys(self._order.rows(step))

    def loss(
        self,
        model: FourMTransformer,
        batch: MaskedBatch,
        generator: torch.Generator | Part,
        counts: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        counts = dict(zip(self.config.keys, counts or batch.target_counts, strict=True))
        costs = model(batch.to(_device(model)), generator if model.training else None)
        loss, parts = losses.aggregate(costs, self.aggregation, counts)
        return loss, {f"loss/{key}": value.detach() for key, value in parts.items()}

    def tokens(self, batch: MaskedBatch) -> int:
        return batch.tokens_seen()

    def flops(self, batch: MaskedBatch) -> float:
        return 3 * forward_flops(self.config, batch)

    def evaluate(self, model: FourMTransformer) -> dict[str, float]:
        """The validation loss of each strategy and, within it, of each modality, always with the same masks.

        A modality that no sample has targets of, since budgets show all of it, has no loss, and no part in the whole.
        Beside it, what a few batches say about the use of the input: ``shuffle/…`` and ``blank/…`` of
        :func:`~open4m.model.inspection.quick`; and the loss of each direction, ``from/<input>/<target>``
        (:mod:`open4m.train.directions`).
        """
        inspected = self.validation_rows[: INSPECTED_BATCHES * self.batch_size]
        values = quick(
            model,
            [
                self._masked(self._read_validation, rows, self.masking, VALIDATION_SEED, step)
                for step, rows in enumerate(np.array_split(inspected, -(-len(inspected) // self.batch_size)))
            ],
        )
        return values | self._direction_losses(model) | self.strategy_losses(model)

    def strategy_losses(self, model: FourMTransformer) -> dict[str, float]:
        """The validation losses of each strategy: ``<strategy>/loss`` and ``<strategy>/<modality>``, in nats."""
        values: dict[str, float] = {}
        for strategy in self.masking.strategies:
            alone = self.masking.alone(strategy)
            costs: dict[str, list[torch.Tensor]] = {}
            for step, first in enumerate(range(0, len(self.validation_rows), self.batch_size)):
                rows = self.validation_rows[first : first + self.batch_size]
                batch = self._masked(self._read_validation, rows, alone, VALIDATION_SEED, step)
                for key, cost in model(batch.to(_device(model))).items():
                    costs.setdefault(key, []).append(cost.detach())
            whole = {key: torch.cat(parts) for key, parts in costs.items()}
            asked = {key: cost for key, cost in whole.items() if len(cost)}  # others are no mean of 0
            total, means = losses.aggregate(asked, self.aggregation)
            values[f"{strategy.name}/loss"] = float(total)
            values.update({f"{strategy.name}/{key}": float(mean) for key, mean in means.items()})
        return values

    def _direction_losses(self, model: FourMTransformer) -> dict[str, float]:
        wanted = directions.directions(self.config, bool(len(self.sentinels)))
        rows = self.validation_rows[:DIRECTION_SAMPLES]
        parts = np.array_split(rows, -(-len(rows) // self.batch_size))
        return directions.means(
            directions.losses(model, self._read_validation(part), wanted, self.sentinels) for part in parts
        )

    def pictures(self, model: FourMTransformer) -> dict[str, Image.Image]:
        """Predictions from validation images, each target modality by itself: from pixels, or, where the model reads
        none, from the tokens of a map that can be decoded.

        There are none if the model reads neither, or no target can be shown.
        """
        user = FourM(plain(model), self.grids, self.text)
        shows = [s for s in self.config.modalities if s.is_input and modalities.is_known(s.key)]
        sources = [s for s in shows if s.content == "pixels"]
        sources += [s for s in shows if s.has_places and s.has_codebook and user.can_decode(s.key)]
        if not sources:
            return {}
        key = sources[0].key
        source = modalities.get(key)
        targets = [
            target
            for target in self.config.targets
            if modalities.is_known(target)
            and user.can_decode(target)
            and key in self.config.sources(target)
            and target not in (key, source.source)
        ]
        if not targets:
            return {}
        rows = np.intersect1d(self.validation.rows_with(key), self.validation_rows)[:SHOWN_SAMPLES]
        if not len(rows):
            return {}
        if sources[0].content == "pixels":
            images = [source.read(file) for file in self.validation.pixels(key, rows)]
        else:
            images = user.grids[key].decode(self._read_validation(rows).ids[key].reshape(-1, *sources[0].grid))
        given = [{key: image} for image in images]
        shown = [source.render(image, 128) for image in images]
        columns, legends = [shown], [None]
        for target in targets:
            results = [result[target] for result in user.generate(given, [target])]
            drawn, legend = pictures(user, target, results, shown, 128)
            columns.append(drawn)
            legends.append(legend)
        rows = [list(row) for row in zip(*columns, strict=True)]
        return {"predictions": grid([*rows, *([padded(legends, 128)] if any(legends) else [])], ["input", *targets])}

    def save(self, model: FourMTransformer, folder: Path) -> None:
        FourMBase(plain(model), self.grids, self.text).save(folder)


def _device(model: FourMTransformer) -> torch.device:
    return next(model.parameters()).device
