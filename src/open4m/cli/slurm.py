"""``open4m slurm``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from open4m.cli import overrides, train
from open4m.types import Open4MError


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.usage = "open4m slurm [options] --out job.sh -- CONFIG [words of open4m train]"
    parser.add_argument("words", nargs="+", metavar="CONFIG", help="what follows open4m train; after --")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="0: train on CPUs (default: 8)")
    parser.add_argument("--cpus-per-node", type=int, default=64, metavar="N", help="cores of a machine (default: 64)")
    parser.add_argument("--time", default="24:00:00", help="of one job; the training goes on in the next (24:00:00)")
    parser.add_argument(
        "--grace", type=int, default=600, metavar="SECONDS", help="before the end of a job, to save in (default: 600)"
    )
    parser.add_argument("--name", default="open4m", help="of the job (default: open4m)")
    for name in ("partition", "account"):
        parser.add_argument(f"--{name}", help=f"SLURM's {name}")
    parser.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help='run first, such as "source .venv/bin/activate"'
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the script to write")
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """Write the script, and say how to submit it."""
    from open4m import files
    from open4m.train.slurm import SlurmJob, render

    _check(options.words)
    fields = ("nodes", "gpus_per_node", "cpus_per_node", "time", "grace", "name", "partition", "account")
    job = SlurmJob(
        words=tuple(options.words),
        setup=tuple(options.setup),
        **{name: getattr(options, name) for name in fields},
    )
    files.write_text(options.out, render(job, Path.cwd()))
    print(f"sbatch {options.out}")


def _check(words: list[str]) -> None:
    """Say now what is wrong with the words of ``open4m train``, not after hours in a queue."""
    from open4m import config as configs
    from open4m import configs as named
    from open4m.configs.mine import OwnData

    parser = ArgumentParser(prog="open4m train")
    train.add_arguments(parser, "train")
    options, others = parser.parse_known_args(words)
    if unknown := [word for word in others if not overrides.is_override(word)]:
        raise Open4MError(f"open4m train: unrecognized arguments: {' '.join(unknown)}")
    config = named.get(options.config)
    if not isinstance(config, OwnData):  # whose fields follow from the data
        configs.override(config, [*options.overrides, *others])
