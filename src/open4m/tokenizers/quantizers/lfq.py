"""Lookup-free quantization (https://arxiv.org/abs/2310.05737): the signs of log2(codebook_size) dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.tokenizers.quantizers.base import draw_rows, straight_through
from open4m.tokenizers.quantizers.lattice import LatticeQuantizer
from open4m.types import Open4MError

ENTROPY_WEIGHT = 0.1
"""The weight of the entropy penalty in the loss."""

INVERSE_TEMPERATURE = 100.0
"""The inverse temperature of the soft assignment to codes, a softmax over negative squared distances."""

PROBABILITY_FLOOR = 1e-5
"""Below it, logarithms of probabilities are constant, so that their gradients stay finite."""


class LookupFreeQuantizer(LatticeQuantizer):
    """The signs of log2(codebook_size) dimensions: codes ±1, the first dimension the highest bit of the id.

    In training an entropy penalty makes the choice of each vector certain and the use of all codes even. It compares
    vectors with all codes, so it is taken of at most ``ENTROPY_PAIRS`` / codebook_size vectors of a batch.
    """

    ENTROPY_PAIRS = 2**26  # 256 MB per float32 tensor

    def _lattice(self) -> dict[str, Tensor]:
        size = self.config.codebook_size
        bits = size.bit_length() - 1
        if bits < 1 or size != 2**bits:
            raise Open4MError(f"quantizer 'lfq': codebook_size is a power of 2, got {size}")
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        codebook = torch.arange(size)[:, None] // powers % 2 * 2 - 1
        return {"codebook": codebook.float(), "_powers": powers}

    def _id(self, z: Tensor) -> Tensor:
        return ((z > 0) * self._powers).sum(-1)

    def _nearest(self, x: Tensor) -> Tensor:
        return self._id(x @ self.project_in.T)

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.config.commitment_weight * F.mse_loss(x @ self.project_in.T, self.codebook[ids])

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        z = x @ self.project_in.T
        ids = self._id(z)
        most = max(1, self.ENTROPY_PAIRS // self.config.codebook_size)
        some = z if len(z) <= most else z[draw_rows(len(z), most, generator, z.device)]
        loss = self._commitment(x, ids) + ENTROPY_WEIGHT * entropy_penalty(some, self.codebook)
        return straight_through(z, self.codebook[ids]) @ self.project_out.T, ids, loss


def entropy_penalty(z: Tensor, codebook: Tensor) -> Tensor:
    """The mean entropy of each vector's soft choice of a code, minus the entropy of the mean choice.

    z (N, d), codebook (V, d) of equal lengths. Low, even negative, where choices are certain and all codes in use.
    """
    similarity = 2 * z @ codebook.T  # minus squared distances, but for what is equal for all codes
    choices = (INVERSE_TEMPERATURE * similarity).softmax(-1)
    return _entropy(choices).mean() - _entropy(choices.mean(0))


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=PROBABILITY_FLOOR).log()).sum(-1)
