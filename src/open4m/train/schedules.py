"""Learning-rate schedules, as fractions of the peak."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cosine(step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """Linear warm-up over ``warmup`` steps, then a cosine from 1 to ``final`` at ``steps``."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def stable(step: int, steps: int, warmup: int, decay: int, final: float = 0.0) -> float:
    """Linear warm-up, then 1, then a decay to ``final`` over the last ``decay`` of ``steps`` steps.

    Until the decay begins nothing depends on ``steps``, so a run can be made longer. The decay is 1 - √progress, which
    does better than a line (Hägele et al., 2024, https://arxiv.org/abs/2405.18392).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, max(0, step - (steps - decay)) / max(1, decay))
    return final + (1 - final) * (1 - math.sqrt(progress))


def stepped(step: int, steps: int, warmup: int, milestones: Sequence[float]) -> float:
    """Linear warm-up, then 1, and a tenth of the rate before from each of the ``milestones``, fractions of the run, on
    (paper Table 7)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 ** sum(step >= part * steps for part in milestones)
