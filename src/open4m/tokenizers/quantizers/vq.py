"""Vector quantization: codes of unit length that are learned by moving averages (paper B.3)."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from open4m.tokenizers.quantizers.base import Quantizer, QuantizerConfig, Restarts

if TYPE_CHECKING:
    from vector_quantize_pytorch import VectorQuantize


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
            book.sample_fn = lambda samples, n: samples[:, draw_rows(samples.shape[1], n, generator, samples.device)]

        def restart(samples: torch.Tensor, n: int) -> torch.Tensor:
            self.restarted += n
            self.restarted_total += n
            return book.sample_fn(samples, n)

        def replace(samples: torch.Tensor, batch_mask: torch.Tensor, seq_mask: torch.Tensor | None = None) -> None:
            """No more codes a step than there are vectors: the others would be copies, and their turn comes."""
            stale = batch_mask[0].nonzero()[:, 0]
            if len(stale) > vectors:
                batch_mask = torch.zeros_like(batch_mask)
                batch_mask[0, stale[draw_rows(len(stale), vectors, generator, stale.device)]] = True
            type(book).replace(book, samples, batch_mask, seq_mask)

        book.replace_sample_fn, book.replace = restart, replace
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


def draw_rows(length: int, n: int, generator: torch.Generator | None, device: torch.device) -> torch.Tensor:
    """``n`` random indices (n,) below ``length``, without repetition where there are enough."""
    where = generator.device if generator is not None else device
    if length >= n:
        return torch.randperm(length, generator=generator, device=where)[:n].to(device)
    return torch.randint(length, (n,), generator=generator, device=where).to(device)
