"""The trainings below a folder: what each is, how far it is, how well it does; and what differs between some."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from open4m import config as configs
from open4m.evaluate.curves import METRICS, UNITS, entries, is_number, training_of
from open4m.train.config import FORMAT, RUN, TrainConfig
from open4m.train.log import is_running
from open4m.types import Open4MError
from open4m.weights import WEIGHTS

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["running", "stopped", "finished", "damaged"]

INNER = ("checkpoints", "pictures", "tensorboard", "wandb", "model", "raw", "large", "tokens")
"""Folders of a run, or beside one, that hold no runs."""

MIN_WIDTH = 10
"""Characters of a line of a run's name on a narrow terminal."""

LARGEST_HEADER = 1 << 26
"""Bytes of the largest header of a weights file that is read."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training, as its folder tells it; None is what the folder does not tell.

    ``name``: the folder, relative to where the search began. ``loss``: the latest one of training. ``validation``: the
    mean of the latest validation losses. ``disk``: bytes of the whole folder.
    """

    name: str
    task: str
    state: State
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    validation: float | None = None
    hours: float | None = None
    samples_per_second: float | None = None
    parameters: int | None = None
    disk: int = 0


def find(root: Path) -> list[Run]:
    """The trainings in ``root`` and below it, by name. Folders that are none, or cannot be read, are passed over; a
    training whose description is damaged is listed as such. Raises :class:`Open4MError` if there is no such folder."""
    if not root.is_dir():
        raise Open4MError(f"{root}: no such folder; expected one that holds trainings, such as runs")
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if name not in INNER and not name.startswith("."))
        if RUN in names and (run := read(Path(folder), _name(Path(folder), root))) is not None:
            found.append(run)
    return found


def read(folder: Path, name: str | None = None) -> Run | None:
    """What a folder tells of its training; None for a folder that holds none, such as a model's."""
    name = name or str(folder)
    has_metrics = (folder / METRICS).is_file()
    try:
        held = _described(folder)
    except (Open4MError, OSError):
        return Run(name=name, task="?", state="damaged", disk=_disk(folder)) if has_metrics else None
    latest = last_metrics(folder)
    losses = [v for k, v in latest.items() if k.startswith("validation/") and k.endswith("/loss")]
    return Run(
        name=name,
        task=_task(held.get("task")),
        state="finished" if (folder / "model").is_dir() else "running" if is_running(folder) else "stopped",
        step=_whole(latest.get("step")),
        steps=_steps(held["train"]),
        loss=latest.get("loss"),
        validation=sum(losses) / len(losses) if losses else None,
        hours=latest["seconds"] / UNITS["hours"] if "seconds" in latest else None,
        samples_per_second=latest.get("samples_per_second"),
        parameters=_parameters(folder),
        disk=_disk(folder),
    )


def last_metrics(folder: Path) -> dict[str, float]:
    """The latest value of every metric of a run; nothing where it has recorded none that can be read."""
    latest: dict[str, float] = {}
    try:
        for entry in entries(folder):
            latest.update({name: value for name, value in entry.items() if is_number(value)})
    except (Open4MError, OSError):
        return latest
    return latest


def differences(one: Path, other: Path) -> list[tuple[str, str, str]]:
    """(field, value in one, value in the other) of the configurations of two trainings, where they differ.

    Raises :class:`Open4MError` for a folder that holds no training.
    """
    sides = [_flat(_described(folder)) for folder in (one, other)]
    rows = [(name, *(side.get(name, "-") for side in sides)) for name in dict.fromkeys([*sides[0], *sides[1]])]
    return [row for row in rows if row[1] != row[2]]


def _described(folder: Path) -> dict[str, Any]:
    folder = training_of(folder)
    if not (folder / RUN).is_file():
        raise Open4MError(f"{folder}: has no {RUN}; expected the folder of a training, such as runs/scenes/4m")
    held = configs.load(dict[str, Any], folder / RUN, FORMAT)
    if not isinstance(held.get("train"), dict):
        raise Open4MError(f"{folder / RUN}: not the description of a training; name its folder, such as runs/scenes/4m")
    return held


def table(runs: Sequence[Run]) -> Table:
    """Runs as a table, a row each."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for name in ("run", "task", "state"):
        drawn.add_column(name, overflow="fold", min_width=MIN_WIDTH)
    for name in ("step", "loss", "validation", "hours", "samples/s", "parameters", "disk"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        steps = "" if run.step is None else f"{run.step:,}" + ("" if run.steps is None else f" of {run.steps:,}")
        numbers = (
            *(_number(value, "{:.4g}") for value in (run.loss, run.validation)),
            _number(run.hours, "{:.2f}"),
            _number(run.samples_per_second, "{:.3g}"),
            _number(run.parameters and run.parameters / 1e6, "{:.1f}M"),
            _number(run.disk / 1e6, "{:,.0f} MB"),
        )
        drawn.add_row(run.name, run.task, run.state, steps, *numbers)
    return drawn


def comparison(folders: Sequence[Path]) -> list[Table]:
    """The fields in which each further training differs from the first, and the latest metrics of all, side by side.

    Raises :class:`Open4MError` for fewer than two folders, and for one that holds no training.
    """
    from rich.table import Table

    if len(folders) < 2:
        raise Open4MError("a comparison needs at least two trainings: open4m runs compare runs/a runs/b")
    first, *others = folders
    tables = []
    for other in others:
        fields = Table("field", str(first), str(other), box=None, pad_edge=False, title="differing fields")
        for row in differences(first, other):
            fields.add_row(*row)
        tables.append(fields)
    latest = [last_metrics(folder) for folder in folders]
    metrics = Table("metric", box=None, pad_edge=False, title="latest metrics")
    for folder in folders:
        metrics.add_column(str(folder), justify="right")
    for name in dict.fromkeys(name for side in latest for name in side):
        metrics.add_row(name, *(_number(side.get(name), "{:.5g}") for side in latest))
    return [*tables, metrics]


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


def _name(folder: Path, root: Path) -> str:
    return str(root) if folder == root else folder.relative_to(root).as_posix()


def _task(held: Any) -> str:
    """What is trained: the description of each task has fields of its own."""
    held = held if isinstance(held, dict) else {}
    if isinstance(held.get("model"), dict):
        return "4M"
    if isinstance(modality := held.get("modality"), str):
        return f"tokenizer {modality}"
    return "?"


def _steps(train: dict[str, Any]) -> int | None:
    """Of the whole run; None where the description is of another version."""
    try:
        return configs.from_dict(TrainConfig, train, RUN).steps
    except Open4MError:
        return None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _flat(values: Any, where: str = "") -> dict[str, str]:
    """The values of nested mappings and lists as texts, by their places."""
    if isinstance(values, dict) and values:
        items = values.items()
    elif isinstance(values, list) and any(isinstance(value, dict | list) for value in values):
        items = ((_called(value, i), value) for i, value in enumerate(values))
    else:
        return {where: values if isinstance(values, str) else json.dumps(values)}
    flat: dict[str, str] = {}
    for key, value in items:
        flat |= _flat(value, f"{where}.{key}" if where else str(key))
    return flat


def _called(part: Any, place: int) -> str:
    """What a part of a list is called: by its own name or key, else by its place."""
    name = (part.get("name") or part.get("key")) if isinstance(part, dict) else None
    return str(name or place)


def _parameters(folder: Path) -> int | None:
    """The number of weights in the file of the model or of the newest checkpoint, whose header is read and no more."""
    places = [folder / "model", *sorted((folder / "checkpoints").glob("step-*"), reverse=True)]
    for path in (place / WEIGHTS for place in places):
        try:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(size, LARGEST_HEADER)))
            shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
            return sum(math.prod(map(int, shape)) for shape in shapes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return None


def _disk(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue
    return total
