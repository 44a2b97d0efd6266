"""What keeps a bad step from spoiling a run: no update, and an end to the run if it does not stay an exception."""

from __future__ import annotations

import logging
import math
import statistics
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.train.log import RunLog
    from open4m.train.loop import Task, TrainConfig

logger = logging.getLogger("open4m")

SPIKE = 20.0  # times the median of the latest losses
LATEST = 50  # losses that a spike is compared with,
ENOUGH = 10  # as soon as there are this many


class Guard:
    """Judges every step by its loss and its gradient's norm.

    A step in which one of them is not finite is skipped: weights, averages and optimizer stay, and buffers, which a
    forward pass may have changed (codebooks are learned in it), become what they were. Of losses that are finite but
    far above the latest ones it only warns. Steps of both kinds are written to ``bad_steps.jsonl``.
    """

    def __init__(self, task: Task, config: TrainConfig, scaler: torch.amp.GradScaler, log: RunLog):
        self.task, self.config, self.scaler, self.log = task, config, scaler, log
        self.skipped = self.in_a_row = self.spikes = 0
        self._losses: deque[float] = deque(maxlen=LATEST)
        self._buffers: dict[str, torch.Tensor] = {}

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` needs to go on in a resumed run; JSON values."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes, "losses": [*self._losses]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.skipped, self.in_a_row, self.spikes = state["skipped"], state["in_a_row"], state["spikes"]
        self._losses.extend(state["losses"])

    def metrics(self) -> dict[str, float]:
        """Steps skipped and spikes so far, and the scale of the loss if it has one."""
        scale = {"loss_scale": self.scaler.get_scale()} if self.scaler.is_enabled() else {}
        return {"skipped": self.skipped, "loss_spikes": self.spikes, **scale}

    def watch(self) -> None:
        """Remember the buffers. Called before the forward pass."""
        self._buffers = {name: buffer.clone() for name, buffer in self.task.model.named_buffers()}

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether the optimizer may take a step, counted from 0; if not, buffers are restored.

        ``norm`` is that of the gradient, which is no longer scaled. Raises :class:`Open4MError` after more skipped
        steps, in all or in a row, than the configuration allows. Those in which only the scaled gradient of float16
        overflows do not count: a smaller scale cures that.
        """
        if math.isfinite(loss):
            self._note_spike(step, loss, norm)
            if math.isfinite(norm):
                self.in_a_row = 0
                return True
        for name, buffer in self.task.model.named_buffers():
            buffer.copy_(self._buffers[name])
        if math.isfinite(loss) and self._overflowed():
            return False
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        path = self._write(step, "no update", loss, norm)
        what = f"{self.task.name}: step {step + 1}: loss {loss:g}, gradient norm {norm:g}: not finite"
        count = f"{self.in_a_row} in a row, {self.skipped} in all"
        if self.in_a_row > self.config.max_skips_in_a_row or self.skipped > self.config.max_skips:
            raise Open4MError(
                f"{what}, as in too many steps ({count}). {path} names the batches. Start another run with a lower "
                "optim.base_lr or with optim.clip; to go on with this one, raise max_skips_in_a_row "
                f"({self.config.max_skips_in_a_row}) or max_skips ({self.config.max_skips})"
            )
        logger.warning("%s; no update (%s), see %s", what, count, path)
        return False

    def _note_spike(self, step: int, loss: float, norm: float) -> None:
        limit = SPIKE * statistics.median(self._losses) if len(self._losses) >= ENOUGH else math.inf
        if loss > limit > 0:
            self.spikes += 1
            path = self._write(step, "loss spike", loss, norm)
            if self._losses[-1] <= limit:  # the first of some in a row
                logger.warning(
                    "%s: step %d: loss %g is more than %g times the median of the latest ones, see %s",
                    self.task.name,
                    step + 1,
                    loss,
                    SPIKE,
                    path,
                )
        self._losses.append(loss)

    def _write(self, step: int, what: str, loss: float, norm: float) -> Path:
        return self.log.bad_step(step, what, {"loss": loss, "gradient_norm": norm, "seed": self.config.seed})

    def _overflowed(self) -> bool:
        """Whether a gradient left the range of float16 and a smaller scale, which the scaler now takes, may help."""
        return self.scaler.get_scale() > 1 and any(
            not torch.isfinite(p.grad).all() for p in self.task.model.parameters() if p.grad is not None
        )
