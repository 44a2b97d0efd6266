"""From logits to tokens: guidance, temperature, top-k, top-p, and a draw that depends on the sample alone."""

from __future__ import annotations

import torch
from torch import Tensor


def guide(unconditional: Tensor, conditional: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance: uncond + w (cond - uncond), over logits (paper A.3)."""
    return unconditional + weight * (conditional - unconditional)


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens (...) and their log-probabilities, from logits (..., V) and one uniform number in [0, 1) a draw (...).

    A log-probability is that of the distribution the token was drawn from; at temperature 0, of the plain softmax.
    """
    logits = logits.float()
    if temperature == 0:
        token = logits.argmax(-1)
        return token, logits.log_softmax(-1).gather(-1, token[..., None])[..., 0]
    logits = logits / temperature
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    ordered, tokens = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    if top_p < 1:
        ordered = ordered * (cumulative - ordered < top_p)  # the likeliest stays, whatever top_p
        cumulative = ordered.cumsum(-1)
    total = cumulative[..., -1:]
    drawn = (cumulative <= uniform[..., None] * total).sum(-1, keepdim=True)  # inverse of the distribution function
    last = (ordered > 0).sum(-1, keepdim=True) - 1
    drawn = torch.minimum(drawn, last)
    probability = ordered.gather(-1, drawn) / total
    return tokens.gather(-1, drawn)[..., 0], probability.log()[..., 0]


class Draws:
    """Uniform numbers, a generator a sample: a sample's draws do not depend on the batch it is in."""

    def __init__(self, seeds: list[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self._generators])
