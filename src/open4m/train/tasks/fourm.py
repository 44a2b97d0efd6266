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
from open4m.data.rows import check_store, read_rows
from open4m.generate.pipeline import FourM
from open4m.masking.batch import mask_batch
from open4m.masking.config import MaskingConfig
from open4m.model.config import FourMConfig
from open4m.model.fourm import FourMTransformer
from open4m.pictures import grid
from open4m.store.tokens import TokenStore
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.train import losses
from open4m.types import MaskedBatch, Open4MError

SHOWN = 6  # samples in a picture

VALIDATION_SEED = 1 << 20  # of the masks that validation always uses


class FourMTask:
    """A task of :func:`open4m.train.loop.train`."""

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
        device: str = "cpu",
        loss: losses.Aggregation = "per_modality",
        repeats: int = 1,
    ):
        self.config, self.masking, self.store, self.validation = config, masking, train, validation
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.aggregation, self.repeats = loss, repeats
        self.sentinels = np.array(text.sentinels if text else [], dtype=np.int64)
        masking.check(config.modalities, len(self.sentinels))
        for store in (train, validation):
            check_store(config, store, {**grids, **{m.key: text for m in config.modalities if m.is_causal and text}})
        for key in config.keys:
            made = [store.header(key).tokenizer for store in (train, validation)]
            if len(set(made)) > 1:
                raise Open4MError(f"{validation.root}: {key} was made by {made[1]}, the training data by {made[0]}")
        self.model = FourMTransformer(config).initialize(torch.Generator().manual_seed(seed)).to(self.device)
        self.validation_rows = np.arange(min(validation_samples, len(validation)))
        self.user = FourM(self.model, grids, text)

    def batch(self, step: int) -> MaskedBatch:
        rows = rows_for_step(self.seed, step, self.batch_size, len(self.store), self.repeats)
        return self._masked(self.store, rows, self.masking, self.seed, step)

    def _masked(self, store: TokenStore, rows: np.ndarray, masking: MaskingConfig, seed: int, step: int) -> MaskedBatch:
        data = read_rows(store, self.config.modalities, rows)
        return mask_batch(data, self.config.modalities, masking, self.sentinels, seed=seed, step=step)

    def loss(self, batch: MaskedBatch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        batch = batch.to(self.device)
        costs = self.model(batch, generator if self.model.training else None)
        loss, parts = losses.aggregate(costs, self.aggregation)
        return loss, {f"loss/{key}": value.detach() for key, value in parts.items()}

    def tokens(self, batch: MaskedBatch) -> int:
        return batch.tokens_seen()

    def evaluate(self) -> dict[str, float]:
        """The validation loss of each strategy and, within it, each modality: always with the same masks."""
        values: dict[str, float] = {}
        for strategy in self.masking.strategies:
            alone = dataclasses.replace(self.masking, strategies=(strategy,))
            costs: dict[str, list[torch.Tensor]] = {}
            for step, first in enumerate(range(0, len(self.validation_rows), self.batch_size)):
                rows = self.validation_rows[first : first + self.batch_size]
                batch = self._masked(self.validation, rows, alone, VALIDATION_SEED, step)
                for key, cost in self.model(batch.to(self.device)).items():
                    costs.setdefault(key, []).append(cost)
            whole = {key: torch.cat(parts) for key, parts in costs.items()}
            total, means = losses.aggregate(whole, self.aggregation)
            values[f"{strategy.name}/loss"] = float(total)
            values.update({f"{strategy.name}/{key}": float(mean) for key, mean in means.items()})
        return values

    def pictures(self) -> dict[str, Image.Image]:
        """What the first input-only pixels predict for validation samples, each modality by itself."""
        pixels = next((s.key for s in self.config.modalities if s.content == "pixels"), None)
        if pixels is None:
            return {}
        source = modalities.get(pixels)
        targets = [
            key
            for key in self.config.targets
            if modalities.is_known(key)
            and self.user.can_decode(key)
            and pixels in self.config.sources(key)
            and key != source.source
        ]
        if not targets:
            return {}
        images = [source.read(file) for file in self.validation.pixels(pixels, self.validation_rows[:SHOWN])]
        shown = [{pixels: image} for image in images]
        columns = [[r.render(key, 128) for r in self.user.generate(shown, [key])] for key in targets]
        rows = zip([source.render(image, 128) for image in images], *columns, strict=True)
        return {"predictions": grid([list(row) for row in rows], ["input", *targets])}

    def save(self, folder: Path) -> None:
        self.user.save(folder)
