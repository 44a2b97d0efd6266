"""Every seeded stream of random numbers: what is random is a function of a key, never of a global generator.

Keys are whole numbers, such as (seed, step) or (seed, step, row): who asks, and in which order, changes nothing. The
streams are NumPy's Philox, whose raw output NumPy keeps stable across versions, and torch's generators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def stream(*key: int) -> np.random.Generator:
    """NumPy's generator for a key."""
    return np.random.Generator(np.random.Philox(_entropy(key)))


def torch_stream(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch's generator for a key, on a device: equal keys give equal numbers on devices of one type."""
    import torch

    seed = int(_entropy(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device=device).manual_seed(seed)


def unmarked_stream(*key: int) -> np.random.Generator:
    """NumPy's generator for a key whose length is not part of it, as published data sets were drawn.

    Keys of one length only: (s, t) and (s, t, 0) give the same numbers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _entropy(key: tuple[int, ...]) -> np.random.SeedSequence:
    """The entropy of a key. Its length is part of it, since NumPy takes (s, t) and (s, t, 0) for the same."""
    return np.random.SeedSequence((*key, len(key)))


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch's generator for one plain seed, as ``torch.manual_seed`` would start it."""
    import torch

    return torch.Generator(device=device).manual_seed(seed)


def raw_numbers(count: int, *key: int, counter: tuple[int, int] = (0, 0)) -> np.ndarray:
    """``count`` random uint64 numbers for a key of two numbers and a counter: the same in every NumPy version."""
    bits = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=[0, 0, *counter])
    return bits.random_raw(count)


def derived(seed: int, number: int) -> int:
    """The seed of one of several streams that have a seed in common; that of the first is the seed itself."""
    return seed if number == 0 else int(_entropy((seed, number)).generate_state(1, np.uint64)[0])


def crop_numbers(seed: int, step: int, count: int) -> np.ndarray:
    """Which crop each row of a step sees, as float64 (count,) in [0, 1): the same in every NumPy version."""
    return (np.random.Philox(_entropy((seed, step, 0, 0))).random_raw(count) >> np.uint64(11)) / 2.0**53


class RowDraws:
    """The random numbers of rows ``first_row``, ``first_row + 1``, ... of a training step.

    Philox is a function of a key, here (seed, step), and of a counter, here (request, row): every request for numbers
    has a stream of its own, in which every row has its place. So a row's numbers do not depend on which process asks
    for them, nor on how many rows it asks for.
    """

    def __init__(self, seed: int, step: int, first_row: int, size: int):
        self._key = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64)
        self._first_row, self._size, self._requests = first_row, size, 0

    def bits(self, count: int) -> np.ndarray:
        """(B, count) uint32."""
        blocks = -(-count // 8)  # a counter gives 256 bits
        philox = np.random.Philox(key=self._key, counter=[self._first_row * blocks, self._requests, 0, 0])
        self._requests += 1
        return philox.random_raw(self._size * blocks * 4).view(np.uint32).reshape(self._size, -1)[:, :count]

    def uniform(self, count: int) -> np.ndarray:
        """(B, count) in (0, 1)."""
        return (self.bits(count) + 0.5) / 2**32

    def one(self) -> np.ndarray:
        """(B,) in (0, 1)."""
        return self.uniform(1)[:, 0]

    def between(self, low: np.ndarray | int, high: np.ndarray) -> np.ndarray:
        """(B,) integers from ``low`` to ``high``, both included."""
        return low + np.floor(self.one() * (high - low + 1)).astype(np.int64)

    def choice(self, weights: list[float], allowed: np.ndarray | None = None) -> np.ndarray:
        """(B,) indices, drawn in proportion to ``weights``, of each row among those ``allowed``, bool (B, n). Rows to
        which nothing is allowed may get any."""
        uniform, edges = self.one(), np.cumsum(weights) / np.sum(weights)
        chosen = np.minimum(np.searchsorted(edges, uniform, side="right"), len(weights) - 1)
        if allowed is not None:
            rows = allowed.any(1) & ~allowed.all(1)
            edges = np.cumsum(np.where(allowed[rows], weights, 0.0), 1)
            chosen[rows] = (edges <= uniform[rows, None] * edges[:, -1:]).sum(1)
        return chosen

    def order(self, length: int) -> np.ndarray:
        """(B, length): a uniformly random order of the numbers below ``length``, one per row.

        Random numbers are sorted whose lowest bits are replaced by the position: much faster than ``argsort``.
        """
        position_bits = (length - 1).bit_length()
        keys = self.bits(length) & ((1 << 32) - (1 << position_bits)) | np.arange(length, dtype=np.uint32)
        keys.sort(axis=1)
        return keys & ((1 << position_bits) - 1)


class Part:
    """The generator of a step's whole batch of ``total`` rows, of which rows from ``first_row`` on are computed here.

    A row's numbers depend neither on how many processes share the batch nor on how many rows one computes at once:
    those of all rows are drawn, and the others are passed over.
    """

    def __init__(self, generator: torch.Generator, first_row: int, total: int):
        self.generator, self.first_row, self.total = generator, first_row, total


def of_rows(draw: Callable[[int, Any], torch.Tensor], rows: int, source: torch.Generator | Part | None) -> torch.Tensor:
    """``draw(n, generator)`` gives random numbers (n, ...): those of so many rows, which are the whole batch unless
    ``source`` is a :class:`Part`."""
    if not isinstance(source, Part):
        return draw(rows, source)
    return draw(source.total, source.generator)[source.first_row : source.first_row + rows]


def generator_of(source: torch.Generator | Part | None) -> torch.Generator | None:
    """The generator of what a whole batch has in common."""
    return source.generator if isinstance(source, Part) else source
