"""Jobs over shards: a job is a picklable dataclass whose unit of work, of retry and of commit is a shard.

A job keeps no state of its own. What is done is what is committed (:mod:`open4m.store.manifest`), so after a crash
of any kind the same job finishes the rest. A shard that was being written when the job died is written anew.

:func:`run` runs a job by one of three executors, which write the same bytes: in this process, in several
(:mod:`open4m.data.jobs.local`), or on a Ray cluster (:mod:`open4m.data.jobs.ray`).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from open4m.data.links import Link
from open4m.data.rejects import DAMAGED, Rejects
from open4m.progress import Progress
from open4m.store.manifest import clean
from open4m.store.shards import DamagedShard
from open4m.types import Preempted

logger = logging.getLogger("open4m")

T = TypeVar("T")

BATCH_SAMPLES = 32
"""Samples that are rendered, labelled or tokenized at once. A batch never crosses a shard, so that a shard's bytes do
not depend on who made the one before."""


class Job(ABC):
    """What an executor needs to know of a job.

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

    @property
    def folders(self) -> Sequence[Path]:
        """The folders in which the job writes shards. :func:`run` clears them of what dead writers left."""
        return ()

    @property
    def links(self) -> Sequence[Link]:
        """What the job makes from what, so that :func:`make` records it for ``open4m data verify``."""
        return ()

    @property
    def rejects(self) -> Rejects | None:
        """Where the job writes down the samples that it leaves out, for the summary at its end; None: it uses all."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without the cached properties


class Executor(ABC):
    """Where the shards of a job are made."""

    @abstractmethod
    def each(self, job: Job, shards: Sequence[int]) -> Iterator[int]:
        """Make shards by :func:`make`, and yield each one when it is done, in any order.

        Closing the iterator ends the work; what is committed stays. Raises the first error of a shard, and
        :class:`Open4MError` if the executor itself cannot go on.
        """


class JobCounts(NamedTuple):
    """Shards that a call did, and those that were done before."""

    done: int
    skipped: int


def run(job: Job, executor: Executor) -> JobCounts:
    """Make a job's shards that are not done, and log a summary of its rejects.

    The first error ends the job; what is committed stays, and the same call does the rest. Raises
    :class:`TooManyRejects` where the shards together have more than the job allows.
    """
    shards = list(dict.fromkeys(job.shards()))
    folders = {*job.folders, *(link.path(0).parent for link in job.links)}
    folders |= {job.rejects.folder} if job.rejects else set()
    for folder in folders:
        clean(folder)
    linked = [link for link in job.links if link.exists]  # stores of earlier versions have none
    todo = [s for s in shards if not (job.is_done(s) and all(link.is_recorded(s) for link in linked))]
    done, skipped = 0, len(shards) - len(todo)
    if skipped:
        logger.info("%s: %d of %d shards are already done", job.description, skipped, len(shards))
    with Progress(job.description, len(todo), unit="shards") as progress:
        began, losses = time.monotonic(), _Losses(job.rejects)
        for shard in set(shards) - set(todo):
            losses.add(shard)
        try:
            with closing(_each(job, executor, todo)) as made:
                for shard in made:
                    done += not losses.add(shard)
                    progress.advance(note=_rate(progress.done + 1, time.monotonic() - began))
        except KeyboardInterrupt:
            raise Preempted(
                f"{job.description}: stopped, {skipped + done} of {len(shards)} shards are done and kept; run the same "
                "command again to go on"
            ) from None
        finally:
            for folder in folders:
                clean(folder)
    for line in job.rejects.summary(shards) if job.rejects else ():
        logger.warning("%s", line)
    return JobCounts(done, skipped)


def make(job: Job, shard: int) -> None:
    """Run a shard, in whichever process, and record its links. If its own data are damaged, all its samples are
    rejects, if the job may lose as many; it stays to be done once they are restored."""
    log, links = job.rejects, job.links
    if log is not None and any(reject.reason == DAMAGED for reject in log.read(shard)):
        log.path(shard).unlink()  # of an earlier attempt
    try:
        for link in links:
            link.prepare(shard)
        if not job.is_done(shard):  # else a job died before it recorded the links
            job.run(shard)
        for link in links:
            link.record(shard)
    except DamagedShard as error:
        if log is None or not log.allowed:
            raise
        rejects = log.of_shard(shard)
        rejects.add(f"shard {shard}", error.modality, DAMAGED, str(error), samples=error.samples)
        rejects.commit()


def batches(samples: Sequence[T]) -> list[Sequence[T]]:
    """Samples, or their indices, in runs of at most ``BATCH_SAMPLES``."""
    return [samples[i : i + BATCH_SAMPLES] for i in range(0, len(samples), BATCH_SAMPLES)]


def _each(job: Job, executor: Executor, todo: Sequence[int]) -> Iterator[int]:
    """What the executor makes, which is not started where there is nothing to do."""
    if todo:
        yield from executor.each(job, todo)


class _Losses:
    """The rejects of all shards so far."""

    def __init__(self, log: Rejects | None) -> None:
        self._log, self._count, self._first = log, 0, None

    def add(self, shard: int) -> bool:
        """Count a shard's rejects, and say whether it was damaged. Raises :class:`TooManyRejects`."""
        if self._log is None:
            return False
        found = self._log.read(shard)
        for reject in found:
            if not reject.by_policy:
                self._first = self._first or reject
                self._count += reject.samples
                self._log.check(self._count, self._first)
        return any(reject.reason == DAMAGED for reject in found)


def _rate(done: int, seconds: float) -> str:
    per_second = done / max(seconds, 1e-9)
    return f"{per_second:.1f} per second" if per_second >= 1 else f"{60 * per_second:.1f} per minute"
