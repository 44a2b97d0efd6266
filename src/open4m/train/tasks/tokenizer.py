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
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import TokenizerConfig, tensor_of
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.quantizers.base import code_usage
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

BATCH = 32  # validation values at once
SHOWN = 8  # reconstructions in a picture


class TokenizerTask:
    """A task of :func:`open4m.train.loop.train`. Training values are cropped at random, and flipped if ``flip``.

    ``start``: a trained tokenizer whose weights are the first ones, as far as its parts are the same: for a short
    training at several resolutions, or for a diffusion decoder on a frozen encoder (paper B.3).
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
        device: str = "cpu",
        start: Tokenizer | None = None,
    ):
        self.name = f"tokenizer {config.modality}"
        self.modality = modalities.get(config.modality)
        self.config, self.train_data, self.batch_size, self.seed = config, train, batch_size, seed
        self.flip = flip
        self.model = VQVAE(config, torch.Generator().manual_seed(seed)).to(device)
        if start is not None:
            self.model.init_from(start.model)
        elif config.frozen_encoder:
            raise Open4MError(f"{self.name}: a frozen encoder needs a trained tokenizer to start from")
        self._measured: dict[str, float] = {}  # at the last evaluation: the training loop ends with one
        count = min(validation_samples, len(validation))
        self.validation = [self.modality.fit(validation[i][config.modality], config.image_size) for i in range(count)]

    def batch(self, step: int) -> torch.Tensor:
        rows = rows_for_step(self.seed, step, self.batch_size, len(self.train_data))
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, step))))
        size = int(generator.choice(self.config.resolutions or [self.config.image_size]))
        values = [self._augmented(self.train_data[int(row)][self.config.modality], generator, size) for row in rows]
        return torch.from_numpy(np.stack([tensor_of(value, self.config) for value in values]))

    def _augmented(self, value: np.ndarray, generator: np.random.Generator, size: int) -> np.ndarray:
        extent = self.modality.extent(value)
        if extent is None:
            return value
        crop = Crop.random(*extent, size, generator, self.modality.crop_scale)
        name = self.config.modality
        return augment({name: value}, {name: self.modality}, crop, self.flip and generator.random() < 0.5)[name]

    def loss(self, batch: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        return self.model.loss(batch.to(self.model.mean.device), generator)

    def tokens(self, batch: torch.Tensor) -> int:
        height, width = (side // self.config.patch_size for side in batch.shape[-2:])
        return len(batch) * height * width * self.config.codebooks

    def evaluate(self) -> dict[str, float]:
        """The modality's own metrics of reconstructions, and the ``code_usage`` of validation data."""
        tokenizer = Tokenizer(self.model)
        parts = (self.validation[start : start + BATCH] for start in range(0, len(self.validation), BATCH))
        ids = np.concatenate([tokenizer.encode_batch(part) for part in parts])
        batches = range(0, len(ids), BATCH)
        decoded = [value for start in batches for value in tokenizer.decode_batch(ids[start : start + BATCH])]
        usage, _ = code_usage(torch.from_numpy(ids), self.config.codebook_size, self.config.codebooks)
        self._measured = {**tokenizer.metrics(decoded, self.validation), "code_usage": float(usage)}
        return self._measured

    def pictures(self) -> dict[str, Image.Image]:
        tokenizer = Tokenizer(self.model)
        shown = self.validation[:SHOWN]
        decoded = tokenizer.decode_batch(tokenizer.encode_batch(shown))
        return {"reconstructions": grid([[self.modality.render(v, 128) for v in row] for row in (shown, decoded)])}

    def save(self, folder: Path) -> None:
        tokenizer = Tokenizer(self.model)
        tokenizer.quality = self._measured or self.evaluate()
        tokenizer.save(folder)
