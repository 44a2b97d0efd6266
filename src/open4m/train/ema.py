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

    ``values``: the averages by the names of the weights; before ``first_step``, the weights themselves. ``count``: of
    how many steps the mean is. Buffers are not averaged: the model's own are used.
    """

    def __init__(self, model: torch.nn.Module, decay: float | None = None, first_step: int | None = None):
        self.decay, self.first_step, self.count = decay, first_step, 0
        averages = decay is not None or first_step is not None
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad} if averages else {}
        self._weights = list(trained.values())
        self.values = {name: weight.detach().clone() for name, weight in trained.items()}

    def update(self, step: int) -> None:
        """Move towards the weights after a step, counted from 0.

        The exponential decay is min(``decay``, (1 + step) / (10 + step)), so that the initial weights are soon
        forgotten; that of a mean over n steps is 1 - 1 / n. The steps are counted, not derived from ``step``: a run
        that was made shorter, and a cool-down, begin after ``first_step``.
        """
        if self.values:
            if self.first_step is None:
                kept = min(self.decay, (1 + step) / (10 + step))
            else:
                self.count = self.count + 1 if step >= self.first_step else 0
                kept = 1 - 1 / max(1, self.count)
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
