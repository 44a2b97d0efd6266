"""SimVQ: a frozen random codebook under one learned matrix (https://arxiv.org/abs/2411.02038)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig, normal, pass_gradients

TOWARDS_CODES = 0.25
"""The weight of the loss that draws vectors to codes, relative to the loss that draws codes to vectors."""


class SimVectorQuantizer(Quantizer):
    """The nearest row of ``codebook`` (V, D), frozen and random, times ``transform`` (D, D), which is learned.

    One matrix moves all codes together, so none stays unused for lack of gradients.
    """

    ROTATES = True

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        codebook = normal((config.codebook_size, config.latent_dim), generator)
        self.register_buffer("codebook", codebook / config.latent_dim**0.5)
        self.transform = nn.Parameter(torch.eye(config.latent_dim))

    def _nearest(self, x: Tensor) -> Tensor:
        codes = self.codebook @ self.transform.T
        return (2 * x @ codes.T - codes.square().sum(-1)).argmax(-1)  # |x|² - |x - code|²

    def _embed(self, ids: Tensor) -> Tensor:
        return self.codebook[ids] @ self.transform.T

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        codes = self._embed(ids)
        losses = F.mse_loss(x.detach(), codes) + TOWARDS_CODES * F.mse_loss(x, codes.detach())
        return self.config.commitment_weight * losses

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            ids = self._nearest(x)
        codes = pass_gradients(x, self._embed(ids), self.config.rotation_trick)
        return codes, ids, self._commitment(x, ids)
