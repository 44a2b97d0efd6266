"""Jobs over shards: a job is a picklable dataclass whose unit of work, of retry and of commit is a shard.

A job keeps no state of its own. What is done is what is committed (:mod:`open4m.store.manifest`), so after a crash
of any kind the same job finishes the rest. A shard that was being written when the job died is written anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

BATCH_SAMPLES = 32
"""Samples that are rendered, labelled or tokenized at once."""


class Job(ABC):
    """What a runner, such as :func:`open4m.data.jobs.local.run`, needs to know of a job.

    Subclasses are frozen dataclasses. Their fields say what to do and can be pickled; what a process opens for it, like
    data sets and networks, is a ``functools.cached_property``: every process makes its own, once.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """What the job does, for progress and errors."""

    @abstractmethod
    def shards(self) -> Sequence[int]:
        """The indices of all shards, done or not. Raises :class:`Open4MError` if the job cannot be done at all."""

    @abstractmethod
    def is_done(self, shard: int) -> bool:
        """Whether all of a shard is committed."""

    @abstractmethod
    def run(self, shard: int) -> None:
        """Make and commit a shard, or what is missing of it. Any process may, in any order."""

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without the cached properties


def batches(indices: Sequence[int]) -> list[Sequence[int]]:
    """The indices in runs of at most ``BATCH_SAMPLES``."""
    return [indices[i : i + BATCH_SAMPLES] for i in range(0, len(indices), BATCH_SAMPLES)]
