"""Vector quantization: codes of unit length that are learned by moving averages (paper B.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m import ranks
from open4m.tokenizers.quantizers.base import (
    Quantizer,
    QuantizerConfig,
    Restarts,
    draw_rows,
    normal,
    pass_gradients,
    unit,
)

KMEANS_ITERATIONS = 10


def stale_threshold(vectors: int, codebook_size: int, coefficient: float) -> float:
    """thresh_replace = B·N_tokens / (c_replace·N_vocab), in vectors per step (paper B.3); ``vectors`` is B·N_tokens.

    A code whose moving average count is below it, 1/c_replace of an equal share of the batch, is restarted. A
    coefficient of 0 gives 0, below which no count is.
    """
    return vectors / (coefficient * codebook_size) if coefficient else 0.0


def assign(vectors: Tensor, ids: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How many of the vectors (N, D) each code has, (V,), and their sums (V, D), both float32; ``ids`` (N,).

    Moving averages and k-means read nothing else of a batch. Vectors are added in the order of the batch, so that equal
    batches have equal sums on every device.
    """
    counts = torch.bincount(ids, minlength=codebook_size)
    # Sums over groups of rows; index_add_ would add in a random order on a GPU.
    sums = F.embedding_bag(ids.argsort(stable=True), vectors, counts.cumsum(0) - counts, mode="sum")
    return counts.float(), sums


def kmeans(vectors: Tensor, codebook_size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Spherical k-means of unit vectors (N, D): centers (V, D) of unit length, and their numbers of vectors (V,).

    The first centers are drawn from the vectors, repeatedly if there are too few. A center that no vector is nearest
    to stays where it is.
    """
    centers = vectors[draw_rows(len(vectors), codebook_size, generator, vectors.device)]
    for _ in range(KMEANS_ITERATIONS):
        counts, sums = assign(vectors, nearest(vectors, centers), codebook_size)
        centers = torch.where(counts[:, None] > 0, unit(sums), centers)
    return centers, counts


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Ids (...) int64 of the codes (V, D) of largest cosine similarity to unit vectors (..., D)."""
    return (vectors @ codebook.T).argmax(-1)


class VectorQuantizer(Quantizer):
    """Replaces each vector by the code of largest cosine similarity.

    Buffers: ``codebook`` (V, D), unit rows. For training, ``counts`` (V,) and ``sums`` (V, D), moving averages (EMA) of
    the number and the sum of each code's vectors; ``initialized``, whether k-means was done or is not wanted;
    ``steps``, the number of training steps so far; and how many codes were restarted: ``restarted`` in the last step,
    ``restarted_total`` in all. A code that finds no vectors is restarted, and counted, again and again.
    """

    STATISTICS = ("counts", "sums", "initialized", "steps", "restarted", "restarted_total")
    ROTATES = True

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator)
        shape = (config.codebook_size, config.latent_dim)
        codes = normal(shape, generator)
        self.register_buffer("codebook", codes if codes.is_meta else F.normalize(codes, dim=-1))
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

    def _nearest(self, x: Tensor) -> Tensor:
        return nearest(unit(x), self.codebook)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.codebook[ids]

    def _commitment(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.config.commitment_weight * F.mse_loss(unit(x), self.codebook[ids])

    def _learn(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Ranks that share a batch all learn from the whole of it, so that their codebooks stay equal."""
        self.steps += 1
        self.restarted.zero_()
        vectors = unit(x)
        if self.steps <= self.config.continuous_steps:
            return vectors, nearest(vectors, self.codebook), x.new_zeros(())
        own = vectors.detach()
        batch = ranks.gathered(own)
        is_finite = bool(batch.isfinite().all())  # other vectors would spoil the averages for good
        if not self.initialized and is_finite:
            self._initialize(batch, generator)
        ids = nearest(own, self.codebook)
        codes = self.codebook[ids]  # as they are before this step moves them
        commitment = self.config.commitment_weight * F.mse_loss(vectors, codes)
        if is_finite:
            self._update(batch, ids if batch is own else nearest(batch, self.codebook))
            self._restart_stale(batch, generator)
        return pass_gradients(vectors, codes, self.config.rotation_trick), ids, commitment

    @torch.no_grad()
    def _initialize(self, vectors: Tensor, generator: torch.Generator | None) -> None:
        """Start from the k-means centers of unit vectors (N, D)."""
        centers, counts = kmeans(vectors, self.config.codebook_size, generator)
        self.codebook.copy_(centers)
        self.counts.copy_(counts)
        self.sums.copy_(centers * counts[:, None])
        self.initialized.fill_(True)

    @torch.no_grad()
    def _update(self, vectors: Tensor, ids: Tensor) -> None:
        """Move averages and codes by the unit vectors (N, D) that have these ids (N,)."""
        counts, sums = assign(vectors, ids, self.config.codebook_size)
        self.counts.lerp_(counts, 1 - self.config.decay)
        self.sums.lerp_(sums, 1 - self.config.decay)
        # A code without vectors keeps its direction, however small its sum becomes.
        self.codebook.copy_(torch.where(counts[:, None] > 0, unit(self.sums), self.codebook))

    @torch.no_grad()
    def _restart_stale(self, vectors: Tensor, generator: torch.Generator | None) -> None:
        """Replace stale codes by random ones of the unit vectors (N, D), with just the count that is not stale.

        At most N codes per step, chosen at random: more would be copies of each other, and the rest come later.
        """
        threshold = stale_threshold(len(vectors), self.config.codebook_size, self.config.stale_coefficient)
        stale = (self.counts < threshold).nonzero()[:, 0]
        if len(stale) > len(vectors):
            stale = stale[draw_rows(len(stale), len(vectors), generator, stale.device)]
        if len(stale):
            drawn = vectors[draw_rows(len(vectors), len(stale), generator, vectors.device)]
            self.codebook[stale], self.sums[stale] = drawn, drawn * threshold
            self.counts[stale] = threshold
        self.restarted.fill_(len(stale))
        self.restarted_total += len(stale)
