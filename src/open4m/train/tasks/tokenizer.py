"""Training the tokenizer of a dense modality (paper B.3, Table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.data.order import rows_for_step
from open4m.data.readable import Readable
from open4m.modalities.crops import Crop, augment
from open4m.pictures import grid
from open4m.rng import Part, seeded, stream
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import TokenizerConfig, tensor_of, valid_of
from open4m.tokenizers.flops import training_flops
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Sample

BATCH = 32
"""Validation values that are encoded or decoded at a time."""

SHOWN_VALUES = 8
"""Reconstructions in a picture."""


class TokenizerBatch(NamedTuple):
    """What the network reads, (B, C, H, W) float32 or (B, H, W) int64 class ids, and which pixels hold a measurement,
    bool (B, H, W); None: all of them."""

    values: torch.Tensor
    valid: torch.Tensor | None = None


class TokenizerTask:
    """A task of :func:`open4m.train.loop.train`. Training values are cropped at random, and flipped if ``flip``.

    Samples that lack the modality are passed over. Pixels without a measurement cost nothing.
    """

    def __init__(
        self,
        config: TokenizerConfig,
        train: RawDataset,
        validation: RawDataset,
        *,
        batch_size: int,
        seed: int = 0,
        flip: bool = True,
        validation_samples: int = 128,
        allow_rejects: float = 0.0,
        crop_scale: tuple[float, float] | None = None,
    ):
        """``allow_rejects``: the share of training samples that may be damaged (:mod:`open4m.data.readable`).
        ``crop_scale``: the least and the most area of a crop, by default those of the modality."""
        self.name = f"tokenizer {config.modality}"
        self.learns_in_forward = not config.frozen_encoder
        self.modality = modalities.get(config.modality)
        self.crop_scale = crop_scale or self.modality.crop_scale
        train, validation = (data.having(config.modality) for data in (train, validation))
        self.config, self.train_data, self.batch_size, self.seed = config, train, batch_size, seed
        self.flip, self.samples = flip, len(train)
        self._measured: dict[str, float] = {}  # in the last evaluation, with which the training loop ends
        self._readable = Readable(train, allow_rejects)
        count = min(validation_samples, len(validation))
        self.validation = [self.modality.fit(validation[i][config.modality], config.image_size) for i in range(count)]

    def build_model(self) -> VQVAE:
        return VQVAE(self.config, seeded(self.seed))

    def batch(self, step: int, rows: range) -> TokenizerBatch:
        """Normalization is left to the model. Height and width are those of the step: one of the configured
        resolutions."""
        order = rows_for_step(self.seed, step, self.batch_size, len(self.train_data))
        size = int(stream(self.seed, step).choice(self.config.resolutions or [self.config.image_size]))
        samples = [
            self._readable.use(int(order[row]), lambda i, row=row: self._tensor(i, stream(self.seed, step, row), size))
            for row in rows
        ]
        tensors, valid = zip(*samples, strict=True)
        if len({tensor.shape for tensor in tensors}) > 1:
            named = {
                tensor.shape: self.train_data.key(int(order[row])) for row, tensor in zip(rows, tensors, strict=True)
            }
            sizes = ", ".join(f"{shape} (key {key})" for shape, key in named.items())
            raise Open4MError(f"{self.train_data.data.root}: values of one size are needed, got {sizes}")
        if all(mask is None for mask in valid):
            return TokenizerBatch(torch.from_numpy(np.stack(tensors)))
        masks = [np.ones(t.shape[-2:], bool) if m is None else m for t, m in zip(tensors, valid, strict=True)]
        return TokenizerBatch(torch.from_numpy(np.stack(tensors)), torch.from_numpy(np.stack(masks)))

    def _tensor(self, i: int, generator: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        """What the network reads of sample ``i``, and which of its pixels hold a measurement. Raises
        :class:`Open4MError` that names the sample."""
        sample = self.train_data[i]
        try:
            value = self._augmented(sample, generator, size)
            return tensor_of(value, self.config, self.modality), valid_of(value, self.config, self.modality)
        except Open4MError as error:
            raise self.train_data.unreadable(i, self.config.modality, error) from error

    def _augmented(self, sample: Sample, generator: np.random.Generator, size: int) -> np.ndarray:
        name = self.config.modality
        extent = self.modality.extent(sample[name])
        if extent is None:
            return sample[name]
        crop = Crop.random(*extent, size, generator, self.crop_scale)
        return augment(sample, {name: self.modality}, crop, self.flip and generator.random() < 0.5)[name]

    def counts(self, batch: TokenizerBatch) -> list[int]:
        """The values."""
        return [len(batch.values)]

    def samples_of(self, step: int) -> list[str]:
        order = rows_for_step(self.seed, step, self.batch_size, len(self.train_data))
        return [self.train_data.key(int(row)) for row in order]

    def loss(
        self,
        model: VQVAE,
        batch: TokenizerBatch,
        generator: torch.Generator | Part,
        counts: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        device = model.mean.device
        valid = None if batch.valid is None else batch.valid.to(device)
        loss, values = model.loss(batch.values.to(device), generator, valid)
        share = len(batch.values) / counts[0] if counts else 1.0
        return loss * share, {name: value * share for name, value in values.items()}

    def tokens(self, batch: TokenizerBatch) -> int:
        height, width = (side // self.config.patch_size for side in batch.values.shape[-2:])
        return len(batch.values) * height * width * self.config.codebooks

    def flops(self, batch: TokenizerBatch) -> float:
        return len(batch.values) * training_flops(self.config, batch.values.shape[-1])

    def evaluate(self, model: VQVAE) -> dict[str, float]:
        """The modality's own metrics of reconstructions, and ``code_usage``, both on validation data."""
        tokenizer = Tokenizer(model)
        parts = (self.validation[start : start + BATCH] for start in range(0, len(self.validation), BATCH))
        ids = np.concatenate([tokenizer.encode_batch(part) for part in parts])
        batches = range(0, len(ids), BATCH)
        decoded = [value for start in batches for value in tokenizer.decode_batch(ids[start : start + BATCH])]
        usage, _ = code_usage(torch.from_numpy(ids), self.config.codebook_size, self.config.codebooks)
        self._measured = {**tokenizer.metrics(decoded, self.validation), "code_usage": float(usage)}
        return self._measured

    def pictures(self, model: VQVAE) -> dict[str, Image.Image]:
        tokenizer = Tokenizer(model)
        shown = self.validation[:SHOWN_VALUES]
        decoded = tokenizer.decode_batch(tokenizer.encode_batch(shown))
        return {"reconstructions": grid([[self.modality.render(v, 128) for v in row] for row in (shown, decoded)])}

    def save(self, model: VQVAE, folder: Path) -> None:
        tokenizer = Tokenizer(model)
        tokenizer.quality = self._measured or self.evaluate(model)
        tokenizer.save(folder)
