"""The order in which training visits samples: a pure function of (seed, step).

:func:`rows_for_step` is the order of one data set. :class:`Order` visits one or several data sets, in proportion to
their shares, and of each sample one of its stored crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from open4m.rng import crop_numbers, derived, raw_numbers
from open4m.types import Open4MError

REPEATED_BLOCK = 1 << 14
"""The fewest rows of a block of repeated sampling: two batches of the paper (Table 5)."""


@lru_cache(maxsize=64)
def _recent(seed: int, length: int) -> dict[int, np.ndarray]:
    """The orders of the last epochs that were asked for: a mixture goes through several data sets at once."""
    return {}


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A random permutation of ``length`` rows, a pure function of (seed, epoch): read-only int64 (length,).

    Sorting raw Philox output, which NumPy keeps stable across versions (it does not promise that of ``permutation``).
    """
    if seed < 0:
        raise Open4MError(f"training order: expected a seed of at least 0, got {seed}")
    if length < 1:
        raise Open4MError("the training order of an empty store: write some shards first")
    recent = _recent(seed, length)
    if (order := recent.get(epoch)) is None:
        order = np.argsort(raw_numbers(length, seed, epoch), kind="stable")
        order.setflags(write=False)
        for old in [*recent][: max(0, len(recent) - 1)]:
            recent.pop(old, None)
        recent[epoch] = order
    return order


def rows_for_step(seed: int, step: int, batch_size: int, length: int, repeats: int = 1) -> np.ndarray:
    """The rows of a training step, int64 (batch_size,).

    Step s takes places s·B to (s+1)·B - 1 of the endless sequence of all epochs. Every epoch visits every row
    ``repeats`` times, and neither resuming nor the number of workers or hosts changes anything.

    Repeated sampling (paper E.7) visits a row several times within a short time, while reading it is cheap. An epoch's
    order is cut into blocks of at least ``REPEATED_BLOCK`` rows, if there are as many; each block is visited
    ``repeats`` times, in another order each time, before the next block. At least half a block of other rows lies
    between two visits of a row, so that no batch of up to that size holds it twice.

    Rows of a shard are not kept together: rows are read from memory-mapped files, so that an order that is uniform over
    the whole epoch costs nothing, and rows of one shard may resemble each other.

    Raises :class:`Open4MError` for an empty store and for impossible arguments.
    """
    if step < 0 or batch_size < 1 or repeats < 1:
        raise Open4MError(
            f"training order: expected step >= 0, batch_size >= 1 and repeats >= 1, got {step}, {batch_size}, {repeats}"
        )
    return _rows_at(seed, range(step * batch_size, (step + 1) * batch_size), length, repeats)


def _rows_at(seed: int, places: range, length: int, repeats: int) -> np.ndarray:
    """The rows at places of the endless sequence of all epochs, int64 (n,)."""
    first, end = places.start, places.stop
    parts = [np.empty(0, dtype=np.int64)]
    while first < end:
        epoch, place = divmod(first, max(length, 1) * repeats)
        order = epoch_order(seed, epoch, length)
        blocks = max(length // REPEATED_BLOCK, 1)  # block b begins at row b·length // blocks of the order
        block = -(-(place // repeats + 1) * blocks // length) - 1
        start, stop = block * length // blocks, (block + 1) * length // blocks
        visit, place = divmod(place - start * repeats, stop - start)
        order = order[start:stop]
        if visit:
            order = order[_visit_order(seed, epoch, block, visit, stop - start)]
        parts.append(order[place : place + end - first])
        first += len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def _visit_order(seed: int, epoch: int, block: int, visit: int, size: int) -> np.ndarray:
    """The order of a block's later visits: each of its halves is shuffled on its own, int64 (size,)."""
    numbers = raw_numbers(size, seed, epoch, counter=(block, visit)) >> np.uint64(1)
    numbers[size // 2 :] += np.uint64(1 << 63)  # after the first half
    return np.argsort(numbers, kind="stable")


PERIOD = 1 << 16
"""Places after which the data sets of a mixture have been visited in exact proportion."""

_STRIDE = 40503
"""Odd, and nearly PERIOD over the golden ratio: multiples of it, modulo PERIOD, are spread evenly at every length."""


@dataclass(frozen=True)
class Source:
    """What the order knows of a data set: how many ``samples`` it has with how many ``crops`` each, one row per crop,
    and its ``share`` of all that is visited."""

    samples: int
    crops: int = 1
    share: float = 1.0


class Order:
    """The rows of every step, of one data set or of several whose rows follow one another.

    Each data set is visited in the order of :func:`rows_for_step`, a sample by one of its crops, drawn anew at every
    visit. In a mixture, the places of the endless sequence are dealt out to the data sets: among any ``PERIOD`` of them
    each has its share, rounded to 1/65536, and among fewer nearly so, since they are interleaved evenly. So a small
    data set with a large share is repeated more often.

    Raises :class:`Open4MError` for shares that would round to nothing.
    """

    def __init__(self, seed: int, batch_size: int, sources: Sequence[Source], repeats: int = 1) -> None:
        self._seed, self._batch_size, self._sources, self._repeats = seed, batch_size, tuple(sources), repeats
        rows = [source.samples * source.crops for source in sources]
        self._first_rows = np.cumsum([0, *rows])
        if len(sources) > 1:
            self._quotas = _quotas([source.share for source in sources])
            slots = (np.arange(PERIOD, dtype=np.int64) * _STRIDE) % PERIOD
            self._dealt = np.searchsorted(np.cumsum(self._quotas), slots, side="right")  # the data set of each place

    def rows(self, step: int) -> np.ndarray:
        """The rows of a step, int64 (batch_size,)."""
        if len(self._sources) == 1:
            source = self._sources[0]
            found = rows_for_step(self._seed, step, self._batch_size, source.samples, self._repeats)
            return self._cropped(step, found, np.zeros(len(found), dtype=np.int64))
        first, end = step * self._batch_size, (step + 1) * self._batch_size
        which = self._dealt[np.arange(first, end) % PERIOD]
        samples = np.empty(self._batch_size, dtype=np.int64)
        for k, source in enumerate(self._sources):
            places = range(self._count(k, first), self._count(k, end))
            samples[which == k] = _rows_at(derived(self._seed, k), places, source.samples, self._repeats)
        return self._cropped(step, samples, which)

    def _count(self, k: int, places: int) -> int:
        """How many of the first places a data set has."""
        periods, rest = divmod(places, PERIOD)
        return periods * int(self._quotas[k]) + int((self._dealt[:rest] == k).sum())

    def _cropped(self, step: int, samples: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The rows of samples of the data sets ``which``: of the crops that are visited in this step."""
        crops = np.array([source.crops for source in self._sources])[which]
        rows = self._first_rows[which] + samples * crops
        if (crops > 1).any():
            numbers = crop_numbers(self._seed, step, len(samples))  # in [0, 1)
            rows += (numbers * crops).astype(np.int64)
        return rows


def _quotas(shares: Sequence[float]) -> np.ndarray:
    """How many of PERIOD places each data set has: its share, rounded by largest remainders."""
    exact = np.array(shares, dtype=np.float64) / np.sum(shares) * PERIOD
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: PERIOD - quotas.sum()]] += 1
    if not quotas.all():
        raise Open4MError(f"mixture: a share of {min(shares) / sum(shares):.2g} is below 1 in {PERIOD} samples")
    return quotas
