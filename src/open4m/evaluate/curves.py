"""Learning curves: how the validation losses of trainings fell, over steps, samples or hours, as one picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from open4m import files
from open4m.types import Open4MError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS, PRETRAINING = "metrics.jsonl", "4m"
VALIDATION = "validation/"
UNITS = {"hours": 3600.0, "steps": 1.0}
"""What the horizontal axis counts, and by what the recorded numbers are divided for it."""

LARGEST = 1e30
"""Numbers beyond it are not drawn: matplotlib multiplies them, and float64 ends at 1e308."""


@dataclass(frozen=True)
class Curve:
    """One validation metric of a run: its value at each evaluation, in the order of training."""

    run: str
    metric: str  # without "validation/"
    steps: tuple[int, ...]
    hours: tuple[float, ...]
    values: tuple[float, ...]


def read_curves(run: Path, contains: str = "loss") -> list[Curve]:
    """The validation metrics of a training whose name contains a text.

    Lines that a lost machine cut short are left out. Raises :class:`Open4MError` if the run has recorded none.
    """
    found: dict[str, list[tuple[int, float, float]]] = {}
    for entry in entries(run):
        for name, value in entry.items():
            if name.startswith(VALIDATION) and contains in name and isinstance(value, int | float):
                loss = float(value) if is_number(value) else math.nan  # a gap in the line
                point = (int(entry["step"]), entry["seconds"] / UNITS["hours"], loss)
                found.setdefault(name.removeprefix(VALIDATION), []).append(point)
    if not found:
        raise Open4MError(f"{run / METRICS}: records no validation metric with {contains!r} in its name")
    return [Curve(str(run), name, *map(tuple, zip(*points, strict=True))) for name, points in found.items()]


def training_of(run: Path) -> Path:
    """The folder of a training: of a run of several stages, such as ``train mine`` makes, that of its 4M."""
    return run / PRETRAINING if (run / PRETRAINING / METRICS).is_file() and not (run / METRICS).is_file() else run


def entries(run: Path) -> Iterator[dict[str, Any]]:
    """What a training recorded, line by line, each with its ``step`` and ``seconds``; damaged lines are left out.

    Raises :class:`Open4MError` if there is no such record.
    """
    path = training_of(run) / METRICS
    if not path.is_file():
        raise Open4MError(f"{run}: has no {METRICS}; expected the folder of a training, such as runs/scenes/4m")
    for line in files.read_bytes(path).decode(errors="replace").splitlines():
        if entry := _entry(line, path):
            yield entry


def _entry(line: str, path: Path) -> dict[str, Any]:
    try:
        entry = files.parse_json(line, str(path))
    except Open4MError:
        return {}
    return entry if isinstance(entry, dict) and all(is_number(entry.get(k)) for k in ("step", "seconds")) else {}


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be drawn: neither NaN nor far beyond any loss or time."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def draw(curves: Sequence[Curve], unit: str = "hours") -> Image.Image:
    """The curves as a picture: a panel per group of metrics (what stands before the last "/"), a line per metric.

    ``unit``: of the horizontal axis, "hours" or "steps". Raises :class:`Open4MError` without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise Open4MError("drawing curves needs the extra: pip install 'open4m[logging]'") from error
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.metric.rpartition("/")[0] or "all", []).append(curve)
    figure = Figure(figsize=(6.5 * min(3, len(groups)), 4.0 * -(-len(groups) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(groups) // 3), min(3, len(groups)), squeeze=False).flatten()
    names = short_names([curve.run for curve in curves])
    words = list(dict.fromkeys(_last(curve) for curve in curves))
    colors = {word: f"C{number}" for number, word in enumerate(words)}
    for panel, (group, members) in zip(panels, groups.items(), strict=False):
        _panel(panel, group, members, unit, names, colors)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def short_names(runs: Sequence[str]) -> dict[str, str]:
    """What to call runs: as many of the last parts of their paths as tell them apart; nothing if there is only one."""
    parts = {run: Path(run).parts for run in runs}
    if len(parts) < 2:
        return dict.fromkeys(parts, "")
    for count in range(1, max(map(len, parts.values())) + 1):
        names = {run: "/".join(own[-count:]) for run, own in parts.items()}
        if len({*names.values()}) == len(names):
            break
    return names


STYLES = ("-", "--", ":", "-.")
"""Of the lines of one run after another. What a metric is of has one color in all panels, of ten in turn."""


def _last(curve: Curve) -> str:
    """What a metric is of: the word behind the last "/"."""
    return curve.metric.rpartition("/")[2]


def _panel(
    panel: Axes, group: str, members: Sequence[Curve], unit: str, names: Mapping[str, str], colors: Mapping[str, str]
) -> None:
    runs = list(names)
    for curve in members:
        label = _last(curve)
        panel.plot(
            curve.hours if unit == "hours" else curve.steps,
            curve.values,
            STYLES[runs.index(curve.run) % len(STYLES)],
            color=colors[label],
            marker=".",
            linewidth=1,
            label=_plain(f"{names[curve.run]}: {label}" if names[curve.run] else label),
        )
    panel.set_title(_plain(group))
    panel.set_xlabel(f"{unit} of training")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


def _plain(name: str) -> str:
    """A name as matplotlib shows it as it is: without formulas, which stand between dollars."""
    return name.replace("$", r"\$")
