"""Results of an evaluation: as JSON, and as the table in the README."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open4m import config as configs
from open4m import files
from open4m.evaluate.intervals import Figures, Interval
from open4m.types import Open4MError

FORMAT = 3
"""The version of the JSON of a result. Older ones are read: 2 does not say its data; 1 neither that nor intervals nor
its version."""

ARROWS = {"higher": "↑", "lower": "↓"}
COLUMNS = ("model", "upper_bound", "trivial")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one task: of the model, of the tokenizer's own reconstruction, and of a trivial predictor.

    ``intervals``: the 95% intervals of these three, by the names of :data:`COLUMNS`, as far as there are any.
    """

    task: str  # "rgb → depth"
    metric: str
    better: str  # "higher" or "lower"
    model: float
    upper_bound: float
    trivial: float
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The model's figure as a multiple of the upper bound; None if that is not above 0."""
        return self.model / self.upper_bound if self.upper_bound > 0 else None

    @property
    def gap_closed(self) -> float | None:
        """The model's share of the way from the trivial predictor (0) to the upper bound (1).

        Negative if the model is worse than trivial; None if the upper bound is not better than trivial.
        """
        sign = 1 if self.better == "higher" else -1
        way = sign * (self.upper_bound - self.trivial)
        return sign * (self.model - self.trivial) / way if way > 0 else None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The rows of an evaluation on ``samples`` test samples, generated with ``seed`` and ``options``.

    ``data``: what the samples are of. ``reader``: how well the reader of objects, which judges images, does on the true
    ones; nothing without a reader.
    """

    samples: int
    seed: int
    options: dict[str, Any]
    rows: tuple[Row, ...]
    reader: Figures = Figures({})
    data: str = ""

    def to_json(self) -> str:
        """``{"format": 3, "samples": ..., "rows": [{"task": ..., ..., "gap_closed": ..., "ratio": ...}, ...]}``.

        Measurements that are not finite are null, and so are ``gap_closed`` and ``ratio`` where there is none.
        """
        rows = [{**dataclasses.asdict(row), **{name: getattr(row, name) for name in DERIVED}} for row in self.rows]
        finite = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in rows]
        about = {"samples": self.samples, "seed": self.seed, "options": self.options, "data": self.data}
        values = {configs.FORMAT: FORMAT, **about, "reader": dataclasses.asdict(self.reader), "rows": finite}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Result:
        """The result that :meth:`to_json` wrote, in this version or an older one; null measurements are read as NaN.

        Raises :class:`Open4MError` for other JSON, and for a newer format.
        """
        try:
            values = files.parse_json(text, "evaluation")
            rows = [
                {k: math.nan if v is None else v for k, v in row.items() if k not in DERIVED} for row in values["rows"]
            ]
            version = values.pop(configs.FORMAT, 1)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Open4MError(f"not the JSON of an evaluation ({error!r})") from error
        if type(version) is not int or not 1 <= version <= FORMAT:
            raise Open4MError(
                f"the JSON of an evaluation has format {version!r}, this open4m reads formats 1 to {FORMAT}: "
                "update open4m"
            )
        return configs.from_dict(Result, {**values, "rows": rows}, "result")


DERIVED = ("gap_closed", "ratio")
"""What the JSON says of a row besides its fields."""


def rows_of(
    path: Sequence[str], better: Mapping[str, str], model: Figures, upper_bound: Figures, trivial: Figures
) -> list[Row]:
    """One row per metric in ``better``, for one task, from the figures of the three predictors."""
    columns = dict(zip(COLUMNS, (model, upper_bound, trivial), strict=True))
    return [
        Row(
            task=" → ".join(path),
            metric=name,
            better=direction,
            **{column: figures.values[name] for column, figures in columns.items()},
            intervals={c: figures.intervals[name] for c, figures in columns.items() if name in figures.intervals},
        )
        for name, direction in better.items()
    ]


def table(result: Result) -> str:
    """A Markdown table with one line per metric; ± is half of the 95% interval.

    The last columns: the model's figure as a multiple of the tokenizer's, and its share of the way from the trivial
    predictor (0 %) to the tokenizer (100 %).
    """
    lines = [
        "| task | metric | trivial | model | tokenizer (upper bound) | model ÷ tokenizer | gap closed |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in result.rows:
        gap = "–" if row.gap_closed is None or math.isnan(row.gap_closed) else f"{round(100 * row.gap_closed)} %"
        ratio = "–" if row.ratio is None or math.isnan(row.ratio) else f"{row.ratio:.2f}"
        name = f"{row.metric.replace('_', ' ')} {ARROWS[row.better]}"
        numbers = " | ".join(
            estimate(getattr(row, column), row.intervals.get(column)) for column in ("trivial", "model", "upper_bound")
        )
        lines.append(f"| {row.task} | {name} | {numbers} | {ratio} | {gap} |")
    return "\n".join(lines)


def estimate(value: float, interval: Interval | None) -> str:
    """A value with half of its interval, both with the decimals of the value: ``0.114 ± 0.006``."""
    if interval is None or not math.isfinite(value):
        return rounded(value)
    return f"{rounded(value)} ± {(interval[1] - interval[0]) / 2:.{_decimals(value)}f}"


def update_readme(path: Path, text: str, marker: str = "results") -> None:
    """Replace the lines between ``<!-- marker -->`` and ``<!-- /marker -->`` in a file by ``text``.

    Raises :class:`Open4MError` if the file does not have this pair of markers exactly once.
    """
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    old = path.read_text(encoding="utf-8")
    if (old.count(opening), old.count(closing)) != (1, 1) or old.index(opening) > old.index(closing):
        raise Open4MError(f"{path}: expected {opening} once and {closing} once after it; add these two lines")
    between = re.compile(re.escape(opening) + ".*?" + re.escape(closing), re.DOTALL)
    new = between.sub(lambda _: f"{opening}\n{text.strip()}\n{closing}", old)
    files.write_text(path, new)


def rounded(value: float) -> str:
    """Three decimals below 10, one below 1000."""
    return f"{value:.{_decimals(value)}f}" if math.isfinite(value) else "–"


def _decimals(value: float) -> int:
    return 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
