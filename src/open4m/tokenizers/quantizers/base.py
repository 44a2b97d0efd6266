"""The contract of all quantizers, the settings of a codebook (paper B.3), and how gradients pass through codes.

The kinds, by their names in a configuration:

    "vq"        l2-normalized codes, learned by moving averages, stale ones restarted: the paper's, after
                https://arxiv.org/abs/2110.04627 and https://arxiv.org/abs/2107.03312
    "fsq"       finite scalar quantization, https://arxiv.org/abs/2309.15505: each dimension rounds to a few levels
    "lfq"       lookup-free quantization, https://arxiv.org/abs/2310.05737: the signs of log2(codebook_size) dimensions
    "simvq"     a frozen random codebook under one learned matrix, https://arxiv.org/abs/2411.02038
    "memcodes"  learned keys choose a code, learned values are it: the authors' for single vectors
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.ranges import Amount, Count, Decay, Layers, Range, Size, check_ranges
from open4m.rng import Part, generator_of
from open4m.types import LARGEST_VOCABULARY, Open4MError


def normal(shape: tuple[int, ...], generator: torch.Generator | None) -> torch.Tensor:
    """Numbers of a standard normal distribution; none where a network is made without memory, since drawing them there
    would load the compiler of torch, which takes seconds."""
    drawn = torch.empty(shape)
    return drawn if drawn.is_meta else drawn.normal_(generator=generator)


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Settings of the codebook; the defaults are those of the paper's Table 3.

    The paper does not say how codes are initialized. From random codes, a few of them take all vectors until the others
    fall below the stale threshold, some hundreds of steps later; k-means centers of the first batch avoid that.
    """

    codebook_size: Annotated[int, Range(1, LARGEST_VOCABULARY)]
    latent_dim: Size = 32
    quantizer: Literal["vq", "fsq", "lfq", "simvq", "memcodes"] = "vq"
    codebooks: Layers = 1  # above 1: a vector is split into so many parts, each with an own codebook, one token each
    commitment_weight: Amount = 1.0  # "fsq" and "memcodes" have no such loss
    rotation_trick: bool = False  # "vq", "simvq": gradients are rotated with the code, not copied (:func:`rotate`)
    # Only for "vq", since the other kinds keep no statistics:
    decay: Decay = 0.99  # of the moving averages
    stale_coefficient: Amount = 32.0  # c_replace of the paper; 0 switches restarts off
    kmeans_init: bool = True  # initialize the codes by k-means of the first batch that is quantized
    continuous_steps: Count = 0  # for so many first training steps, unit vectors pass without being quantized

    def __post_init__(self) -> None:
        check_ranges(self)


class Quantized(NamedTuple):
    """``codes`` (B, D, h, w) float32; ``ids`` (B, h, w) int64; ``commitment`` scalar, weighted.

    With several codebooks h = w = 1 and ``ids`` are (B, 1, codebooks). Codes of "vq" have unit length. The
    ``commitment`` of "lfq" includes its entropy penalty in training, and may be negative.
    """

    codes: Tensor
    ids: Tensor
    commitment: Tensor


class Restarts(NamedTuple):
    """How many codes were restarted in the ``last`` step of training, and in ``total``."""

    last: int
    total: int


class Quantizer(nn.Module):
    """What all kinds share; :func:`open4m.tokenizers.quantizers.make_quantizer` makes the kind that ``config`` names.

    Each kind has a ``codebook`` (V, d), one row per id. ``generator`` draws the initial weights.
    """

    STATISTICS: tuple[str, ...] = ()  # names of buffers that only training needs
    ROTATES = False  # whether the rotation trick applies

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.rotation_trick and not self.ROTATES:
            raise Open4MError(f"rotation_trick is for quantizers 'vq' and 'simvq', got {config.quantizer!r}")
        self.config = config

    def forward(self, x: Tensor, generator: torch.Generator | Part | None = None) -> Quantized:
        """Quantize x (B, D, h, w), in float32 even under autocast; in training mode the codes learn.

        In training mode, gradients pass through the codes to x. ``generator`` draws what training samples: vectors that
        replace stale codes and initialize k-means ("vq"), vectors whose entropy is penalized ("lfq").
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().movedim(1, -1)  # (B, h, w, D)
            if self.training:
                codes, ids, commitment = self._learn(x.flatten(0, 2), generator_of(generator))
                codes, ids = codes.view(x.shape), ids.view(x.shape[:-1])
            else:
                ids = self._nearest(x)
                codes, commitment = self._embed(ids), self._commitment(x, ids)
            return Quantized(codes.movedim(-1, 1), ids, commitment)

    def lookup(self, x: Tensor) -> Tensor:
        """The ids (B, h, w) int64 of the codes nearest to x (B, D, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            return self._nearest(x.float().movedim(1, -1))

    def codes(self, ids: Tensor) -> Tensor:
        """The codes (B, D, h, w) float32 of ids (B, h, w)."""
        with torch.autocast(ids.device.type, enabled=False):
            return self._embed(ids).movedim(-1, 1)

    def restarts(self) -> Restarts:
        """How many codes training has restarted; only "vq" does."""
        return Restarts(0, 0)

    def reset_statistics(self) -> None:
        """Start the moving averages from the present codebook, before a saved one is trained further."""

    def reset_buffers(self) -> None:
        """Recompute the buffers that follow from the configuration, after ``to_empty`` of a quantizer that was made on
        the meta device. What is saved, the codebook of "vq" included, is to be loaded."""

    # ---- what a kind defines; vectors have their channels last
    def _nearest(self, x: Tensor) -> Tensor:
        """Ids (...) int64 of x (..., D)."""
        raise NotImplementedError

    def _embed(self, ids: Tensor) -> Tensor:
        """Codes (..., D) of ids (...)."""
        raise NotImplementedError

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        """The weighted commitment loss of x (..., D) to the codes of its ids (...)."""
        raise NotImplementedError

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """One training step: codes (N, D) through which gradients pass to x (N, D), ids (N,), and the loss."""
        raise NotImplementedError


def pass_gradients(x: Tensor, codes: Tensor, rotation_trick: bool) -> Tensor:
    """``codes`` (N, D) whose gradients go to x (N, D), which was quantized to them: see the two ways below."""
    return rotate(x, codes) if rotation_trick else straight_through(x, codes)


def straight_through(x: Tensor, codes: Tensor) -> Tensor:
    """``codes``, with the gradient of the identity for x (https://arxiv.org/abs/1308.3432)."""
    return x + (codes - x).detach()


def rotate(x: Tensor, codes: Tensor) -> Tensor:
    """``codes``, with the gradient of the rotation and scaling that map x to them (https://arxiv.org/abs/2410.06424).

    The rotation in the plane of unit vectors u and q, from u to q, is x - 2 (x·w) w + 2 (x·u) q, where w is halfway
    between them; gradients take it and the scale as constant.
    """
    with torch.no_grad():
        u, q = unit(x), unit(codes)
        w = unit(u + q)
        scale = codes.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True).clamp(min=EPS)
    return scale * (x - 2 * _dot(x, w) * w + 2 * _dot(x, u) * q)


EPS = 1e-6
"""The least length by which vectors are divided."""


def unit(x: Tensor) -> Tensor:
    """Vectors (..., D) divided by their lengths."""
    return F.normalize(x, dim=-1, eps=EPS)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def draw_rows(length: int, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """``n`` random indices (n,) below ``length``, without repetition where there are enough."""
    where = generator.device if generator is not None else device
    if length >= n:
        return torch.randperm(length, generator=generator, device=where)[:n].to(device)
    return torch.randint(length, (n,), generator=generator, device=where).to(device)


# ---- how well the codes are used
def code_frequencies(ids: Tensor, codebook_size: int, codebooks: int = 1) -> Tensor:
    """How often each code of each codebook occurs in ids (B, h, w): (codebooks, V) float32, each row sums to 1."""
    columns = ids.reshape(-1, codebooks)  # with several codebooks, the last axis of ids is the codebook
    shifted = columns + codebook_size * torch.arange(codebooks, device=ids.device)
    counts = torch.bincount(shifted.flatten(), minlength=codebooks * codebook_size)
    return counts.view(codebooks, codebook_size) / len(columns)


def code_usage(ids: Tensor, codebook_size: int, codebooks: int = 1) -> tuple[Tensor, Tensor]:
    """The share of the codes that occur in ids (..., h, w), and the perplexity of their frequencies, both scalars.

    The share is of those codes that so many tokens could use at most. The perplexity, exp of the entropy, is the number
    of equally frequent codes that would have this entropy. With several codebooks, both are means over them.
    """
    frequencies = code_frequencies(ids, codebook_size, codebooks).double()
    share = (frequencies > 0).sum(-1) / min(codebook_size, ids.numel() // codebooks)
    return share.mean(), torch.special.entr(frequencies).sum(-1).exp().mean()
