"""Schedules of grids (paper A.3): how many tokens each pass commits, and at which temperature it samples them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

Schedule = Callable[[int, int, int], int]
"""How many of ``total`` tokens are unknown after ``done`` of ``passes``: (done, passes, total)."""


def cosine(done: int, passes: int, total: int) -> int:
    """A quarter of a period: few tokens first, then many; at least one per pass."""
    return min(max(0, total - done), math.floor(total * math.cos(math.pi / 2 * done / passes) + 1e-9))


def linear(done: int, passes: int, total: int) -> int:
    """Equally many in all passes, as near as whole numbers come to it; at least one per pass."""
    return min(max(0, total - done), math.floor(total * (1 - done / passes) + 1e-9))


def even(done: int, passes: int, total: int) -> int:
    """Equally many in all passes, or one more in the first of them."""
    each, more = divmod(total, passes)
    return total - done * each - min(done, more)


def bell(done: int, passes: int, total: int) -> int:
    """Half a period of a cosine: few tokens, then many, then few; the last pass takes what rounding left."""
    if done == passes:
        return 0
    left = [(1 + math.cos(math.pi * i / passes)) / 2 for i in range(done + 1)]
    made = sum(round(total * (before - after)) for before, after in itertools.pairwise(left))
    return max(0, total - made)


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "linear": linear, "even": even, "bell": bell}
"""All schedules by name. "bell" and "even" are "cosine" and "linear" of the authors' code."""

COOLINGS = ("linear", "onex")
"""How a temperature falls from that of the first pass to that of the last."""


def onex(done: int, total: int, left: float) -> float:
    """The share of its range by which a temperature is above its last value in the pass after ``done`` of them.

    ``left``: the fraction of ``total`` tokens that is unknown after that pass. The authors' ``onex`` schedule: that
    fraction times 1/√x, x from 1 to 100 in as many steps as there are tokens, scaled to fall from 1 to 0.
    """
    x = 1 + 99 * done / max(1, total - 1)
    return left * (x**-0.5 - 0.1) / 0.9
