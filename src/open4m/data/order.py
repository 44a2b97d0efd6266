"""The order in which training visits samples: a pure function of (seed, step)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from open4m.rng import raw_numbers
from open4m.types import Open4MError

REPEATED_BLOCK = 1 << 14
"""The fewest rows of a block of repeated sampling: two batches of the paper (Table 5)."""


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A random permutation of ``length`` rows, a pure function of (seed, epoch): read-only int64 (length,).

    Sorting raw Philox output, which NumPy keeps stable across versions (it does not promise that of ``permutation``).
    """
    if seed < 0:
        raise Open4MError(f"training order: expected a seed of at least 0, got {seed}")
    if length < 1:
        raise Open4MError("the training order of an empty store: write some shards first")
    order = np.argsort(raw_numbers(length, seed, epoch), kind="stable")
    order.setflags(write=False)
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
    first, end = step * batch_size, (step + 1) * batch_size
    parts = []
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
