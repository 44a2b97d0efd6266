"""What "fsq" and "lfq" share: codes that are not learned, but the points of a fixed lattice of few dimensions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig


class LatticeQuantizer(Quantizer):
    """A fixed codebook of d dimensions; two learned matrices lead from and to the D dimensions of the latent vectors.

    Parameters: ``project_in`` (d, D) and ``project_out`` (D, d), at first orthogonal and each other's transpose.
    They have no biases, since the layers around the quantizer have. ``codebook`` (V, d) follows from the configuration
    and is not saved; nor are other buffers.
    """

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        for name, tensor in self._lattice().items():
            self.register_buffer(name, tensor, persistent=False)
        weight = nn.init.orthogonal_(torch.empty(self.codebook.shape[1], config.latent_dim), generator=generator)
        self.project_in = nn.Parameter(weight)
        self.project_out = nn.Parameter(weight.T.clone())

    def reset_buffers(self) -> None:
        for name, tensor in self._lattice().items():
            getattr(self, name).copy_(tensor)

    def _lattice(self) -> dict[str, Tensor]:
        """All buffers, among them ``codebook`` (V, d) float32, from the configuration."""
        raise NotImplementedError

    def _embed(self, ids: Tensor) -> Tensor:
        return self.codebook[ids] @ self.project_out.T
