"""Averaged weights, evaluated and saved in place of the trained ones: an exponential moving average (paper Tables 8 to
11), or the mean of the last steps' weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """The average of a model's trainable weights: exponential with a ``decay``, the mean over the steps from
    ``first_step`` on with that; with neither, of none of them.

    ``values``: the averages by the names of the weights; before ``first_step``, the weights themselves. Buffers are not
    averaged: the model's own are used.
    """

    def __init__(self, model: torch.nn.Module, decay: float | None = None, first_step: int | None = None):
        self.decay, self.first_step = decay, first_step
        averages = decay is not None or first_step is not None
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad} if averages else {}
        self._weights = list(trained.values())
        self.values = {name: weight.detach().clone() for name, weight in trained.items()}

    def update(self, step: int) -> None:
        """Move towards the weights after a step, counted from 0.

        The exponential decay is min(``decay``, (1 + step) / (10 + step)), so that the initial weights are soon
        forgotten; that of a mean over n steps is 1 - 1 / n.
        """
        if self.values:
            if self.first_step is None:
                kept = min(self.decay, (1 + step) / (10 + step))
            else:
                kept = 1 - 1 / max(1, step - self.first_step + 1)
            move = get_ema_multi_avg_fn(kept)
            move(list(self.values.values()), [weight.detach() for weight in self._weights], step)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the model has the averaged weights. Contents are exchanged in place, since a sharded
        weight is found by where it lies, and restored at the end."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(self.values.values(), self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
