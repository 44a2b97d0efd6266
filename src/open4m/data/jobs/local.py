"""Jobs on this machine: in this process or in several."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from open4m.data.jobs import Job
from open4m.progress import Progress
from open4m.types import Open4MError, Preempted

logger = logging.getLogger("open4m")


class JobCounts(NamedTuple):
    """Shards that this call did, and those that were done before."""

    done: int
    skipped: int


def run(job: Job, processes: int = 1) -> JobCounts:
    """Run a job's shards that are not done.

    With ``processes`` above 1, they run in that many fresh processes. The first error ends the job once running shards
    are finished; what is committed stays. Raises :class:`Open4MError` if a process dies.
    """
    if processes < 1:
        raise Open4MError(f"{job.description}: expected at least 1 process, got {processes}")
    shards = list(dict.fromkeys(job.shards()))
    todo = [shard for shard in shards if not job.is_done(shard)]
    counts = JobCounts(len(todo), len(shards) - len(todo))
    if counts.skipped:
        logger.info("%s: %d of %d shards are already done", job.description, counts.skipped, len(shards))
    with Progress(job.description, len(todo), unit="shards") as progress:
        try:
            if processes == 1 or len(todo) <= 1:
                for shard in todo:
                    job.run(shard)
                    progress.advance()
            else:
                _run_pool(job, todo, min(processes, len(todo)), progress)
        except KeyboardInterrupt:
            raise Preempted(
                f"{job.description}: stopped, {counts.skipped + progress.done} of {len(shards)} shards are done and "
                "kept; run the same command again to go on"
            ) from None
    return counts


def _run_pool(job: Job, todo: list[int], processes: int, progress: Progress) -> None:
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a forked child would inherit threads and CUDA state
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(job, processes))
    try:
        for future in as_completed([pool.submit(_run_shard, shard) for shard in todo]):
            future.result()
            progress.advance()
    except BrokenProcessPool as error:
        raise Open4MError(
            f"{job.description}: a worker process died after {progress.done} of {len(todo)} shards (killed, or out of "
            "memory?); what is done is kept: run the same command again to resume, with fewer processes if memory "
            "is short"
        ) from error
    except KeyboardInterrupt:  # what a process has of its shard is not committed: nothing to wait for
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _share_cores(processes)


def _run_shard(shard: int) -> None:
    _job.run(shard)


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
