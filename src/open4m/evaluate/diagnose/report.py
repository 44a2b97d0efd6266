"""A diagnosis at rest and for people: JSON, tables for the terminal, and one picture of bars."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from open4m import files
from open4m.evaluate.diagnose.verdicts import Check
from open4m.fonts import lettered
from open4m.pictures import save, stack

FORMAT = 1
"""The version of the format of ``diagnose.json``."""

COLORS = {"good": (44, 140, 80), "weak": (214, 140, 20), "wrong": (196, 40, 40), "skipped": (150, 150, 150)}
STYLES = {"good": "green", "weak": "yellow", "wrong": "bold red", "skipped": "dim"}
INK = (30, 30, 40)

MATRICES = {
    "shuffled": "positions shuffled in the encoder",
    "swapped": "another sample's input",
    "blanked": "input left out",
}
"""The rises of the loss that are shown for every direction."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One direction: losses in nats per token, the last three as rises."""

    source: str
    target: str
    loss: float
    accuracy: float
    shuffled: float
    blanked: float
    swapped: float
    shuffled_error: float
    blanked_error: float
    swapped_error: float


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong with a model, and by which numbers."""

    model: str
    data: str
    test_samples: int
    train_samples: int
    seed: int
    directions: tuple[Measured, ...]
    checks: tuple[Check, ...]

    @property
    def wrong(self) -> tuple[Check, ...]:
        """The checks outside of their range, the worse ones first."""
        return tuple(c for status in ("wrong", "weak") for c in self.checks if c.status == status)

    def to_json(self) -> str:
        """Numbers that are not finite are null."""
        return json.dumps({"format": FORMAT, **_finite(dataclasses.asdict(self))}, indent=1, ensure_ascii=False) + "\n"

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write ``diagnose.json`` and ``diagnose.png``; returns both paths."""
        files.make_folder(folder)
        numbers, drawing = folder / "diagnose.json", folder / "diagnose.png"
        files.write_text(numbers, self.to_json())
        save(self.picture(), drawing)
        return numbers, drawing

    def tables(self) -> RenderableType:
        """The rises of the loss by direction, all checks, and what is wrong."""
        parts: list[RenderableType] = [_matrix(self.directions, name, title) for name, title in MATRICES.items()]
        table = Table(title="checks", title_justify="left")
        for column in ("check", "of", "measured", "expected"):
            table.add_column(column, justify="right" if column == "measured" else "left", no_wrap=column == "measured")
        table.add_column("result", no_wrap=True)
        for check in self.checks:
            number = "" if check.measured is None else _number(check.measured)
            if check.error is not None:
                number += f" ± {_number(check.error)}"
            result = Text(check.status, style=STYLES[check.status])  # a whole verdict does not fit beside the rest
            table.add_row(check.name, check.subject, number, expected(check), result)
        return Group(*parts, table, self._summary())

    def _summary(self) -> Text:
        """The verdicts of what is wrong, weak or skipped."""
        lines = [] if self.wrong else [Text("Nothing is outside of its range.", style="green")]
        for check in self.wrong:
            lines.append(Text(f"{check.status.upper():5}  {check.verdict}", style=STYLES[check.status]))
        for check in (c for c in self.checks if c.status == "skipped"):
            lines.append(Text(f"{check.name}, {check.subject}: {check.verdict}", style=STYLES[check.status]))
        return Text("\n").join(lines)

    def picture(self) -> Image.Image:
        """Bars of all measured checks, the expected range as a gray band behind each."""
        names = dict.fromkeys(check.name for check in self.checks if _is_drawn(check))
        panels = [_bars(name, [c for c in self.checks if c.name == name and _is_drawn(c)]) for name in names]
        return stack(panels) if panels else Image.new("RGB", (1, 1), "white")


def expected(check: Check) -> str:
    """The range in which a number should be."""
    if check.low is None and check.high is None:
        return ""
    if check.high is None:
        return f"≥ {_number(check.low)}"
    return f"≤ {_number(check.high)}" if check.low is None else f"{_number(check.low)} to {_number(check.high)}"


def _matrix(directions: Sequence[Measured], name: str, title: str) -> Table:
    """A row per input, a column per target: the rise of the loss in nats."""
    targets = list(dict.fromkeys(d.target for d in directions))
    values = {(d.source, d.target): getattr(d, name) for d in directions}
    table = Table(title=f"{title}: rise of the loss, nats per token", title_justify="left")
    table.add_column("input")
    for target in targets:
        table.add_column(target, justify="right")
    for source in dict.fromkeys(d.source for d in directions):
        cells = [_number(values[source, t]) if (source, t) in values else "" for t in targets]
        table.add_row(source, *cells)
    return table


def _is_drawn(check: Check) -> bool:
    return check.measured is not None and math.isfinite(check.measured)


def _bars(title: str, checks: Sequence[Check], width: int = 900, line: int = 22) -> Image.Image:
    """A horizontal bar per check, on a scale of its own panel that starts at 0 or below."""
    left, right, top = 250, 190, 34
    sheet = Image.new("RGB", (width, top + line * len(checks) + 12), "white")
    draw = ImageDraw.Draw(sheet)
    text, font = lettered(title, 16)
    draw.text((12, top // 2), text, fill=INK, font=font, anchor="lm")
    ends = [end for c in checks for end in (c.measured, c.low, c.high) if end is not None and math.isfinite(end)]
    low, high = min(0.0, *ends), max(1e-9, *ends)

    def x(value: float) -> int:
        return left + round((value - low) / (high - low) * (width - left - right))

    for i, check in enumerate(checks):
        y = top + i * line
        band = (x(low if check.low is None else check.low), x(high if check.high is None else check.high))
        draw.rectangle((band[0], y + 1, max(band), y + line - 3), fill=(232, 236, 232))
        begin, end = sorted((x(0.0), x(check.measured)))
        draw.rectangle((begin, y + 5, end + 1, y + line - 7), fill=COLORS[check.status])
        text, font = lettered(check.subject, 13)
        draw.text((left - 8, y + line // 2), text, fill=INK, font=font, anchor="rm")
        text, font = lettered(f"{_number(check.measured)}   ({expected(check)})", 13)
        draw.text((width - right + 10, y + line // 2), text, fill=INK, font=font, anchor="lm")
    return sheet


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _finite(value):
    """The same JSON values, NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
