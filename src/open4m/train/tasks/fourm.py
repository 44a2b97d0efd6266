"""Pre-training 4M: predict random tokens from other random tokens (paper 2.3, C.2)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.data.order import rows_for_step
from open4m.data.rows import RowReader, check_store
from open4m.fourm import FourMBase
from open4m.generate.drawing import padded, pictures
from open4m.generate.pipeline import FourM
from open4m.masking.batch import mask_batch
from open4m.masking.config import MaskingConfig
from open4m.model.config import FourMConfig
from open4m.model.embeddings import module_name
from open4m.model.fourm import FourMTransformer
from open4m.model.inspection import quick
from open4m.pictures import grid
from open4m.rng import seeded
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train import distributed, losses
from open4m.types import MaskedBatch, Open4MError

SHOWN_SAMPLES = 6
"""Samples in a picture."""

VALIDATION_SEED = 1 << 20
"""The seed of the validation masks, which are the same in every evaluation and every run."""

WHITENING_SAMPLES = 512
"""Training images, evenly spaced, that the whitening of patches is computed from."""

INSPECTED_BATCHES = 2
"""Validation batches that are scored with shuffled positions and without each modality, in every evaluation."""


class FourMTask:
    """A task of :func:`open4m.train.loop.train`. ``grids`` and ``text`` are saved with the model.

    Raises :class:`Open4MError` if stores, tokenizers, masking and model do not fit.
    """

    name = "4M"

    def __init__(
        self,
        config: FourMConfig,
        masking: MaskingConfig,
        train: TokenStore,
        validation: TokenStore,
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
        self.samples = len(train)
        self.sentinels = np.array(text.sentinels if text else [], dtype=np.int64)
        for store in (train, validation):
            if not len(store):
                raise Open4MError(f"{store.root}: holds no samples")
        masking.check(config.modalities, len(self.sentinels))
        for store in (train, validation):
            check_store(config, store, {**grids, **{m.key: text for m in config.modalities if m.is_causal and text}})
        for key in config.keys:
            made = [store.header(key).tokenizer for store in (train, validation)]
            if len(set(made)) > 1:
                raise Open4MError(f"{validation.root}: {key} was made by {made[1]}, the training data by {made[0]}")
        self._read, self._read_validation = (RowReader(store, config.modalities) for store in (train, validation))
        self.validation_rows = np.arange(min(validation_samples, len(validation)))

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
        images = min(WHITENING_SAMPLES, len(self.store))
        pixels = self._read(np.linspace(0, len(self.store) - 1, images).astype(np.int64)).pixels
        for key, patches in whitened.items():
            patches.fit(torch.as_tensor(pixels[key]))

    def batch(self, step: int, rows: range) -> MaskedBatch:
        order = rows_for_step(self.seed, step, self.batch_size, len(self.store), self.repeats)
        return self._masked(self._read, order[rows.start : rows.stop], self.masking, self.seed, step, rows.start)

    def _masked(
        self, read: RowReader, rows: np.ndarray, masking: MaskingConfig, seed: int, step: int, first_row: int = 0
    ) -> MaskedBatch:
        return mask_batch(
            read(rows), self.config.modalities, masking, self.sentinels, seed=seed, step=step, first_row=first_row
        )

    def loss(
        self, model: FourMTransformer, batch: MaskedBatch, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        counts = dict(zip(self.config.keys, distributed.summed(batch.target_counts), strict=True))
        costs = model(batch.to(_device(model)), generator if model.training else None)
        loss, parts = losses.aggregate(costs, self.aggregation, counts)
        return loss, {f"loss/{key}": value.detach() for key, value in parts.items()}

    def tokens(self, batch: MaskedBatch) -> int:
        return batch.tokens_seen()

    def evaluate(self, model: FourMTransformer) -> dict[str, float]:
        """The validation loss of each strategy and, within it, of each modality, always with the same masks.

        A modality that no sample has targets of, since budgets show all of it, has no loss, and no part in the whole.
        Beside it, what a few batches say about the use of the input: ``shuffle/…`` and ``blank/…`` of
        :func:`~open4m.model.inspection.quick`.
        """
        inspected = self.validation_rows[: INSPECTED_BATCHES * self.batch_size]
        values = quick(
            model,
            [
                self._masked(self._read_validation, rows, self.masking, VALIDATION_SEED, step)
                for step, rows in enumerate(np.array_split(inspected, -(-len(inspected) // self.batch_size)))
            ],
        )
        for strategy in self.masking.strategies:
            alone = dataclasses.replace(self.masking, strategies=(strategy,))
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

    def pictures(self, model: FourMTransformer) -> dict[str, Image.Image]:
        """Predictions from validation images as pixels, each target modality by itself.

        There are none if the model reads no pixels, or no target can be shown.
        """
        pixels = next((s.key for s in self.config.modalities if s.content == "pixels"), None)
        if pixels is None:
            return {}
        source, user = modalities.get(pixels), FourM(model, self.grids, self.text)
        targets = [
            key
            for key in self.config.targets
            if modalities.is_known(key)
            and user.can_decode(key)
            and pixels in self.config.sources(key)
            and key != source.source
        ]
        if not targets:
            return {}
        images = [source.read(file) for file in self.validation.pixels(pixels, self.validation_rows[:SHOWN_SAMPLES])]
        given = [{pixels: image} for image in images]
        shown = [source.render(image, 128) for image in images]
        columns, legends = [shown], [None]
        for key in targets:
            drawn, legend = pictures(user, key, [result[key] for result in user.generate(given, [key])], shown, 128)
            columns.append(drawn)
            legends.append(legend)
        rows = [list(row) for row in zip(*columns, strict=True)]
        return {"predictions": grid([*rows, *([padded(legends, 128)] if any(legends) else [])], ["input", *targets])}

    def save(self, model: FourMTransformer, folder: Path) -> None:
        FourMBase(model, self.grids, self.text).save(folder)


def _device(model: FourMTransformer) -> torch.device:
    return next(model.parameters()).device
