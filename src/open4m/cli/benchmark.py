"""``open4m benchmark transfers``: the transfers by which the paper's ablations compare pre-trainings."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from open4m.cli import device, overrides, trust
from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.transfer.tokens.benchmark import Benchmark
    from open4m.transfer.tokens.config import TokenTransfer, TransferData
    from open4m.transfer.tokens.result import Start


def add_arguments(parser: ArgumentParser, command: str) -> None:
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK")
    _add_transfers(
        commands.add_parser(
            "transfers",
            help="fine-tune each model on each task, token to token, and print the table of losses",
            description="The benchmark of the paper's ablations (section 5, E.1): each model is fine-tuned on each "
            "task, with the tokens of fresh tokenizers, and its best validation loss counts. What is done is kept: the "
            "same command goes on, and a later one with more models or tasks adds to the table.",
        )
    )


def _add_transfers(parser: ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="FIELD=VALUE",
        help="a field of all tasks, such as epochs=10, or of a data set, such as scenes.train=500",
    )
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="[NAME=]MODEL", help="models: directories, or names on the hub"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help='some of them, as --list names them, or patterns such as "scenes-*" (default: the 35 of the paper)',
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="one folder for each data set: coco, ade20k, taskonomy, hypersim"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/transfers"), help="(default: runs/transfers)")
    parser.add_argument("--limit-train", type=int, metavar="N", help="samples of each data set, for a first look")
    parser.add_argument("--limit-validation", type=int, metavar="N")
    parser.add_argument("--no-scratch", action="store_true", help="leave out random weights, the last row of the table")
    parser.add_argument("--keep-best", action="store_true", help="save the model of the best evaluation of each task")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that make data (default: 1)")
    parser.add_argument("--list", action="store_true", help="print the tasks and stop")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and stop")
    device.add_argument(parser)
    device.add_timeout(parser)
    trust.add_argument(parser)
    parser.set_defaults(run=transfers)


def transfers(options: Namespace) -> None:
    """Run the benchmark, with all processes of ``torchrun``, and print the table."""
    from open4m.configs.transfers_tokens import SCENES_TASKS, TASKS

    if options.list:
        for task in (*TASKS, *SCENES_TASKS):
            print(f"{task.name}  ({task.group})")
        return
    with device.together(options):
        _transfers(options)


def _transfers(options: Namespace) -> None:
    from open4m.transfer.tokens.benchmark import Runner

    runner = Runner(_benchmark(options), options.out, device.chosen(options))
    if options.dry_run:
        print("\n".join(runner.plan()))
        return
    print(runner.run().markdown(), end="")
    print(options.out)


def _benchmark(options: Namespace) -> Benchmark:
    from open4m import config as configs
    from open4m.configs.transfers_tokens import DEVIATIONS, SCENES_TASKS, TASKS
    from open4m.transfer.tokens.benchmark import Benchmark, chosen

    _separate(options)
    if not options.model:
        raise Open4MError("--model: name at least one model, such as scenes, a directory, or NAME=MODEL")
    tasks = chosen((*TASKS, *SCENES_TASKS), options.tasks) if options.tasks else TASKS
    data = _data(options, tasks)
    own = [word for word in options.overrides if word.partition(".")[0] not in data]
    if any(not one.world for one in data.values()) and options.data is None:
        raise Open4MError(
            "--data: name the folder with the data sets "
            f"({', '.join(name for name, one in data.items() if not one.world)})"
        )
    return Benchmark(
        transfers=tuple(configs.override(task, own) for task in tasks),
        starts=_starts(options),
        data=configs.override(data, [word for word in options.overrides if word not in own]),
        sources=options.data,
        deviations=DEVIATIONS if all(task in TASKS for task in tasks) else {},
        processes=options.processes,
        keep_best=options.keep_best,
    )


def _separate(options: Namespace) -> None:
    """Give the words behind ``--tasks`` and ``--model`` that are overrides back: argparse takes all of them. A model
    may be named with an equals sign as well, but not by the name of a field."""
    import dataclasses

    from open4m.configs.transfers_tokens import DATA
    from open4m.transfer.tokens.config import TokenTransfer

    fields = {field.name for field in dataclasses.fields(TokenTransfer)}

    def assigns(word: str) -> bool:
        name = word.partition("=")[0]
        return name in fields or (overrides.is_override(word) and name.partition(".")[0] in DATA and "." in name)

    for name, is_other in (("tasks", overrides.is_override), ("model", assigns)):
        words = getattr(options, name)
        options.overrides += [word for word in words if is_other(word)]
        setattr(options, name, [word for word in words if not is_other(word)])


def _data(options: Namespace, tasks: tuple[TokenTransfer, ...]) -> dict[str, TransferData]:
    """The data sets of these tasks, with limits."""
    import dataclasses

    from open4m.configs.transfers_tokens import DATA

    limits = {"train": options.limit_train, "validation": options.limit_validation}
    if wrong := next((name for name, limit in limits.items() if limit is not None and limit < 1), None):
        raise Open4MError(f"--limit-{wrong}: expected a number of samples from 1, got {limits[wrong]}")
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return {name: dataclasses.replace(DATA[name](), **known) for name in {task.data: None for task in tasks}}


def _starts(options: Namespace) -> tuple[Start, ...]:
    """The models by their names, and random weights of the first one's architecture."""
    from open4m.transfer.tokens.recipe import start_of

    found = []
    for word in options.model:
        name, equals, model = word.partition("=")
        if not equals:
            name, model = _name_of(word), word
        if not re.fullmatch(r"\w[\w .@-]*", name):
            raise Open4MError(f"--model: {name!r} names a folder and a row: letters, digits, blanks, '.', '-' and '@'")
        trust.admit(options, model)
        found.append(start_of(name, model))
    if not options.no_scratch:
        found.append(start_of(SCRATCH, found[0].model, pretrained=False))
    return tuple(found)


SCRATCH = "no pre-training"
"""What the paper calls random weights (Table 15)."""


def _name_of(model: str) -> str:
    """What a model is called: its folder, or that of the run whose model it is."""
    parts = [part for part in Path(model).parts if part not in ("/", ".", "..")]
    while len(parts) > 1 and parts[-1] == "model":
        parts.pop()
    return parts[-1] if parts else model
