"""95% intervals of any metric of a set of samples, by the delete-a-group jackknife (Shao and Tu, 1995, 2.3).

The metric is computed again without each of a few groups of samples; how much these figures scatter says how much the
metric would scatter over other samples. Each has nearly as many samples as the metric itself. A bootstrap, whose sets
repeat samples, would shift Fréchet distances, which depend on how many different samples there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

Interval = tuple[float, float]

GROUPS = 20
"""Groups of samples, at most: the width of an interval is known to a sixth of itself."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Figures:
    """Metrics by name, and the 95% interval of each where there is one."""

    values: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)

    def with_(self, other: Figures, name: str) -> Figures:
        """The same with a metric of another, if that has it."""
        parts = []
        for own, its in ((self.values, other.values), (self.intervals, other.intervals)):
            rest = {key: value for key, value in own.items() if key != name}
            parts.append(rest | ({name: its[name]} if name in its else {}))
        return Figures(*parts)


def measure(metrics: Callable[[Sequence[int]], Mapping[str, float]], samples: int) -> Figures:
    """Metrics of ``samples`` independent samples, each with its interval.

    ``metrics``: the metrics of the samples of some indices. Sample i is in group i mod :data:`GROUPS`. There is no
    interval for fewer than three samples, since some metrics need two, nor where the metric is not finite for all
    groups. A metric that is the same without any group has an interval of no width.
    """
    values = dict(metrics(range(samples)))
    groups = min(GROUPS, samples)
    if groups < 3:
        return Figures(values)
    without = [metrics([i for i in range(samples) if i % groups != group]) for group in range(groups)]
    intervals = {}
    for name, value in values.items():
        scatter = np.array([part[name] for part in without], dtype=np.float64)
        width = stdtrit(groups - 1, (1 + CONFIDENCE) / 2) * np.sqrt((groups - 1) * scatter.var())
        if np.isfinite([value, width]).all():
            intervals[name] = (float(value - width), float(value + width))
    return Figures(values, intervals)
