"""Numbers that say what the values of a shard are like, and whether a shard's differ from those of the first ones."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np

from open4m.types import Boxes

REFERENCE_SAMPLES = 256
"""The first shards, up to this many samples, say what is usual."""

FEWEST_SAMPLES = 8
"""Of fewer samples nothing is said."""

LARGEST_SHIFT = 1.0
"""Standard deviations of samples by which the mean of a shard may differ from the first ones': subjects differ from
shard to shard by less, labels that went wrong by more."""

SURE = 6.0
"""Standard errors by which it has to differ as well, so that small shards do not."""

ROUNDING = 0.02
"""Of the usual mean: a difference that means nothing where all samples are alike."""

SMALLEST_SPREAD = 0.05
"""Of the usual standard deviation of samples: where labels hardly differ any more, a network has failed."""


def measures(value: Any, valid: np.ndarray | None = None) -> dict[str, float]:
    """Of a value of raw data: mean and spread of a map's numbers, the number of words or boxes. ``valid`` (H, W): the
    pixels of a map that hold a measurement, by default all of them."""
    if isinstance(value, str):
        return {"words": len(value.split())}
    if isinstance(value, Boxes):
        return {"boxes": len(value)}
    if isinstance(value, np.ndarray) and value.size:
        numbers = (value if valid is None else value[valid]).astype(np.float64)
        found = {"measured share": numbers.size / value.size}
        return found | ({"mean": float(numbers.mean()), "spread": float(numbers.std())} if numbers.size else {})
    return {}


def token_measures(value: Any) -> dict[str, float]:
    """Of a row of tokens, vectors or the bytes of an image. Token ids are names, no quantities: how many there are and
    how many different ones is what can be compared."""
    if isinstance(value, bytes):
        return {"bytes": math.log(max(1, len(value)))}
    if value.dtype.kind == "f":
        return {"vectors": len(value), "norm": float(np.linalg.norm(value, axis=-1).mean()) if len(value) else 0.0}
    return {"tokens": len(value), "different tokens": len(np.unique(value))}


class Moments:
    """The number, mean and variance of what was added."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, number: float) -> None:
        self.count += 1
        change = number - self.mean
        self.mean += change / self.count
        self._squares += change * (number - self.mean)

    def merge(self, other: Moments) -> None:
        count, change = self.count + other.count, other.mean - self.mean
        if count:
            self._squares += other._squares + change**2 * self.count * other.count / count
            self.mean += change * other.count / count
            self.count = count

    @property
    def deviation(self) -> float:
        return math.sqrt(self._squares / self.count) if self.count else 0.0


class Drift:
    """Collects measures per shard. Shards are added in order."""

    def __init__(self) -> None:
        self._shards: dict[tuple[str, str], dict[int, Moments]] = defaultdict(lambda: defaultdict(Moments))

    def add(self, modality: str, shard: int, found: dict[str, float]) -> None:
        """The measures of one sample."""
        for measure, number in found.items():
            self._shards[modality, measure][shard].add(number)

    def findings(self) -> list[str]:
        """Lines about the shards that differ from the first ones."""
        lines = []
        for (modality, measure), shards in self._shards.items():
            usual = Moments()
            for shard, own in shards.items():
                if usual.count < REFERENCE_SAMPLES:
                    usual.merge(own)
                elif own.count >= FEWEST_SAMPLES and (fault := _fault(usual, own)):
                    lines.append(f"{modality} shard {shard}: {measure} {fault}")
        return lines


def _fault(usual: Moments, own: Moments) -> str:
    """How a shard differs, empty if it does not."""
    shift, deviation = abs(own.mean - usual.mean), max(usual.deviation, ROUNDING * abs(usual.mean), 1e-12)
    error = deviation * math.sqrt(1 / usual.count + 1 / own.count)
    if shift > max(SURE * error, LARGEST_SHIFT * deviation):
        usually = f"{usual.mean:.4g} in the first shards"
        return f"is {own.mean:.4g} on average, {usually}: {shift / deviation:.1f} standard deviations"
    if usual.deviation and own.deviation < SMALLEST_SPREAD * usual.deviation:
        return f"hardly differs between samples ({own.deviation:.2g}, {usual.deviation:.2g} in the first shards)"
    return ""
