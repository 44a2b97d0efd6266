"""From logits to tokens: guidance, temperature, top-k, top-p, and a draw that depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Drawn(NamedTuple):
    """``token`` (...) int64 and its ``log_probability`` (...) in the distribution that it was drawn from.

    At temperature 0, in the plain softmax.
    """

    token: Tensor
    log_probability: Tensor


def guide(unconditional: Tensor, conditional: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """uncond + Σ w_i (cond_i - uncond), over logits (paper section 4 and A.3)."""
    guided = unconditional.clone()
    for logits, weight in zip(conditional, weights, strict=True):
        guided += weight * (logits - unconditional)
    return guided


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> Drawn:
    """Tokens from logits (..., V) and one uniform number in [0, 1) a draw (...).

    The number is put through the inverse of the distribution function, entries in the order of the vocabulary.
    Entries as likely as the last one that ``top_k`` or ``top_p`` keep are kept too.
    """
    logits = logits.float()
    if temperature == 0:
        token = logits.argmax(-1)
        return Drawn(token, (logits.gather(-1, token[..., None]) - logits.logsumexp(-1, keepdim=True))[..., 0])
    if temperature != 1:
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # finite, however low the temperature
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probability = logits.softmax(-1)
    if top_p < 1:
        probability = probability.where(probability >= least_kept(probability, top_p), 0)
    cumulative = probability.cumsum(-1)
    total = cumulative[..., -1:]
    below = torch.minimum(uniform[..., None] * total, total.nextafter(torch.zeros_like(total)))
    token = torch.searchsorted(cumulative, below, right=True)  # the first entry whose cumulated mass is above
    return Drawn(token[..., 0], (probability.gather(-1, token) / total).log()[..., 0])


def entropy(logits: Tensor) -> Tensor:
    """The entropy (...) in nats of the softmax of logits (..., V)."""
    log_probability = logits.float().log_softmax(-1)
    return -(log_probability.exp() * log_probability.clamp(min=-1e4)).sum(-1)  # 0 · -inf is 0


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise of uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log(-torch.log(uniform.clamp(tiny, 1 - 2**-24)))


def least_kept(probability: Tensor, top_p: float) -> Tensor:
    """The least probability (..., 1) of the fewest likeliest entries of (..., V) that have a mass of ``top_p``.

    Only values are sorted, not entries; on a CPU by NumPy, whose sort takes a 25th of torch's time.
    """
    if probability.device.type == "cpu":
        ordered = torch.from_numpy(np.sort(probability.numpy(), -1)).flip(-1)
    else:
        ordered = probability.sort(-1, descending=True).values
    needed = ordered.cumsum(-1) - ordered < top_p  # the likeliest is, whatever top_p
    return ordered.gather(-1, needed.sum(-1, keepdim=True) - 1)


class Draws:
    """Uniform numbers, a generator a sample: a sample's draws do not depend on the batch it is in."""

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self._generators])
