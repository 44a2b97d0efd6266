"""Training the tokenizer of a dense modality (paper B.3, Table 3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.data.order import rows_for_step
from open4m.modalities.crops import Crop, augment
from open4m.pictures import grid
from open4m.rng import seeded, stream
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import TokenizerConfig, tensor_of
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Sample

BATCH = 32
"""Validation values that are encoded or decoded at a time."""

SHOWN_VALUES = 8
"""Reconstructions in a picture."""


class TokenizerTask:
    """A task of :func:`open4m.train.loop.train`. Training values are cropped at random, and flipped if ``flip``."""

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
    ):
        self.name = f"tokenizer {config.modality}"
        self.modality = modalities.get(config.modality)
        self.config, self.train_data, self.batch_size, self.seed = config, train, batch_size, seed
        self.flip, self.samples = flip, len(train)
        self._measured: dict[str, float] = {}  # in the last evaluation, with which the training loop ends
        count = min(validation_samples, len(validation))
        self.validation = [self.modality.fit(validation[i][config.modality], config.image_size) for i in range(count)]

    def build_model(self) -> VQVAE:
        return VQVAE(self.config, seeded(self.seed))

    def batch(self, step: int, rows: range) -> torch.Tensor:
        """Normalization is left to the model: (B, C, H, W) float32, or (B, H, W) int64 class ids.

        Height and width are those of the step: one of the configured resolutions.
        """
        order = rows_for_step(self.seed, step, self.batch_size, len(self.train_data))
        size = int(stream(self.seed, step).choice(self.config.resolutions or [self.config.image_size]))
        tensors = [self._tensor(int(order[row]), stream(self.seed, step, row), size) for row in rows]
        if len({tensor.shape for tensor in tensors}) > 1:
            named = {
                tensor.shape: self.train_data.key(int(order[row])) for row, tensor in zip(rows, tensors, strict=True)
            }
            sizes = ", ".join(f"{shape} (key {key})" for shape, key in named.items())
            raise Open4MError(f"{self.train_data.root}: values of one size are needed, got {sizes}")
        return torch.from_numpy(np.stack(tensors))

    def _tensor(self, i: int, generator: np.random.Generator, size: int) -> np.ndarray:
        """What the network reads of sample ``i``. Raises :class:`Open4MError` that names the sample."""
        sample = self.train_data[i]
        try:
            return tensor_of(self._augmented(sample, generator, size), self.config, self.modality)
        except Open4MError as error:
            raise self.train_data.unreadable(i, self.config.modality, error) from error

    def _augmented(self, sample: Sample, generator: np.random.Generator, size: int) -> np.ndarray:
        name = self.config.modality
        extent = self.modality.extent(sample[name])
        if extent is None:
            return sample[name]
        crop = Crop.random(*extent, size, generator, self.modality.crop_scale)
        return augment(sample, {name: self.modality}, crop, self.flip and generator.random() < 0.5)[name]

    def loss(
        self, model: VQVAE, batch: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        return model.loss(batch.to(model.mean.device), generator)

    def tokens(self, batch: torch.Tensor) -> int:
        height, width = (side // self.config.patch_size for side in batch.shape[-2:])
        return len(batch) * height * width * self.config.codebooks

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
