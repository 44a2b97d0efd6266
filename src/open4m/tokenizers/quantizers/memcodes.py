"""Learned keys and values ("memory codes", https://arxiv.org/abs/2111.12594): the quantizer of the authors' public
tokenizers of single vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig, normal


class MemoryQuantizer(Quantizer):
    """The id of a vector is that of the key with the largest scalar product; its code is the value of this id.

    Keys and values are the rows of ``memory`` (V, D) times ``to_key`` and ``to_value`` (D, D), all three learned by
    gradients. In training, ids are sampled: the softmax of the products over √D is disturbed by Gumbel noise, and
    gradients pass to the whole softmax (https://arxiv.org/abs/1611.01144). There is no commitment loss.
    """

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        size, dim = config.codebook_size, config.latent_dim
        self.memory = nn.Parameter(normal((size, dim), generator))
        for name in ("to_key", "to_value"):
            weight = torch.rand((dim, dim), generator=generator) * 2 - 1
            self.register_parameter(name, nn.Parameter(weight * dim**-0.5))

    @property
    def codebook(self) -> Tensor:
        """The value of each id (V, D)."""
        return self.memory @ self.to_value

    def _scores(self, x: Tensor) -> Tensor:
        """(..., V) of x (..., D)."""
        return x @ (self.memory @ self.to_key).T * x.shape[-1] ** -0.5

    def _nearest(self, x: Tensor) -> Tensor:
        return self._scores(x).argmax(-1)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.codebook[ids]

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        return x.new_zeros(())

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        scores = self._scores(x)  # (N, V)
        where = generator.device if generator is not None else x.device
        uniform = torch.rand(scores.shape, generator=generator, device=where).to(x.device)
        disturbed = scores - (-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        soft = disturbed.softmax(-1)
        ids = soft.argmax(-1)
        chosen = torch.zeros_like(soft).scatter(-1, ids[:, None], 1.0)
        return (chosen + soft - soft.detach()) @ self.codebook, ids, self._commitment(x, ids)
