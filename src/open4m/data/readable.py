"""Samples of raw data for a training, some of which may be damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sized
from itertools import chain
from typing import TypeVar

from open4m.store.shards import UnreadableSample

logger = logging.getLogger("open4m")

T = TypeVar("T")


class Readable:
    """The samples of ``data``, where another sample takes the place of one that cannot be used: the next one that can,
    so that every process makes the same batches. Each process reports and counts those that it meets itself.
    ``allowed``: the share of all samples that may be so."""

    def __init__(self, data: Sized, allowed: float = 0.0):
        self.data, self.allowed = data, allowed
        self._lost: set[int] = set()

    def __len__(self) -> int:
        return len(self.data)

    def use(self, i: int, make: Callable[[int], T]) -> T:
        """What ``make`` makes of sample ``i``, or of the one in its place.

        Raises :class:`~open4m.store.shards.UnreadableSample`, which names the sample, once more than are allowed
        cannot be used.
        """
        for place in chain(range(i, len(self)), range(i)):
            try:
                return make(place)
            except UnreadableSample as error:
                self._note(place, error)
        raise UnreadableSample(f"none of {len(self)} samples can be used")

    def _note(self, place: int, error: UnreadableSample) -> None:
        is_new = place not in self._lost
        self._lost.add(place)
        count = f"{len(self._lost)} of {len(self)} samples"
        if len(self._lost) > self.allowed * len(self):
            if self.allowed == 0:
                raise error
            raise UnreadableSample(f"{error}; {count} cannot be used, more than the share {self.allowed:g}") from error
        if is_new:
            logger.warning("%s; another one takes its place (%s so far)", error, count)
