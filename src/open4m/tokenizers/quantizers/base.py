"""The contract of all quantizers, and the settings of a codebook (paper B.3).

The kinds, by their names in a configuration:

    "vq"      l2-normalized codes, learned by moving averages, stale ones restarted: the paper's, after
              https://arxiv.org/abs/2110.04627 and https://arxiv.org/abs/2107.03312
    "fsq"     finite scalar quantization, https://arxiv.org/abs/2309.15505: each dimension rounds to a few levels
    "lfq"     lookup-free quantization, https://arxiv.org/abs/2310.05737: the signs of log2(codebook_size) dimensions
    "simvq"   a frozen random codebook under one learned matrix, https://arxiv.org/abs/2411.02038

Training runs the ``vector-quantize-pytorch`` library on this module's own buffers and parameters. Looking codes up
needs neither the library nor anything but them.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import nn

from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Settings of the codebook; the defaults are those of the paper's Table 3.

    The paper does not say how the codes start. From random ones, a few codes take all vectors until the others fall
    below the stale threshold, some hundreds of steps later; k-means centers of the first batch spare that time.
    """

    codebook_size: int
    latent_dim: int = 32
    quantizer: Literal["vq", "fsq", "lfq", "simvq"] = "vq"
    codebooks: int = 1  # above 1: a vector is split into that many parts, each a token with a codebook of its own
    commitment_weight: float = 1.0  # "fsq" has no such loss
    rotation_trick: bool = False  # "vq", "simvq": gradients turn with the code (https://arxiv.org/abs/2410.06424)
    # Of "vq" only, the others have no statistics:
    decay: float = 0.99  # of the codes' moving averages
    stale_coefficient: float = 32.0  # c_replace; 0 never restarts a code
    kmeans_init: bool = True  # start from the k-means centers of the first batch that is quantized
    continuous_steps: int = 0  # the first steps of training pass the unit vectors themselves, not quantized


class Quantized(NamedTuple):
    """``codes`` (B, D, h, w) float32; ``ids`` (B, h, w) int64; ``commitment`` scalar, weighted.

    With several codebooks h = w = 1 and ``ids`` are (B, 1, codebooks). Codes of "vq" have unit length. The
    ``commitment`` of "lfq" includes its entropy penalty, in training, and may be below 0.
    """

    codes: torch.Tensor
    ids: torch.Tensor
    commitment: torch.Tensor


class Restarts(NamedTuple):
    """How many codes were restarted in the ``last`` step of training, and in ``total``."""

    last: int
    total: int


def code_frequencies(ids: torch.Tensor, codebook_size: int, codebooks: int = 1) -> torch.Tensor:
    """How often each code of each codebook occurs in ids (B, h, w): (codebooks, V) float32, each row's sum is 1."""
    columns = ids.reshape(-1, codebooks)  # of several codebooks, the last axis
    shifted = columns + codebook_size * torch.arange(codebooks, device=ids.device)
    counts = torch.bincount(shifted.flatten(), minlength=codebooks * codebook_size)
    return counts.view(codebooks, codebook_size) / len(columns)


def code_usage(ids: torch.Tensor, codebook_size: int, codebooks: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """The share of the codes that occur in ids (..., h, w), of those that so many tokens can use, and their perplexity.

    Both are scalars. Perplexity is exp of the entropy of the codes' frequencies: how many equally frequent ones they
    equal. Of several codebooks, the means.
    """
    frequencies = code_frequencies(ids, codebook_size, codebooks).double()
    share = (frequencies > 0).sum(-1) / min(codebook_size, ids.numel() // codebooks)
    return share.mean(), torch.special.entr(frequencies).sum(-1).exp().mean()


class Quantizer(nn.Module):
    """What all kinds share; :func:`open4m.tokenizers.quantizers.make_quantizer` makes the kind that ``config`` names.

    Each kind has ``codebook`` (V, d), a buffer of what the ids stand for. ``generator`` draws the initial weights.
    """

    STATISTICS: tuple[str, ...] = ()  # names of buffers that only training needs
    ROTATES = False  # whether the rotation trick applies

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if config.rotation_trick and not self.ROTATES:
            raise Open4MError(f"rotation_trick is for quantizers 'vq' and 'simvq', got {config.quantizer!r}")
        self.config = config
        self._library: tuple[nn.Module, ...] = ()  # in a tuple: its tensors are ours, so it must not be registered

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantizes x (B, D, h, w), in float32 whatever the autocast state; in training mode the codes learn.

        Gradients pass through to x. ``generator`` draws what training samples: vectors that replace stale codes
        ("vq"), vectors of which the entropy is taken ("lfq").
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().movedim(1, -1)  # (B, h, w, D)
            if self.training:
                codes, ids, commitment = self._learn(x.flatten(0, 2)[None], generator)
                codes, ids = codes.view(x.shape), ids.view(x.shape[:-1]).long()
            else:
                ids = self._nearest(x)
                codes, commitment = self._embed(ids), self._commitment(x, ids)
            return Quantized(codes.movedim(-1, 1), ids, commitment)

    def lookup(self, x: torch.Tensor) -> torch.Tensor:
        """The ids (B, h, w) int64 of the codes nearest to x (B, D, h, w)."""
        with torch.autocast(x.device.type, enabled=False):
            return self._nearest(x.float().movedim(1, -1))

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (B, D, h, w) float32 of ids (B, h, w)."""
        with torch.autocast(ids.device.type, enabled=False):
            return self._embed(ids).movedim(-1, 1)

    def restarts(self) -> Restarts:
        """How many codes training has restarted; only "vq" does."""
        return Restarts(0, 0)

    def reset_statistics(self) -> None:
        """Starts the moving averages afresh from the present codebook, as before fine-tuning a saved one."""

    # ---- what a kind defines; vectors have their channels last
    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Ids (...) of x (..., D)."""
        raise NotImplementedError

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Codes (..., D) of ids (...)."""
        raise NotImplementedError

    def _commitment(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The weighted commitment loss of x (..., D) to its ids (...), for evaluation."""
        raise NotImplementedError

    def _learn(
        self, x: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes (1, N, D), through which gradients pass to x (1, N, D), ids (1, N), and the commitment loss."""
        raise NotImplementedError

    def _build(self, library: ModuleType) -> nn.Module:
        """The library's quantizer; its random initial state is never used."""
        raise NotImplementedError

    def _trainer(self, device: torch.device) -> nn.Module:
        if not self._library:
            try:
                import vector_quantize_pytorch as library
            except ImportError as error:
                raise Open4MError("training a tokenizer needs the extra: pip install 'open4m[tokenizers]'") from error
            with torch.random.fork_rng(devices=[]):  # what it draws must not cost the caller random numbers
                self._library = (self._build(library),)
        return self._library[0].to(device)
