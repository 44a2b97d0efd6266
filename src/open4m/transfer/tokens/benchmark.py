"""The benchmark of transfers: several models, each transferred to every task, and the table that compares them (E.1).

In its folder::

    data/<data set>/            raw shards, tokenizers and tokens (open4m.transfer.tokens.prepare)
    runs/<model>/<transfer>/    transfers (open4m.transfer.tokens.recipe)
    transfers.json, .md         the table of what is done
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from open4m import files, ranks
from open4m.ranges import Layers, check_ranges
from open4m.transfer.tokens.config import TokenTransfer, TransferData
from open4m.transfer.tokens.prepare import Prepared
from open4m.transfer.tokens.recipe import transfer
from open4m.transfer.tokens.result import Start, TransferResult, finished
from open4m.transfer.tokens.table import Table, table
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

NAME = "transfers"
"""Of the files of the table."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Which ``transfers`` are made from which ``starts``.

    ``data``: how the data sets of the transfers become tokens, by name. ``sources``: the folder in which they are, each
    in a folder of its name; None if all are rendered. ``deviations``: see :class:`~.table.Table`. ``keep_best``: save
    the model of the best evaluation of each transfer.
    """

    transfers: tuple[TokenTransfer, ...]
    starts: tuple[Start, ...]
    data: dict[str, TransferData]
    sources: Path | None
    deviations: dict[str, float] = field(default_factory=dict)
    processes: Layers = 1
    keep_best: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        for what, names in (("transfer", [t.name for t in self.transfers]), ("model", [s.name for s in self.starts])):
            if not names:
                raise Open4MError(f"benchmark: name at least one {what}")
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise Open4MError(f"benchmark: the {what} {twice} is named twice; models may be named NAME=MODEL")
        for one in self.transfers:
            if one.data not in self.data:
                raise Open4MError(f"transfer {one.name}: no data set {one.data} (data sets: {', '.join(self.data)})")

    @property
    def sets(self) -> dict[str, tuple[TokenTransfer, ...]]:
        """The transfers of each data set."""
        return {
            name: tuple(t for t in self.transfers if t.data == name) for name in {t.data: None for t in self.transfers}
        }


class Runner:
    """A benchmark in a directory. What is done there is kept, whatever else was asked for then."""

    def __init__(self, benchmark: Benchmark, directory: Path, device: str = "cpu"):
        self.benchmark, self.directory, self.device = benchmark, directory, device

    def run(self) -> Table:
        """Prepare the data, make all transfers that are not done, and write the table after each. On all ranks."""
        for name in self.benchmark.sets:  # results of other data, such as of a first look, are not those asked for
            ranks.on_first(self._prepared(name).check)
        todo = ranks.on_first(lambda: [pair for pair in self._all() if self._finished(*pair) is None])
        for name in {one.data: None for _, one in todo}:
            self._prepared(name).run(self.benchmark.sets[name])
        total = len(list(self._all()))
        if len(todo) < total:
            logger.info("transfers: %d of %d are already done", total - len(todo), total)
        for number, (start, one) in enumerate(todo, 1 + total - len(todo)):
            logger.info("transfer %d of %d: %s, %s", number, total, one.name, start.name)
            found = transfer(
                one,
                start,
                self._prepared(one.data).tokens(one.crops),
                self.folder(start, one),
                self.device,
                self.benchmark.keep_best,
            )
            logger.info("%s, %s: loss %.4f at epoch %g", one.name, start.name, found.best.loss, found.best.epoch)
            ranks.on_first(self.write)
        return ranks.on_first(self.write)

    def write(self) -> Table:
        """The table of what is done, which is written as Markdown and JSON."""
        results: dict[str, dict[str, TransferResult]] = {start.name: {} for start in self.benchmark.starts}
        for start, one in self._all():
            if (found := self._finished(start, one)) is not None:
                results[start.name][one.name] = found
        found = table(self.benchmark.transfers, self.benchmark.starts, results, self.benchmark.deviations)
        files.make_folder(self.directory)
        files.write_text(self.directory / f"{NAME}.json", found.to_json())
        files.write_text(self.directory / f"{NAME}.md", found.markdown())
        return found

    def plan(self) -> list[str]:
        """What a run would do, in lines. Nothing is written."""
        lines = []
        for name, some in self.benchmark.sets.items():
            prepared = self._prepared(name)
            keys = sorted({key for one in some for key in one.keys})
            views = {one.crops for one in some}
            lines.append(f"data {name}: {prepared.about()}; {', '.join(keys)}; {len(views)} kinds of views")
        for start in self.benchmark.starts:
            what = "" if start.pretrained else ", random weights"
            lines.append(f"model {start.name}: {start.model}{what}")
        done = 0
        for one in self.benchmark.transfers:
            states = [self._finished(start, one) is not None for start in self.benchmark.starts]
            done += sum(states)
            lines.append(
                f"transfer {one.name} ({one.group}): {one.epochs:g} epochs, {one.frozen_epochs:g} of them frozen, "
                f"batches of {one.batch_size}, {one.evaluations} evaluations; done for {sum(states)} of {len(states)} "
                "models"
            )
        total = len(self.benchmark.transfers) * len(self.benchmark.starts)
        return [*lines, f"{total - done} of {total} transfers are to be made, in {self.directory}"]

    def folder(self, start: Start, one: TokenTransfer) -> Path:
        return self.directory / "runs" / start.name / one.name

    # ---- parts
    def _all(self) -> Iterator[tuple[Start, TokenTransfer]]:
        return ((start, one) for one in self.benchmark.transfers for start in self.benchmark.starts)

    def _finished(self, start: Start, one: TokenTransfer) -> TransferResult | None:
        return finished(self.folder(start, one), one, start)

    def _prepared(self, name: str) -> Prepared:
        data, sources = self.benchmark.data[name], self.benchmark.sources
        source = None if data.world or sources is None else sources / name
        return Prepared(data, source, self.directory / "data" / name, self.device, self.benchmark.processes)


def chosen(transfers: Sequence[TokenTransfer], patterns: Sequence[str]) -> tuple[TokenTransfer, ...]:
    """The transfers whose names fit one of the patterns, such as ``hypersim-*``, in the order of ``transfers``; without
    patterns, all. Raises :class:`Open4MError` for a pattern that fits none."""
    names = [one.name for one in transfers]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise Open4MError(f"no task {pattern!r}{hint} (open4m benchmark transfers --list shows all)")
    wanted = {name for pattern in patterns for name in fnmatch.filter(names, pattern)} if patterns else {*names}
    return tuple(one for one in transfers if one.name in wanted)
