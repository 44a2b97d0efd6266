"""Results of an evaluation: as JSON, and as the table in the README."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4m import config as configs
from open4m import files
from open4m.types import Open4MError

ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric of one task: of the model, of the tokenizer's own reconstruction, and of a trivial predictor."""

    task: str  # "rgb → depth"
    metric: str
    better: str  # "higher" or "lower"
    model: float
    upper_bound: float
    trivial: float

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
    """The rows of an evaluation on ``samples`` test samples, generated with ``seed`` and ``options``."""

    samples: int
    seed: int
    options: dict[str, Any]
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """``{"samples": ..., "rows": [{"task": ..., "metric": ..., ..., "gap_closed": ...}, ...]}``.

        Measurements that are not finite are null, and so is ``gap_closed`` where there is no gap.
        """
        rows = [{**dataclasses.asdict(row), "gap_closed": row.gap_closed} for row in self.rows]
        finite = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()} for r in rows]
        values = {"samples": self.samples, "seed": self.seed, "options": self.options, "rows": finite}
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str) -> Result:
        """The result that :meth:`to_json` wrote; null measurements are read as NaN."""
        try:
            values = files.parse_json(text, "evaluation")
            rows = [
                {k: math.nan if v is None else v for k, v in row.items() if k != "gap_closed"} for row in values["rows"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Open4MError(f"not the JSON of an evaluation ({error!r})") from error
        return configs.from_dict(Result, {**values, "rows": rows}, "result")


def rows_of(
    path: Sequence[str],
    better: Mapping[str, str],
    model: Mapping[str, float],
    upper_bound: Mapping[str, float],
    trivial: Mapping[str, float],
) -> list[Row]:
    """One row per metric in ``better``, for one task, from the metrics of the three predictors."""
    return [
        Row(
            task=" → ".join(path),
            metric=name,
            better=direction,
            model=model[name],
            upper_bound=upper_bound[name],
            trivial=trivial[name],
        )
        for name, direction in better.items()
    ]


def table(result: Result) -> str:
    """A Markdown table with one line per metric; the gap runs from the trivial predictor (0 %) to the bound (100 %)."""
    lines = [
        "| task | metric | trivial | model | tokenizer (upper bound) | gap closed |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in result.rows:
        gap = "–" if row.gap_closed is None or math.isnan(row.gap_closed) else f"{round(100 * row.gap_closed)} %"
        name = f"{row.metric.replace('_', ' ')} {ARROWS[row.better]}"
        numbers = " | ".join(map(rounded, (row.trivial, row.model, row.upper_bound)))
        lines.append(f"| {row.task} | {name} | {numbers} | {gap} |")
    return "\n".join(lines)


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
    if not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
