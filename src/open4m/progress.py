"""The one progress display: a bar with the remaining time on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextvars import ContextVar
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from open4m.types import printable

logger = logging.getLogger("open4m")

LINE_SECONDS = 10.0
"""Seconds between two log lines where there is no terminal."""

FIRST_SECONDS = 2.0
"""Seconds until the first of them, so that a user soon sees that something happens."""

T = TypeVar("T")
S = TypeVar("S", bound=Sized)


class Lines(logging.Handler):
    """Log lines on standard error. They are printed above a bar, since ``sys.stderr``, which a bar replaces, is looked
    up for each line."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(printable(self.format(record), kept="\n") + "\n")
        except Exception:  # as every handler does
            self.handleError(record)


class Progress:
    """How far something is. A context manager; ``advance`` and ``update`` are cheap enough to call at every step.

    ``total``: how many steps there are, None if that is not known. ``start``: how many were done before. ``unit``:
    what is counted, for the log lines: ``"shards"``.
    """

    def __init__(self, description: str, total: int | None = None, *, start: int = 0, unit: str = "") -> None:
        self.description, self.total, self.start, self.done, self.unit = description, total, start, start, unit
        self._inside = 0.0  # the share of the next step that is done
        self._began = time.monotonic()
        self._reported = self._began - LINE_SECONDS + FIRST_SECONDS
        console = Console(stderr=True)
        self._bar: Bar | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            # What is printed goes through the bar only on its own terminal: a pipe has to get it.
            self._bar = Bar(*columns, console=console, redirect_stdout=sys.stdout.isatty())
            self._task = self._bar.add_task(description, total=total, completed=start, note="")
            self._bar.start()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """``steps`` more are done; ``note`` is shown beside the count."""
        self.update(self.done + steps, note)

    def update(self, done: int, note: str = "") -> None:
        """``done`` steps are done in all."""
        self.done, self._inside = done, 0.0
        self._show(note)

    def inside(self, share: float, note: str) -> None:
        """Of the next step a ``share`` from 0 to 1 is done, as ``note`` says."""
        self._inside = share
        self._show(note)

    def _show(self, note: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done + self._inside, note=note)
            return
        now = time.monotonic()
        if (self.done == self.total and not self._inside) or now - self._reported >= LINE_SECONDS:
            self._reported = now
            logger.info("%s", self._line(now, note))

    def begin(self) -> None:
        """Time begins now: what was before, such as a rehearsal, says nothing of how long the steps take."""
        self._began = time.monotonic()

    def close(self) -> None:
        """Remove the bar. Where the total was not known, say how many there were."""
        if self._bar is not None:
            self._bar.stop()
        if self.total is None:
            logger.info("%s: %d%s", self.description, self.done, f" {self.unit}" * bool(self.unit))

    def _line(self, now: float, note: str) -> str:
        seconds, steps = now - self._began, self.done + self._inside - self.start
        steps = steps if self._inside else max(1, steps)
        count = f"{self.done}" if self.total is None else f"{self.done} of {self.total}"
        parts = [f"{self.description}: {count}{f' {self.unit}' * bool(self.unit)}", *([note] if note else [])]
        if self.total is None:
            parts.append(f"{steps / max(seconds, 1e-9):.0f} per second")
        elif self.done < self.total:
            parts.append(f"{clock(seconds / steps * (self.total - self.done - self._inside))} left")
        return ", ".join(parts)

    def __enter__(self) -> Progress:
        self._before = _innermost.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _innermost.reset(self._before)
        self.close()


_innermost: ContextVar[Progress | None] = ContextVar("innermost", default=None)
"""The progress that is shown."""


def within(items: Sequence[S], unit: str) -> Iterator[S]:
    """The same parts of one step of the progress that is shown, whose items are counted in ``unit``, within it.

    A step may take long: the batches of a shard of many samples say how far it is. Where no progress is shown, as in
    the processes of a pool, nothing is said.
    """
    progress, total, done = _innermost.get(), sum(map(len, items)), 0
    for item in items:
        yield item
        done += len(item)
        if progress is not None and done < total:
            progress.inside(done / total, f"{done} of {total} {unit} of the next one")


def track(items: Iterable[T], description: str, total: int | None = None, unit: str = "") -> Iterator[T]:
    """The same items, their progress shown. ``total``: how many there are; by default ``len(items)``, if it has one."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    with Progress(description, total, unit=unit) as progress:
        for item in items:
            yield item
            progress.advance()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``, or ``2:03`` below an hour."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
