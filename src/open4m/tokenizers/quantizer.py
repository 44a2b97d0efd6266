"""Vector quantization with l2-normalized codes, learned by moving averages, stale codes restarted (paper B.3).

Training runs the ``vector-quantize-pytorch`` library on this module's own buffers. Looking codes up needs only the
codebook: one matrix product and an argmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
    decay: float = 0.99  # of the codes' moving averages
    commitment_weight: float = 1.0
    stale_coefficient: float = 32.0  # c_replace; 0 never restarts a code
    kmeans_init: bool = True  # start from the k-means centers of the first batch that is quantized
    continuous_steps: int = 0  # the first steps of training pass the unit vectors themselves, not quantized


class Quantized(NamedTuple):
    """``codes`` (B, D, h, w) float32, unit length; ``ids`` (B, h, w) int64; ``commitment`` scalar, weighted."""

    codes: torch.Tensor
    ids: torch.Tensor
    commitment: torch.Tensor


def stale_threshold(vectors: int, codebook_size: int, coefficient: float) -> float:
    """thresh_replace = B·N_tokens / (c_replace·N_vocab), in vectors a step (paper B.3).

    A code whose moving average count falls below 1/c_replace of a fair share of the batch is restarted.
    ``vectors`` is B·N_tokens.
    """
    return vectors / (coefficient * codebook_size) if coefficient else 0.0


class Quantizer(nn.Module):
    """Replaces each vector by the code of largest cosine similarity.

    Buffers: ``codebook`` (V, D), unit rows; and for training ``counts`` (V,) and ``sums`` (V, D), the moving
    averages of the number and the sum of the vectors of a code, ``initialized`` (k-means initialization only) and
    ``steps``, the number of training steps so far.
    """

    STATISTICS = ("counts", "sums", "initialized", "steps")  # buffers that only training needs

    def __init__(self, config: QuantizerConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        shape = (config.codebook_size, config.latent_dim)
        self.register_buffer("codebook", F.normalize(torch.randn(shape, generator=generator), dim=-1))
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("initialized", torch.tensor(not config.kmeans_init))
        self.register_buffer("steps", torch.tensor(0))
        self._library: tuple[VectorQuantize, ...] = ()  # in a tuple: its buffers are ours, so it must not be registered

    def reset_statistics(self) -> None:
        """Starts the moving averages afresh from the present codebook, as before fine-tuning a saved one."""
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.initialized.fill_(True)
        self.steps.fill_(self.config.continuous_steps)

    def forward(self, x: torch.Tensor, generator: torch.Generator | None = None) -> Quantized:
        """Quantizes x (B, D, h, w), in float32 whatever the autocast state; in training mode also moves the codes.

        Gradients pass straight through to x. ``generator`` draws the vectors that replace stale codes.
        """
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if self.training:
                self.steps += 1
                if self.steps <= self.config.continuous_steps:
                    return Quantized(F.normalize(x, dim=1), self.lookup(x), x.new_zeros(()))
                codes, ids, commitment = self._trainer(x, generator)(x)
                return Quantized(codes, ids, commitment)
            ids = self.lookup(x)
            codes = self.codes(ids)
            error = F.mse_loss(F.normalize(x, dim=1), codes)
            return Quantized(codes, ids, self.config.commitment_weight * error)

    def lookup(self, x: torch.Tensor) -> torch.Tensor:
        """The ids (B, h, w) int64 of the codes nearest to x (B, D, h, w)."""
        unit = F.normalize(x.movedim(1, -1), dim=-1, eps=1e-6)
        return (unit @ self.codebook.T).argmax(-1)

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (B, D, h, w) of ids (B, h, w)."""
        return self.codebook[ids].movedim(-1, 1)

    def _trainer(self, x: torch.Tensor, generator: torch.Generator | None) -> VectorQuantize:
        """The library's quantizer, bound to this module's buffers (which may have moved) and to this batch."""
        if not self._library:
            self._library = (_build(self.config),)
        library = self._library[0].to(x.device)
        book = library._codebook
        book.embed, book.embed_avg = self.codebook[None], self.sums[None]
        book.cluster_size, book.initted = self.counts[None], self.initialized
        vectors = x.shape[0] * x.shape[2] * x.shape[3]
        if book.use_ddp:
            vectors *= torch.distributed.get_world_size()
        else:
            book.sample_fn = book.replace_sample_fn = lambda samples, n: _draw(samples, n, generator)
        threshold = stale_threshold(vectors, self.config.codebook_size, self.config.stale_coefficient)
        book.threshold_ema_dead_code = book.reset_cluster_size = threshold
        return library


def _build(config: QuantizerConfig) -> VectorQuantize:
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError as error:
        raise Open4MError("training a tokenizer needs the extra: pip install 'open4m[tokenizers]'") from error
    with torch.random.fork_rng(devices=[]):  # its initial codes are never used, and must not cost random numbers
        return VectorQuantize(
            dim=config.latent_dim,
            codebook_size=config.codebook_size,
            decay=config.decay,
            commitment_weight=config.commitment_weight,
            use_cosine_sim=True,
            rotation_trick=False,  # the library's default; the paper passes gradients straight through
            kmeans_init=config.kmeans_init,
            threshold_ema_dead_code=config.stale_coefficient,  # above 0 switches restarts on; set for each batch
            accept_image_fmap=True,
        )


def _draw(samples: torch.Tensor, n: int, generator: torch.Generator | None) -> torch.Tensor:
    """``n`` random vectors (1, n, D) of samples (1, L, D), without repetition where there are enough."""
    length, device = samples.shape[1], samples.device
    where = generator.device if generator is not None else device
    if length >= n:
        chosen = torch.randperm(length, generator=generator, device=where)[:n]
    else:
        chosen = torch.randint(length, (n,), generator=generator, device=where)
    return samples[:, chosen.to(device)]
