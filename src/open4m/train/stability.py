"""What keeps a bad step from spoiling a run: it changes nothing, and too many of them end the run."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from open4m.train.config import TrainConfig
from open4m.train.log import NoLog, RunLog
from open4m.types import Open4MError, shown

logger = logging.getLogger("open4m")

SPIKE_FACTOR = 20.0
"""A loss above this many times the median of the latest ones is a spike."""

MEDIAN_LOSSES = 50
"""The latest losses, of which the median is taken."""

MIN_LOSSES = 10
"""With fewer losses than this, none is called a spike."""


class Guard:
    """Judges every step by its loss and its gradient's norm.

    A step in which one of them is not finite is skipped: weights, averages and optimizer stay, and persistent buffers,
    which a forward pass may have changed (it moves codebooks), are restored. A finite loss far above the latest ones
    only gives a warning. Steps of both kinds are written to ``bad_steps.jsonl``, with
    the keys of their samples.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        config: TrainConfig,
        scaler: torch.amp.GradScaler,
        log: RunLog | NoLog,
        samples_of: Callable[[int], list[str]] | None = None,
    ):
        """``samples_of``: the keys of the samples of a step."""
        self.name, self.model, self.config, self.scaler, self.log = name, model, config, scaler, log
        self.samples_of = samples_of
        self.skipped = self.in_a_row = self.spikes = 0
        self._losses: deque[float] = deque(maxlen=MEDIAN_LOSSES)
        # Buffers that are not saved follow from the configuration; no forward pass changes them.
        self._persistent = model.state_dict().keys() & dict(model.named_buffers()).keys()
        self._buffers: dict[str, torch.Tensor] = {}

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on in a resumed run; JSON values."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes, "losses": [*self._losses]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state. Raises :class:`Open4MError` for what is none."""
        counts, losses = [state.get(name) for name in ("skipped", "in_a_row", "spikes")], state.get("losses")
        if not all(type(n) is int for n in counts) or not isinstance(losses, list):
            raise Open4MError(f"{self.name}: the checkpoint's record of bad steps is damaged: {shown(state)}")
        self.skipped, self.in_a_row, self.spikes = state["skipped"], state["in_a_row"], state["spikes"]
        self._losses.extend(state["losses"])

    def metrics(self) -> dict[str, float]:
        """Skipped steps and spikes so far; with float16, the scale of the loss."""
        scale = {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        return {"skipped": self.skipped, "loss_spikes": self.spikes, **scale}

    def watch(self) -> None:
        """Remember the persistent buffers. Called before the forward pass."""
        self._buffers = {name: self.model.get_buffer(name).clone() for name in self._persistent}

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the optimizer may take this step, counted from 0; if not, buffers are restored.

        ``norm`` is that of the unscaled gradient. Raises :class:`Open4MError` after more skipped steps, in all or in a
        row, than the configuration allows. Steps in which only the scaled float16 gradient overflows do not count: the
        scaler lowers its scale.
        """
        if math.isfinite(loss):
            self._note_spike(step, loss, norm)
            if math.isfinite(norm):
                self.in_a_row = 0
                return True
        for name, buffer in self._buffers.items():
            self.model.get_buffer(name).copy_(buffer)
        if math.isfinite(loss) and self._overflowed():
            return False
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        path = self._write(step, "no update", loss, norm)
        what = f"{self.name}: step {step + 1}: loss {loss:g}, gradient norm {norm:g}: not finite"
        count = f"{self.in_a_row} in a row, {self.skipped} in all"
        if self.in_a_row > self.config.max_skips_in_a_row or self.skipped > self.config.max_skips:
            raise Open4MError(
                f"{what}, as in too many steps ({count}). {path} names the batches. Start another run with a lower "
                "learning rate (optim.base_lr, or optim.lr if that is set) or with optim.clip; to go on with this one, "
                f"raise max_skips_in_a_row ({self.config.max_skips_in_a_row}) or max_skips ({self.config.max_skips})"
            )
        logger.warning("%s; no update (%s), see %s", what, count, path)
        return False

    def _note_spike(self, step: int, loss: float, norm: float) -> None:
        limit = SPIKE_FACTOR * statistics.median(self._losses) if len(self._losses) >= MIN_LOSSES else math.inf
        if loss > limit > 0:
            self.spikes += 1
            path = self._write(step, "loss spike", loss, norm)
            if self._losses[-1] <= limit:  # the first of some in a row
                logger.warning(
                    "%s: step %d: loss %g is more than %g times the median of the latest ones, see %s",
                    self.name,
                    step + 1,
                    loss,
                    SPIKE_FACTOR,
                    path,
                )
        self._losses.append(loss)

    def _write(self, step: int, what: str, loss: float, norm: float) -> Path:
        values: dict[str, Any] = {"loss": loss, "gradient_norm": norm, "seed": self.config.seed}
        if self.samples_of is not None:
            values["samples"] = self.samples_of(step)
        return self.log.bad_step(step, what, values)

    def _overflowed(self) -> bool:
        """Whether a gradient left the range of float16, and the smaller scale that the scaler takes next may help."""
        return self.scaler.get_scale() > 1 and any(
            not torch.isfinite(p.grad).all() for p in self.model.parameters() if p.grad is not None
        )
