"""Quantizers whose codebook is a fixed lattice: FSQ and LFQ."""

from __future__ import annotations

import itertools
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig
from open4m.tokenizers.quantizers.vq import draw_rows
from open4m.types import Open4MError


# ---- "fsq" and "lfq"
class _Lattice(Quantizer):
    """A fixed codebook of few dimensions; two learned matrices lead from and to the latent vectors.

    Parameters: ``project_in`` (d, D) and ``project_out`` (D, d), at first orthogonal and each other's transpose.
    Biases are left to the layers around. ``codebook`` (V, d) follows from the configuration and is not saved.
    """

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None, codebook: torch.Tensor) -> None:
        super().__init__(config, generator)
        self.register_buffer("codebook", codebook.float(), persistent=False)
        weight = nn.init.orthogonal_(torch.empty(codebook.shape[1], config.latent_dim), generator=generator)
        self.project_in = nn.Parameter(weight)
        self.project_out = nn.Parameter(weight.T.clone())

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codebook[ids] @ self.project_out.T


class FiniteScalarQuantizer(_Lattice):
    """Rounds each dimension, squashed by tanh, to one of ``levels``; there is no codebook to learn or to lose.

    The id is the number whose digits are the levels', the first dimension's digit the lowest.
    """

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        levels = torch.tensor(fsq_levels(config.codebook_size))
        basis = levels.cumprod(0) // levels
        digits = torch.arange(config.codebook_size)[:, None] // basis % levels
        super().__init__(config, generator, (digits - levels // 2) / (levels // 2))
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("_basis", basis, persistent=False)

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        half = (self.levels - 1) * (1 + 1e-3) / 2  # slightly wider, so that the outermost levels can be reached
        offset = (1 - self.levels % 2) / 2  # an even number of levels lies asymmetrically around 0
        bounded = torch.tanh(x @ self.project_in.T + torch.atanh(offset / half)) * half - offset
        return ((bounded.round().long() + self.levels // 2) * self._basis).sum(-1)

    def _commitment(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(())

    def _learn(
        self, x: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        codes, ids = self._trainer(x.device)(x @ self.project_in.T)
        return codes @ self.project_out.T, ids, x.new_zeros(())

    def _build(self, library: ModuleType) -> nn.Module:
        return library.FSQ(levels=self.levels.tolist())


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


class LookupFreeQuantizer(_Lattice):
    """The signs of log2(codebook_size) dimensions: codes ±1, the first dimension the highest bit of the id.

    In training an entropy penalty makes each vector's choice certain and all choices together even. It compares
    vectors with all codes, so it is taken of at most ``ENTROPY_PAIRS`` / codebook_size of a batch's vectors.
    """

    ENTROPY_PAIRS = 2**26  # 256 MB a float32 copy

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        bits = config.codebook_size.bit_length() - 1
        if bits < 1 or config.codebook_size != 2**bits:
            raise Open4MError(f"quantizer 'lfq': codebook_size is a power of 2, got {config.codebook_size}")
        powers = 2 ** torch.arange(bits - 1, -1, -1)
        super().__init__(config, generator, torch.arange(config.codebook_size)[:, None] // powers % 2 * 2 - 1)
        self.register_buffer("_powers", powers, persistent=False)

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        return self._ids(x @ self.project_in.T)

    def _ids(self, z: torch.Tensor) -> torch.Tensor:
        return ((z > 0) * self._powers).sum(-1)

    def _commitment(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.config.commitment_weight * F.mse_loss(x @ self.project_in.T, self.codebook[ids])

    def _learn(
        self, x: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = x @ self.project_in.T
        ids = self._ids(z)
        most = max(1, self.ENTROPY_PAIRS // self.config.codebook_size)
        some = z if z.shape[1] <= most else z[:, draw_rows(z.shape[1], most, generator, z.device)]
        loss = self._trainer(x.device)(some).entropy_aux_loss
        signs = z + (self.codebook[ids] - z).detach()
        return signs @ self.project_out.T, ids, loss

    def _build(self, library: ModuleType) -> nn.Module:
        return library.LFQ(
            codebook_size=self.config.codebook_size, commitment_loss_weight=self.config.commitment_weight
        )
