"""Averaged weights: an exponential moving average of the trained weights, evaluated and saved in their place (paper
Tables 8 to 11)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The exponential moving average of a model's trainable weights; without a ``decay``, of none of them.

    ``values``: the averages by the names of the weights. Buffers are not averaged: the model's own are used. Raises
    :class:`Open4MError` if the decay is not in [0, 1).
    """

    def __init__(self, model: torch.nn.Module, decay: float | None):
        self.decay = decay
        trained = {} if decay is None else {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weights = list(trained.values())
        self.values = {name: weight.detach().clone() for name, weight in trained.items()}

    def update(self, step: int) -> None:
        """Move towards the weights after a step, counted from 0.

        The decay is min(``decay``, (1 + step) / (10 + step)), so that the initial weights are soon forgotten.
        """
        if self.values:
            move = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
            move(list(self.values.values()), [weight.detach() for weight in self._weights], step)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights. Storage is exchanged, not copied, and restored at the
        end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, weight in zip(self.values, self._weights, strict=True):
            weight.data, self.values[name] = self.values[name], weight.data
