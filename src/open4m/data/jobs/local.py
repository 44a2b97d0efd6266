"""Jobs on this machine: in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from open4m.data import jobs
from open4m.data.jobs import Executor, Job, JobCounts, make
from open4m.types import Open4MError


def run(job: Job, processes: int = 1) -> JobCounts:
    """:func:`open4m.data.jobs.run`, in this process or, with ``processes`` above 1, in that many fresh ones."""
    return jobs.run(job, InProcess() if processes == 1 else Processes(processes))


@dataclass(frozen=True)
class InProcess(Executor):
    """One shard after another, in this process."""

    def each(self, job: Job, shards: Sequence[int]) -> Iterator[int]:
        for shard in shards:
            make(job, shard)
            yield shard


@dataclass(frozen=True)
class Processes(Executor):
    """``count`` fresh processes, which share the cores.

    After an error, shards that are being made are finished. Raises :class:`Open4MError` if a process dies.
    """

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise Open4MError(f"expected at least 1 process, got {self.count}")

    def each(self, job: Job, shards: Sequence[int]) -> Iterator[int]:
        before, done = set(multiprocessing.active_children()), 0
        context = multiprocessing.get_context("spawn")  # a forked child would inherit threads and CUDA state
        count = min(self.count, len(shards))
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(job, count))
        try:
            for future in as_completed([pool.submit(_run_shard, shard) for shard in shards]):
                yield future.result()
                done += 1
        except BrokenProcessPool as error:
            raise Open4MError(
                f"{job.description}: a worker process died after {done} of {len(shards)} shards (killed, or out of "
                "memory?); what is done is kept: run the same command again to resume, with fewer processes if memory "
                "is short"
            ) from error
        except (KeyboardInterrupt, GeneratorExit):  # what a process has of its shard is not committed: do not wait
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)  # waits for running shards, drops those not begun


# ---- in a worker process

_job: Job | None = None  # one for all shards of the process, so that it opens its data and networks once


def _start_worker(job: Job, processes: int) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _share_cores(processes)


def _run_shard(shard: int) -> int:
    make(_job, shard)
    return shard


def _end_with_parent() -> None:
    """An orphan would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _share_cores(processes: int) -> None:
    """Processes that each use all cores wait for one another at every operation."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, (int(given) if given.isdigit() else os.cpu_count() or 1) // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for torch, if it is imported later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
