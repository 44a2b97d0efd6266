"""Finite scalar quantization (https://arxiv.org/abs/2309.15505): each dimension rounds to a few levels."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from open4m.tokenizers.quantizers.base import straight_through
from open4m.tokenizers.quantizers.lattice import LatticeQuantizer
from open4m.types import Open4MError

MARGIN = 1e-3
"""By this share the range of tanh is wider than the levels, so that the outermost ones are reached."""


class FiniteScalarQuantizer(LatticeQuantizer):
    """Rounds each dimension, bounded by tanh, to one of ``levels``. No loss is needed: no code can be unreachable.

    An id is a number in mixed radix: its digits are the indices of the levels, the first dimension's the lowest.
    """

    def _lattice(self) -> dict[str, Tensor]:
        levels = torch.tensor(fsq_levels(self.config.codebook_size))
        basis = levels.cumprod(0) // levels  # the place values of the digits
        digits = torch.arange(self.config.codebook_size)[:, None] // basis % levels
        return {"codebook": (digits - levels // 2) / (levels // 2), "levels": levels, "_basis": basis}

    def _bound(self, x: Tensor) -> Tensor:
        """Projected x (..., D) within the range of the levels, (..., d): the nearest integers are levels."""
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = (1 - self.levels % 2) / 2  # an even number of levels lies asymmetrically around 0
        return torch.tanh(x @ self.project_in.T + torch.atanh(offset / half)) * half - offset

    def _id(self, rounded: Tensor) -> Tensor:
        # Ids of vectors that are not finite are ids too; their codes are not finite, which the training loop notices.
        return ((rounded.nan_to_num().long() + self.levels // 2) * self._basis).sum(-1)

    def _nearest(self, x: Tensor) -> Tensor:
        return self._id(self._bound(x).round())

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        return x.new_zeros(())

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        bounded = self._bound(x)
        rounded = bounded.round()
        codes = straight_through(bounded, rounded) / (self.levels // 2)
        return codes @ self.project_out.T, self._id(rounded), x.new_zeros(())


def fsq_levels(codebook_size: int) -> tuple[int, ...]:
    """The levels of finite scalar quantization: the fewest numbers from 8 to 3 whose product is the codebook size.

    Of several such, the first in descending order: those of the FSQ paper's Table 1 for its codebook sizes (240,
    1000, 4375, 15360, 64000), and 8s before 4s for powers of two.
    """
    levels = _factors(codebook_size)
    if levels is None:
        near = next(size for size in itertools.count(codebook_size + 1) if _factors(size))
        raise Open4MError(
            f"quantizer 'fsq': codebook_size is a product of levels from 3 to 8, got {codebook_size}; "
            f"the next that is: {near}"
        )
    return levels


def _factors(product: int) -> tuple[int, ...] | None:
    def descend(rest: int, count: int, largest: int) -> tuple[int, ...] | None:
        if count == 0:
            return () if rest == 1 else None
        for level in range(largest, 2, -1):
            if rest % level == 0 and (others := descend(rest // level, count - 1, level)) is not None:
                return (level, *others)
        return None

    found = (descend(product, count, 8) for count in range(1, max(product, 1).bit_length()))
    return next((levels for levels in found if levels is not None), None)
