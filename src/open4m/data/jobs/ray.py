"""Jobs on a Ray cluster, with Ray Data: a pool of actors, each of which keeps its data and networks open.

A shard is one item of work. An actor that dies is started again, and its shard with it; a driver that dies takes its
actors along. Nodes see the same files as the driver, under the same names, and have the same open4m.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from open4m.data.jobs import Executor, Job, make
from open4m.types import Open4MError

ATTEMPTS = 3
"""How many actors may die over one shard before the job ends: Ray by itself would start them without end."""

STARTS = 3
"""How often the start of a cluster on this machine is tried. Ray gives its services 15 seconds, too few for a machine
that is busy; what was read from disk once is there sooner the next time."""

SPARE_CPUS = 4
"""Logical CPUs of a cluster that is started here, beyond those of its actors: without some, an actor that is started
again waits for the one that died."""

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The variable that, set to 0 before Ray is imported, binds a cluster of this machine to 127.0.0.1. (What
``ray.init`` is told instead, Ray replaces by the address of the network.)"""


@dataclass(frozen=True)
class RayData(Executor):
    """``workers`` actors, each with ``cpus`` and ``gpus`` (which may be fractions), as soon as the cluster has them.

    ``address``: that of a cluster, such as ``"auto"`` or ``"ray://head:10001"``. By default it is the one that this
    process is connected to, or that ``RAY_ADDRESS`` names; without any, a cluster is started on this machine and
    stopped at the end.

    Raises :class:`Open4MError` without the extra ``ray``, if there is no such cluster, if none of its nodes has what an
    actor needs, and if actors die again and again.
    """

    workers: int = 1
    address: str | None = None
    gpus: float = 0.0
    cpus: float = 1.0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gpus < 0 or self.cpus < 0:
            raise Open4MError(
                "ray: expected at least 1 worker, and no negative number of GPUs or CPUs per worker, got "
                f"{self.workers}, {self.gpus} and {self.cpus}"
            )

    def each(self, job: Job, shards: Sequence[int]) -> Iterator[int]:
        address = self.address or os.environ.get("RAY_ADDRESS")
        ray = _library(address)
        with self._cluster(ray, address):
            self._check_nodes(ray)
            attempts = ray.remote(num_cpus=0, max_restarts=-1)(_Attempts).remote()
            made = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map(
                _Worker,
                fn_constructor_args=(ray.cloudpickle.dumps(job), os.getcwd(), sys.path, attempts),
                # One task at a time, so that no shard waits for a slow one while another actor is idle.
                compute=ray.data.ActorPoolStrategy(
                    size=min(self.workers, len(shards)), max_tasks_in_flight_per_actor=1
                ),
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            )
            try:
                for row in made.iter_rows():
                    if row["error"]:
                        raise (Open4MError if row["is_users"] else RuntimeError)(row["error"])
                    yield row["shard"]
            except ray.exceptions.RayError as error:
                raise Open4MError(
                    f"{job.description}: ray: {_last_line(error)}; what is done is kept: run the same command again to "
                    "resume"
                ) from error

    @contextmanager
    def _cluster(self, ray: ModuleType, address: str | None) -> Iterator[None]:
        """Be connected to a cluster."""
        if ray.is_initialized():
            yield
            return
        if address is None:
            start(max(os.cpu_count() or 1, math.ceil(self.workers * self.cpus) + SPARE_CPUS))
        else:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises anything, Exception itself too
                raise Open4MError(f"ray: no cluster at {address} ({_last_line(error)})") from error
        try:
            yield
        finally:
            ray.shutdown()

    def _check_nodes(self, ray: ModuleType) -> None:
        """An actor that no node can hold would be waited for without end."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            largest = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
            raise Open4MError(
                f"ray: each worker needs {self.cpus:g} CPUs and {self.gpus:g} GPUs of one node; the nodes of the "
                f"cluster have up to {largest['CPU']:g} and {largest['GPU']:g}"
            )


def start(cpus: int) -> None:
    """Start a cluster on this machine, and connect to it. ``ray.shutdown()`` ends it, and so does the end of the
    process."""
    ray = _library(None)
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises anything, Exception itself too
            ray.shutdown()
            if attempt == STARTS:
                raise Open4MError(f"ray: cannot start a cluster on this machine ({_last_line(error)})") from error
        else:
            return


class _Attempts:
    """Counts how often each shard was begun, in an actor of its own, since workers forget it when they die."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        self._begun[shard] += 1
        return self._begun[shard]


class _Worker:
    """What an actor holds: its own instance of the job. Errors are results, since Ray ends all work at the first."""

    def __init__(self, job: bytes, folder: str, modules: Sequence[str], attempts: Any) -> None:
        os.chdir(folder)  # that of the driver: paths may be relative
        sys.path += [path for path in modules if path not in sys.path]  # before the job's class is looked for
        self._job: Job = pickle.loads(job)
        self._attempts = attempts

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        shard, error, is_users = int(row["shard"]), "", True
        try:
            if ray.get(self._attempts.begin.remote(shard)) > ATTEMPTS:
                raise Open4MError(
                    f"{self._job.description}: shard {shard}: its worker died {ATTEMPTS} times (killed, or out of "
                    "memory?); what is done is kept: run the same command again to resume, with fewer workers if "
                    "memory is short"
                )
            make(self._job, shard)
        except Open4MError as found:
            error = str(found)
        except Exception:
            error, is_users = traceback.format_exc(), False
        return {"shard": shard, "error": error, "is_users": is_users}


def _library(address: str | None) -> ModuleType:
    if address is None:
        os.environ.setdefault(LOOPBACK, "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise Open4MError("--executor ray needs the extra: pip install 'open4m[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # what it reports, our progress does
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return ray


def _last_line(error: Exception) -> str:
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
