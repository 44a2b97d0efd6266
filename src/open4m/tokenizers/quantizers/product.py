"""Product quantization: several codebooks share one vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from open4m.tokenizers.quantizers.base import Quantized, Quantizer, QuantizerConfig, Restarts
from open4m.types import Open4MError


class ProductQuantizer(Quantizer):
    """Product quantization (https://ieeexplore.ieee.org/document/5432202) of one vector per sample.

    x (B, D, 1, 1) is split into ``codebooks`` parts of D / codebooks channels. Each part has a quantizer of its own,
    ``parts.N``, and becomes one token of a grid: ids (B, 1, codebooks), each from 0 to codebook_size - 1.
    """

    ROTATES = True  # if its parts do

    def __init__(
        self,
        config: QuantizerConfig,
        generator: torch.Generator | None,
        make_part: Callable[[QuantizerConfig, torch.Generator | None], Quantizer],
    ) -> None:
        super().__init__(config, generator)
        if config.latent_dim % config.codebooks:
            raise Open4MError(f"latent_dim {config.latent_dim} is not a multiple of codebooks {config.codebooks}")
        part = replace(config, codebooks=1, latent_dim=config.latent_dim // config.codebooks)
        self.parts = nn.ModuleList(make_part(part, generator) for _ in range(config.codebooks))
        self.STATISTICS = tuple(f"parts.{i}.{name}" for i, p in enumerate(self.parts) for name in p.STATISTICS)

    @property
    def codebook(self) -> Tensor:
        """The codebooks of the parts (codebooks, V, d)."""
        return torch.stack([part.codebook for part in self.parts])

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantize x (B, D, 1, 1); the commitment is the mean over the parts."""
        parts = [part(piece, generator) for part, piece in zip(self.parts, self._split(x), strict=True)]
        codes, ids, commitments = zip(*parts, strict=True)
        return Quantized(torch.cat(codes, 1), torch.cat(ids, -1), torch.stack(commitments).mean())

    def lookup(self, x: Tensor) -> Tensor:
        """The ids (B, 1, codebooks) int64 of x (B, D, 1, 1)."""
        pieces = zip(self.parts, self._split(x), strict=True)
        return torch.cat([part.lookup(piece) for part, piece in pieces], -1)

    def codes(self, ids: Tensor) -> Tensor:
        """The codes (B, D, 1, 1) float32 of ids (B, 1, codebooks)."""
        if ids.ndim != 3 or ids.shape[1:] != (1, len(self.parts)):
            raise Open4MError(f"expected ids (B, 1, {len(self.parts)}), one per codebook, got {tuple(ids.shape)}")
        columns = zip(self.parts, ids.split(1, -1), strict=True)
        return torch.cat([part.codes(column) for part, column in columns], 1)

    def restarts(self) -> Restarts:
        each = [part.restarts() for part in self.parts]
        return Restarts(sum(r.last for r in each), sum(r.total for r in each))

    def reset_statistics(self) -> None:
        for part in self.parts:
            part.reset_statistics()

    def reset_buffers(self) -> None:
        for part in self.parts:
            part.reset_buffers()

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.shape[1:] != (self.config.latent_dim, 1, 1):
            raise Open4MError(
                f"several codebooks quantize one vector per sample, (B, {self.config.latent_dim}, 1, 1), "
                f"got {tuple(x.shape)}"
            )
        return x.chunk(len(self.parts), 1)
