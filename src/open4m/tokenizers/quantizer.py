"""Quantizers: vectors become ids of codes, and back (paper B.3).

``Quantizer(config)`` is of the kind that the configuration names, with one contract for all:

    "vq"      l2-normalized codes, learned by moving averages, stale ones restarted: the paper's, after
              https://arxiv.org/abs/2110.04627 and https://arxiv.org/abs/2107.03312
    "fsq"     finite scalar quantization, https://arxiv.org/abs/2309.15505: each dimension rounds to a few levels
    "lfq"     lookup-free quantization, https://arxiv.org/abs/2310.05737: the signs of log2(codebook_size) dimensions
    "simvq"   a frozen random codebook under one learned matrix, https://arxiv.org/abs/2411.02038

Training runs the ``vector-quantize-pytorch`` library on this module's own buffers and parameters. Looking codes up
needs neither the library nor anything but them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from open4m.types import Open4MError

if TYPE_CHECKING:
    from vector_quantize_pytorch import VectorQuantize


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


class Quantizer(nn.Module):
    """What all kinds share; ``Quantizer(config)`` makes the kind that ``config`` names.

    Each kind has ``codebook`` (V, d), a buffer of what the ids stand for. ``generator`` draws the initial weights.
    """

    STATISTICS: tuple[str, ...] = ()  # names of buffers that only training needs
    ROTATES = False  # whether the rotation trick applies

    def __new__(cls, config: QuantizerConfig | None = None, generator: torch.Generator | None = None) -> Quantizer:
        return super().__new__(_kind(config) if cls is Quantizer else cls)

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


# ---- "vq"
def stale_threshold(vectors: int, codebook_size: int, coefficient: float) -> float:
    """thresh_replace = B·N_tokens / (c_replace·N_vocab), in vectors a step (paper B.3).

    A code whose moving average count falls below 1/c_replace of a fair share of the batch is restarted.
    ``vectors`` is B·N_tokens.
    """
    return vectors / (coefficient * codebook_size) if coefficient else 0.0


class VectorQuantizer(Quantizer):
    """Replaces each vector by the code of largest cosine similarity.

    Buffers: ``codebook`` (V, D), unit rows; and for training ``counts`` (V,) and ``sums`` (V, D), the moving
    averages of the number and the sum of the vectors of a code, ``initialized`` (k-means initialization only),
    ``steps``, the number of training steps so far, and how many codes were restarted: ``restarted`` in the last
    step, ``restarted_total`` in all. A code that finds no vectors is restarted, and counted, step after step.
    """

    STATISTICS = ("counts", "sums", "initialized", "steps", "restarted", "restarted_total")
    ROTATES = True

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        shape = (config.codebook_size, config.latent_dim)
        self.register_buffer("codebook", F.normalize(torch.randn(shape, generator=generator), dim=-1))
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("initialized", torch.tensor(not config.kmeans_init))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("restarted", torch.tensor(0))
        self.register_buffer("restarted_total", torch.tensor(0))

    def restarts(self) -> Restarts:
        return Restarts(int(self.restarted), int(self.restarted_total))

    def reset_statistics(self) -> None:
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.initialized.fill_(True)
        self.steps.fill_(self.config.continuous_steps)
        self.restarted.zero_()
        self.restarted_total.zero_()

    def _nearest(self, x: torch.Tensor) -> torch.Tensor:
        return (F.normalize(x, dim=-1, eps=1e-6) @ self.codebook.T).argmax(-1)

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.codebook[ids]

    def _commitment(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.config.commitment_weight * F.mse_loss(F.normalize(x, dim=-1), self.codebook[ids])

    def _learn(
        self, x: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.steps += 1
        self.restarted.zero_()
        if self.steps <= self.config.continuous_steps:
            return F.normalize(x, dim=-1), self._nearest(x), x.new_zeros(())
        return self._bound(x, generator)(x)

    def _bound(self, x: torch.Tensor, generator: torch.Generator | None) -> VectorQuantize:
        """The library's quantizer, bound to this module's buffers (which may have moved) and to this batch."""
        library = self._trainer(x.device)
        book = library._codebook
        book.embed, book.embed_avg = self.codebook[None], self.sums[None]
        book.cluster_size, book.initted = self.counts[None], self.initialized
        vectors = x.shape[1]
        if book.use_ddp:
            vectors *= torch.distributed.get_world_size()
        else:
            book.sample_fn = lambda samples, n: samples[:, _draw(samples.shape[1], n, generator, samples.device)]

        def restart(samples: torch.Tensor, n: int) -> torch.Tensor:
            self.restarted += n
            self.restarted_total += n
            return book.sample_fn(samples, n)

        book.replace_sample_fn = restart
        threshold = stale_threshold(vectors, self.config.codebook_size, self.config.stale_coefficient)
        book.threshold_ema_dead_code = book.reset_cluster_size = threshold
        return library

    def _build(self, library: ModuleType) -> nn.Module:
        return library.VectorQuantize(
            dim=self.config.latent_dim,
            codebook_size=self.config.codebook_size,
            decay=self.config.decay,
            commitment_weight=self.config.commitment_weight,
            use_cosine_sim=True,
            rotation_trick=self.config.rotation_trick,
            kmeans_init=self.config.kmeans_init,
            threshold_ema_dead_code=self.config.stale_coefficient,  # above 0 switches restarts on; set for each batch
        )


def _draw(length: int, n: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
    """``n`` random indices (n,) below ``length``, without repetition where there are enough."""
    where = generator.device if generator is not None else device
    if length >= n:
        return torch.randperm(length, generator=generator, device=where)[:n].to(device)
    return torch.randint(length, (n,), generator=generator, device=where).to(device)


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
        some = z if z.shape[1] <= most else z[:, _draw(z.shape[1], most, generator, z.device)]
        loss = self._trainer(x.device)(some).entropy_aux_loss
        signs = z + (self.codebook[ids] - z).detach()
        return signs @ self.project_out.T, ids, loss

    def _build(self, library: ModuleType) -> nn.Module:
        return library.LFQ(
            codebook_size=self.config.codebook_size, commitment_loss_weight=self.config.commitment_weight
        )


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


# ---- several codebooks
class ProductQuantizer(Quantizer):
    """Product quantization (https://ieeexplore.ieee.org/document/5432202) of one vector a sample.

    x (B, D, 1, 1) is split into ``codebooks`` parts of D / codebooks channels. Each part has a quantizer of its own,
    ``parts.N``, and becomes one token of a grid: ids (B, 1, codebooks), each from 0 to codebook_size - 1.
    """

    ROTATES = True  # if its parts do

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        if config.latent_dim % config.codebooks:
            raise Open4MError(f"latent_dim {config.latent_dim} is not a multiple of codebooks {config.codebooks}")
        part = replace(config, codebooks=1, latent_dim=config.latent_dim // config.codebooks)
        self.parts = nn.ModuleList(Quantizer(part, generator) for _ in range(config.codebooks))
        self.STATISTICS = tuple(f"parts.{i}.{name}" for i, p in enumerate(self.parts) for name in p.STATISTICS)

    @property
    def codebook(self) -> torch.Tensor:
        """The parts' codebooks (codebooks, V, d)."""
        return torch.stack([part.codebook for part in self.parts])

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantizes x (B, D, 1, 1); the commitment is the parts' mean."""
        parts = [part(piece, generator) for part, piece in zip(self.parts, self._split(x), strict=True)]
        codes, ids, commitments = zip(*parts, strict=True)
        return Quantized(torch.cat(codes, 1), torch.cat(ids, -1), torch.stack(commitments).mean())

    def lookup(self, x: torch.Tensor) -> torch.Tensor:
        """The ids (B, 1, codebooks) int64 of x (B, D, 1, 1)."""
        pieces = zip(self.parts, self._split(x), strict=True)
        return torch.cat([part.lookup(piece) for part, piece in pieces], -1)

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (B, D, 1, 1) float32 of ids (B, 1, codebooks)."""
        if ids.ndim != 3 or ids.shape[1:] != (1, len(self.parts)):
            raise Open4MError(f"expected ids (B, 1, {len(self.parts)}), one a codebook, got {tuple(ids.shape)}")
        columns = zip(self.parts, ids.split(1, -1), strict=True)
        return torch.cat([part.codes(column) for part, column in columns], 1)

    def restarts(self) -> Restarts:
        each = [part.restarts() for part in self.parts]
        return Restarts(sum(r.last for r in each), sum(r.total for r in each))

    def reset_statistics(self) -> None:
        for part in self.parts:
            part.reset_statistics()

    def _split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if x.shape[1:] != (self.config.latent_dim, 1, 1):
            raise Open4MError(
                f"several codebooks quantize one vector a sample, (B, {self.config.latent_dim}, 1, 1), "
                f"got {tuple(x.shape)}"
            )
        return x.chunk(len(self.parts), 1)


_KINDS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer, "fsq": FiniteScalarQuantizer, "lfq": LookupFreeQuantizer, "simvq": SimVectorQuantizer,
}  # fmt: skip


def _kind(config: QuantizerConfig) -> type[Quantizer]:
    if config.quantizer not in _KINDS:
        raise Open4MError(f"quantizer is one of {', '.join(_KINDS)}, got {config.quantizer!r}")
    if config.codebooks < 1:
        raise Open4MError(f"codebooks is at least 1, got {config.codebooks}")
    return _KINDS[config.quantizer] if config.codebooks == 1 else ProductQuantizer
