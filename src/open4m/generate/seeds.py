"""How many results a call makes, and the seed of each."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from open4m.types import Open4MError, shown


def seeds_of(seed: int | Sequence[int], count: int) -> list[int]:
    """The seeds of ``count`` results: those of a sequence, or ``seed`` and those after it."""
    seeds = check_seed(seed)
    if _are_several(seed) and len(seeds) != count:
        raise Open4MError(f"seed: expected one seed, or one for each of {count} results, got {len(seeds)}")
    return seeds if _are_several(seed) else [seeds[0] + i for i in range(count)]


MOST = 1_000_000
"""The most results of one call: more are a mistake, and would fill the memory before the first is made."""


def check_count(name: str, value: Any) -> None:
    """Raise :class:`Open4MError` for what is no number of things, 1 to :data:`MOST`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise Open4MError(f"{name} must be a whole number, 1 or more, got {shown(value)}")
    if value > MOST:
        raise Open4MError(f"{name} must be at most {MOST}, got {shown(value)}")


def check_seed(seed: Any) -> list[int]:
    """The seeds of a call, one or several. Raises :class:`Open4MError` for anything but whole numbers from 0."""
    seeds = list(seed) if _are_several(seed) else [seed]
    if wrong := [s for s in seeds if not (isinstance(s, numbers.Integral) and 0 <= s < 1 << 62)]:
        raise Open4MError(f"seed must be a whole number, 0 or more and below 2**62, got {wrong[0]!r}")
    return [int(s) for s in seeds]


def _are_several(seed: Any) -> bool:
    return isinstance(seed, Sequence) or (isinstance(seed, np.ndarray) and seed.ndim > 0)
