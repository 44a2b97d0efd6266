"""The options of the commands that run jobs over shards: where shards are made, and how many samples may be lost."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.data.jobs import Executor


def add_arguments(parser: ArgumentParser, rejects: float = 0.0) -> None:
    """Add ``--executor`` and what belongs to it, and ``--allow-rejects``, which the command gives to its job.

    ``rejects``: its default.
    """
    group = parser.add_argument_group("where it runs", "Every executor writes the same bytes; any resumes any other's.")
    group.add_argument(
        "--executor",
        choices=("local", "process", "ray"),
        help="this process, several of this machine, or actors of a Ray cluster (default: local, or process with "
        "--processes)",
    )
    group.add_argument("--processes", type=int, metavar="N", help="processes, or Ray actors (default: 1)")
    group.add_argument("--address", help="of a Ray cluster, such as auto or ray://HEAD:10001 (default: start one here)")
    group.add_argument("--gpus", type=float, metavar="G", help="of each Ray actor, such as 1 or 0.5 (default: 0)")
    group.add_argument("--cpus", type=float, metavar="C", help="of each Ray actor (default: 1)")
    parser.add_argument(
        "--allow-rejects",
        type=float,
        default=rejects,
        metavar="SHARE",
        help=f"the share of all samples that may be unusable, such as 0.01, before the job ends (default: {rejects:g})",
    )


def chosen(options: Namespace) -> Executor:
    """The executor that the user chose. Raises :class:`Open4MError` for options that it does not have."""
    from open4m.data.jobs.local import InProcess, Processes
    from open4m.data.jobs.ray import RayData

    count = 1 if options.processes is None else options.processes
    kind = options.executor or ("local" if count == 1 else "process")
    of_ray = {name: getattr(options, name) for name in ("address", "gpus", "cpus")}
    given = {name: value for name, value in of_ray.items() if value is not None}
    if kind == "ray":
        return RayData(count, **given)
    if given:
        raise Open4MError(f"--{next(iter(given))} is an option of --executor ray, got --executor {kind}")
    if kind == "process":
        return Processes(count)
    if count != 1:
        raise Open4MError(f"--executor local is one process, got --processes {count}: use --executor process")
    return InProcess()
