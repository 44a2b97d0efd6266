"""The benchmark's table: the mean losses of groups of transfers by model, their average, and the average rank (Tables
15 and 16)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from open4m.config import to_dict
from open4m.transfer.tokens.config import TokenTransfer
from open4m.transfer.tokens.result import Start, TransferResult

AVERAGE, RANK = "average loss", "average rank"

Results = Mapping[str, Mapping[str, TransferResult]]
"""By the name of a start, and that of a transfer; only those that are done."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Of a model: its mean loss in each group of which all transfers are done, and what follows where all groups have
    one. ``bold``: the groups, and :data:`AVERAGE`, in which it is within two deviations of the best model."""

    name: str
    losses: dict[str, float]
    average: float | None = None
    rank: float | None = None
    bold: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """``losses``: the best loss of each transfer by its name and that of the model. ``deviations``: those of the
    reference by which results count as equal, by group and :data:`AVERAGE`; where there is none, the best alone is
    bold."""

    groups: tuple[str, ...]
    rows: tuple[Row, ...]
    losses: dict[str, dict[str, float]]
    deviations: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(to_dict(self), indent=1) + "\n"

    def markdown(self) -> str:
        """The table of groups, then that of all transfers."""
        columns = [*self.groups, AVERAGE]
        lines = [f"| model | {' | '.join([*columns, RANK])} |", f"|---|{'--:|' * (len(columns) + 1)}"]
        for row in self.rows:
            values = {**row.losses, **({} if row.average is None else {AVERAGE: row.average})}
            cells = [_cell(values.get(name), name in row.bold) for name in columns]
            lines.append(f"| {row.name} | {' | '.join(cells)} | {'–' if row.rank is None else f'{row.rank:.2f}'} |")
        names = [row.name for row in self.rows]
        lines += ["", f"| transfer | {' | '.join(names)} |", f"|---|{'--:|' * len(names)}"]
        for transfer, found in self.losses.items():
            lines.append(f"| {transfer} | {' | '.join(_cell(found.get(name)) for name in names)} |")
        return "\n".join(lines) + "\n"


def _cell(value: float | None, bold: bool = False) -> str:
    return "–" if value is None else f"**{value:.3f}**" if bold else f"{value:.3f}"


def table(
    transfers: Sequence[TokenTransfer], starts: Sequence[Start], results: Results, deviations: Mapping[str, float]
) -> Table:
    """The table of these transfers from these starts. Models are ranked among each other; random weights, which the
    paper lists beside them (Table 15), have no rank and are not bold."""
    groups = tuple(dict.fromkeys(t.group for t in transfers))
    losses = {
        t.name: {s.name: results[s.name][t.name].best.loss for s in starts if t.name in results.get(s.name, {})}
        for t in transfers
    }
    means: dict[str, dict[str, float]] = {}
    for start in starts:
        members = {group: [losses[t.name].get(start.name) for t in transfers if t.group == group] for group in groups}
        means[start.name] = {g: float(np.mean(found)) for g, found in members.items() if None not in found}
    averages = {name: float(np.mean(list(own.values()))) for name, own in means.items() if len(own) == len(groups)}
    ranked = [s.name for s in starts if s.pretrained]
    columns = {group: {n: means[n][group] for n in ranked if group in means[n]} for group in groups}
    columns[AVERAGE] = {n: averages[n] for n in ranked if n in averages}
    bold = {column: _best(values, deviations.get(column, 0.0)) for column, values in columns.items()}
    full = [name for name in ranked if name in averages]
    ranks = {group: _ranks({n: columns[group][n] for n in full}) for group in groups}
    rows = tuple(
        Row(
            name=start.name,
            losses=means[start.name],
            average=averages.get(start.name),
            rank=float(np.mean([ranks[g][start.name] for g in groups])) if start.name in full else None,
            bold=tuple(column for column, best in bold.items() if start.name in best),
        )
        for start in starts
    )
    return Table(groups=groups, rows=rows, losses=losses, deviations=dict(deviations))


def _best(values: Mapping[str, float], deviation: float) -> set[str]:
    """The names of those within two deviations of the lowest."""
    return {name for name, value in values.items() if value <= min(values.values()) + 2 * deviation}


def _ranks(values: Mapping[str, float]) -> dict[str, float]:
    """The place of each, from 1 for the lowest; equal ones share the mean of their places."""
    from scipy.stats import rankdata

    return dict(zip(values, map(float, rankdata(list(values.values()))), strict=True)) if values else {}
