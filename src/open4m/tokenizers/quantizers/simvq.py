"""SimVQ: a frozen random codebook under one learned matrix (https://arxiv.org/abs/2411.02038)."""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig


# ---- "simvq"
class SimVectorQuantizer(Quantizer):
    """The nearest row of ``codebook`` (V, D), frozen and random, times ``transform`` (D, D), which is learned.

    Since one matrix moves all codes together, none is left behind. The loss draws the codes to the vectors and, with
    a quarter of that weight, the vectors to the codes.
    """

    ROTATES = True
    TOWARDS_CODES = 0.25

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        codebook = torch.randn((config.codebook_size, config.latent_dim), generator=generator)
        self.register_buffer("codebook", codebook / config.latent_dim**0.5)
        self.transform = nn.Parameter(torch.eye(config.latent_dim))

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        codes = self.codebook @ self.transform.T
        return (2 * x @ codes.T - codes.square().sum(-1)).argmax(-1)  # |x - code|² but for |x|², negated

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codebook[ids] @ self.transform.T

    def _commitment(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        weight = self.config.commitment_weight * (1 + self.TOWARDS_CODES)
        return weight * F.mse_loss(x, self._embed(ids))

    def _learn(
        self, x: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        library = self._trainer(x.device)
        library.frozen_codebook, library.code_transform.weight = self.codebook, self.transform  # may have moved
        return library(x)

    def _build(self, library: ModuleType) -> nn.Module:
        return library.SimVQ(
            dim=self.config.latent_dim,
            codebook_size=self.config.codebook_size,
            rotation_trick=self.config.rotation_trick,
            input_to_quantize_commit_loss_weight=self.TOWARDS_CODES,
            commitment_weight=self.config.commitment_weight,
        )
