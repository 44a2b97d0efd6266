"""From logits to tokens: guidance, temperature, top-k, top-p, and a draw that depends on the sample alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from open4m.rng import seeded
from open4m.types import Open4MError

COLDEST = 1e-30  # below this temperature the likeliest token is taken
IN_ORDER = ("cpu",)
"""The devices that add up one number after another, and whose tensors NumPy reads. Others add up in parallel, in
whatever order their threads come: a cumulative sum may rise by a rounding error where 0 is added, or fall."""


class Drawn(NamedTuple):
    """``token`` (...) int64 and its ``log_probability`` (...) in the softmax of the plain logits."""

    token: Tensor
    log_probability: Tensor


def guide(unconditional: Tensor, conditional: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """uncond + Σ w_i (cond_i - uncond), over logits (paper section 4 and A.3)."""
    guided = unconditional.clone()
    for logits, weight in zip(conditional, weights, strict=True):
        guided += weight * (logits - unconditional)
    return guided


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> Drawn:
    """Tokens from logits (..., V) and uniform random numbers (...) in [0, 1), one per token.

    The inverse of the distribution function, over the entries in the order of the vocabulary, maps a number to a token.
    Entries as likely as the last one that ``top_k`` or ``top_p`` keep are kept too. Raises :class:`Open4MError` for
    logits that are not finite; -inf may be among them.
    """
    logits = logits.float()
    if temperature < COLDEST:
        token = logits.argmax(-1, keepdim=True)
    else:
        probability = truncated(logits, temperature, top_k, top_p)
        cumulative = probability.cumsum(-1)
        if cumulative.device.type not in IN_ORDER:  # an entry of probability 0 must not be drawn
            cumulative = cumulative.masked_fill(probability == 0, 0).cummax(-1).values
        mass = cumulative[..., -1:]
        below = torch.minimum(uniform[..., None] * mass, mass.nextafter(torch.zeros_like(mass)))
        token = torch.searchsorted(cumulative, below, right=True)  # the first entry whose cumulated mass is above
        token = token.clamp(max=logits.shape[-1] - 1)  # beyond if the mass is not a number
    if temperature == 1 and not top_k:
        log_probability = probability.gather(-1, token).log()
    else:
        log_probability = logits.log_softmax(-1).gather(-1, token)
    if not log_probability.isfinite().all():
        raise Open4MError("the model's logits are not finite: its weights are damaged, or the guidance is too large")
    return Drawn(token[..., 0], log_probability[..., 0])


def sample_limited(
    logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Drawn, Tensor]:
    """Like :func:`sample`, but ``top_k`` and ``top_p`` act before the temperature. Also the log-probability (...) that
    each token was drawn with."""
    logits = logits.float()
    kept = logits.masked_fill(truncated(logits, 1.0, top_k, top_p) == 0, -torch.inf)
    token = sample(kept, uniform, temperature, 0, 1.0).token
    hot = kept / max(temperature, COLDEST)
    drawn, plain = (
        values.gather(-1, token[..., None])[..., 0] - values.logsumexp(-1)
        for values in (hot - hot.amax(-1, keepdim=True), logits)
    )
    return Drawn(token, plain), drawn


def truncated(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The softmax of logits (..., V) at a temperature, 0 for what is not kept; its sum may be less than 1."""
    if temperature != 1:
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # finite, however low the temperature
    limited = 0 < top_k < logits.shape[-1]
    if limited:
        logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[..., -1:], -torch.inf)
    probability = logits.softmax(-1)
    if top_p == 1:
        return probability
    least = least_kept(probability.topk(top_k, -1).values if limited else probability, top_p)
    if probability.device.type in IN_ORDER:  # NumPy multiplies by truth values in a fifth of torch's time
        values = probability.numpy()
        return torch.from_numpy(values * (values >= least.numpy()))
    return probability * (probability >= least)


def entropy(logits: Tensor) -> Tensor:
    """The entropy (...) in nats of the softmax of logits (..., V)."""
    log_probability = logits.float().log_softmax(-1)
    return -(log_probability.exp() * log_probability.clamp(min=-1e4)).sum(-1)  # 0 · -inf is 0


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise of uniform numbers in [0, 1)."""
    tiny = torch.finfo(uniform.dtype).tiny
    return -torch.log(-torch.log(uniform.clamp(tiny, 1 - 2**-24)))


def least_kept(values: Tensor, top_p: float) -> Tensor:
    """The least (..., 1) of the fewest largest of ``values`` (..., n) that have a mass of ``top_p``; one at least."""
    if values.device.type in IN_ORDER:
        rows = values.numpy().reshape(-1, values.shape[-1])
        least = np.array([_least_kept(row, top_p) for row in rows], dtype=rows.dtype)
        return torch.from_numpy(least).reshape(*values.shape[:-1], 1)
    ascending = values.sort(-1).values
    cumulative = ascending.cumsum(-1)
    dropped = torch.searchsorted(cumulative, cumulative[..., -1:] - top_p, right=True)
    return ascending.gather(-1, dropped.clamp(max=values.shape[-1] - 1))


FEW = 512
"""Of so many of the likeliest the nucleus of a trained model nearly always is."""


def _least_kept(values: np.ndarray, top_p: float) -> np.generic:
    """:func:`least_kept` of one row (n,): of the likeliest alone if they hold the mass, which spares a sort of all."""
    surplus = values.sum(dtype=np.float64) - top_p  # the mass that may be left out, of the least values
    if len(values) > 4 * FEW and values.max() * FEW > top_p:  # else they cannot hold it
        parted = np.partition(values, -FEW)
        below = parted[:-FEW].sum(dtype=np.float64)
        if below <= surplus:
            surplus, values = surplus - below, parted[-FEW:]
    values = np.sort(values)
    cumulative = torch.from_numpy(values).cumsum(0).numpy()  # in a quarter of NumPy's time
    dropped = np.searchsorted(cumulative, cumulative.dtype.type(surplus), side="right")
    return values[min(dropped, len(values) - 1)]


class Draws:
    """Uniform random numbers from one generator per sample: they do not depend on the batch that a sample is in."""

    def __init__(self, seeds: Sequence[int]):
        self._generators = [seeded(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self._generators])
