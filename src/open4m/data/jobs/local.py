"""Resumable local jobs: one shard is the unit of work, of retry and of commit.

A job keeps no state of its own. What is done is what is committed (:func:`open4m.store.manifest.committed`), so
after a crash, however rude, the same call finishes the rest. A shard that was being written when the job died is
written anew; its temporary file is removed by the next writer in that folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import NamedTuple

from open4m.types import Open4MError

REPORT_SECONDS = 5.0  # between two lines of progress where there is no terminal

logger = logging.getLogger("open4m")


class JobCounts(NamedTuple):
    """Shards that this call did, and those that were done before."""

    done: int
    skipped: int


def run_shards(
    shards: Sequence[int],
    work: Callable[[int], None],
    *,
    done: Callable[[int], bool],
    processes: int = 1,
    description: str,
) -> JobCounts:
    """Call ``work(shard)`` for every shard that is not ``done(shard)``.

    With ``processes`` above 1, ``work`` runs in that many fresh processes and must be picklable: a function of a
    module, or a ``functools.partial`` of one. The first error ends the job once running shards are finished; what is
    committed stays. Raises :class:`Open4MError` if a worker dies.
    """
    if processes < 1:
        raise Open4MError(f"{description}: expected at least 1 process, got {processes}")
    todo = [shard for shard in dict.fromkeys(shards) if not done(shard)]
    counts = JobCounts(len(todo), len(set(shards)) - len(todo))
    if counts.skipped:
        logger.info("%s: %d of %d shards are already done", description, counts.skipped, sum(counts))
    with _progress(description, len(todo)) as advance:
        if processes == 1 or len(todo) <= 1:
            for shard in todo:
                work(shard)
                advance()
        else:
            _run_pool(todo, work, min(processes, len(todo)), description, advance)
    return counts


def _run_pool(
    todo: Sequence[int], work: Callable[[int], None], processes: int, description: str, advance: Callable[[], None]
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked child would inherit threads and CUDA state
    finished = 0
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(processes,))
    try:
        futures = [pool.submit(work, shard) for shard in todo]
        for future in as_completed(futures):
            future.result()
            finished += 1
            advance()
    except BrokenProcessPool as error:
        raise Open4MError(
            f"{description}: a worker process died after {finished} of {len(todo)} shards (killed, or out of "
            "memory?); what is done is kept: run the same command again to resume, with fewer processes if memory "
            "is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # waits for running shards, drops those not begun


def _start_worker(processes: int) -> None:
    """End this worker when its parent is gone, since an orphan would wait for work forever, and share the cores:
    processes that each use all of them wait for one another at every operation."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // processes))


@contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A function to call after every shard: it moves a bar on a terminal, and logs a line now and then elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)
        return

    finished, reported = 0, time.monotonic()

    def advance() -> None:
        nonlocal finished, reported
        finished += 1
        if finished == total or time.monotonic() - reported >= REPORT_SECONDS:
            reported = time.monotonic()
            logger.info("%s: %d of %d shards", description, finished, total)

    yield advance
