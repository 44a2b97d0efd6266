"""What a run records while it goes: metrics as JSON lines and TensorBoard events, pictures, progress."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from open4m import files, ranks
from open4m.progress import Progress
from open4m.train.weights_and_biases import WandbLog
from open4m.types import Open4MError

logger = logging.getLogger("open4m")


LOCK = ".running"
"""The file of a run directory that a training holds a lock on. The system releases it when the process ends."""


def is_running(directory: Path) -> bool:
    """Whether a process trains in a run directory now, as far as the file system tells of locks of other machines."""
    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a directory that may not be written
        return False


@contextlib.contextmanager
def owned(directory: Path, lock: str = LOCK) -> Iterator[None]:
    """The processes of this run have a directory for themselves. On all ranks; the first one holds the lock.

    Raises :class:`Open4MError` if another run has it: two would write over each other's checkpoints.
    """
    busy = f"{directory}: another process works on it now; wait until it ends, or name another directory"
    with contextlib.ExitStack() as stack:
        ranks.on_first(lambda: stack.enter_context(files.held(directory / lock, busy)))
        if lock == LOCK:
            ranks.on_first(lambda: files.sweep(directory))
        yield


class RunLog:
    """Writes ``metrics.jsonl``, ``bad_steps.jsonl``, TensorBoard events and ``pictures/`` of a run, and shows progress.

    On resuming at ``start``, lines of later steps are dropped: those steps are computed again. ``lacks_evaluation``:
    whether none is recorded of ``start``, since the run was stopped in it. Every line has the time of training so far,
    in seconds. ``wandb``: a project of Weights & Biases that gets the same; None: none does.
    """

    def __init__(self, directory: Path, description: str, steps: int, start: int = 0, wandb: str | None = None):
        self.directory = directory
        self._bad_steps = directory / "bad_steps.jsonl"
        for path in (directory / "metrics.jsonl", self._bad_steps):
            _keep(path, start)
        self._began = time.monotonic() - _seconds(directory / "metrics.jsonl")
        self.lacks_evaluation = not _is_evaluated(directory / "metrics.jsonl", start)
        with files.writing(directory):
            self._metrics = (directory / "metrics.jsonl").open("a")
            self._writer = _tensorboard(directory, start)
            self._wandb = WandbLog(wandb, directory, description) if wandb else None
        self._progress = Progress(description, steps, start=start, unit="steps")

    @property
    def seconds(self) -> float:
        """How long the run has been training, evaluations included, pauses between its parts not."""
        return time.monotonic() - self._began

    def progress(self, step: int, note: str) -> None:
        """Show that ``step`` steps are done."""
        self._progress.update(step, note)

    def begin(self) -> None:
        """The first step begins now: how long the rest takes is told by steps alone."""
        self._progress.begin()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics of a step, but for those that are not finite: JSON has no such numbers."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._line(step, values)
        for name, value in values.items():
            self._event("add_scalar", name, value, step)
        if self._wandb is not None:
            self._wandb.metrics(step, values)

    def bad_step(self, step: int, what: str, values: Mapping[str, Any]) -> Path:
        """Record a step that went wrong, from which ``Task.batch`` makes its batch again; returns the file."""
        readable = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        with files.writing(self._bad_steps), self._bad_steps.open("a") as file:
            file.write(json.dumps({"step": step + 1, "batch": step, "what": what, **readable}) + "\n")
            _sync(file)
        return self._bad_steps

    def pictures(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Save pictures of what the model does at a step."""
        folder = self.directory / "pictures"
        with files.writing(folder):
            folder.mkdir(exist_ok=True)
            for name, image in images.items():
                image.save(folder / f"{name}-{step:07d}.png")
                self._event("add_image", name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        if self._wandb is not None and images:
            self._wandb.pictures(step, images)
        if images:
            self._line(step, {"pictures": {name: f"{folder.name}/{name}-{step:07d}.png" for name in images}})

    def _event(self, method: str, *arguments: Any, **options: Any) -> None:
        """Write to TensorBoard. If that cannot be, such as on a full disk, the training goes on without it."""
        if self._writer is None:
            return
        try:
            getattr(self._writer, method)(*arguments, **options)
        except OSError as error:
            logger.warning("%s: no more TensorBoard events are written (%s)", self.directory, error.strerror or error)
            self._writer = None

    def _line(self, step: int, values: Mapping[str, Any]) -> None:
        with files.writing(self.directory / "metrics.jsonl"):
            self._metrics.write(json.dumps({"step": step, "seconds": round(self.seconds, 3), **values}) + "\n")
            self._metrics.flush()

    def sync(self) -> None:
        """Put the metrics on disk, before a checkpoint is: a run that resumes there does not record them again."""
        path = self.directory / "metrics.jsonl"
        with files.writing(path):
            _sync(self._metrics)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(self._metrics.fileno())):
            raise Open4MError(
                f"{path}: was removed or replaced while the run wrote to it; {self.directory} is incomplete"
            )

    def close(self) -> None:
        """Flush and close everything."""
        with files.writing(self.directory), contextlib.ExitStack() as closed:  # each of them, whatever the others raise
            closed.callback(self._progress.close)
            closed.callback(self._event, "close")
            if self._wandb is not None:
                closed.callback(self._wandb.close)
            closed.callback(self._metrics.close)


class NoLog:
    """What :class:`RunLog` is on ranks other than the first: it records nothing."""

    lacks_evaluation = False  # the first rank's word counts

    def __init__(self, directory: Path):
        self._bad_steps = directory / "bad_steps.jsonl"

    def progress(self, step: int, note: str) -> None:
        pass

    def begin(self) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def pictures(self, step: int, images: Mapping[str, Image.Image]) -> None:
        pass

    def bad_step(self, step: int, what: str, values: Mapping[str, Any]) -> Path:
        return self._bad_steps

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _sync(file: TextIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _keep(path: Path, step: int) -> None:
    """Drop the lines of later steps than ``step`` from a file, if it is there."""
    if path.exists():
        lines = _lines(path)
        files.write_text(path, "".join(line for line in lines if _step(line) <= step))


def _is_evaluated(path: Path, step: int) -> bool:
    """Whether validation metrics of a step are among the lines of a file."""
    entries = [files.parse_json(line, str(path)) for line in _lines(path)] if path.exists() else []
    return any(entry["step"] == step and any(name.startswith("validation/") for name in entry) for entry in entries)


def _seconds(path: Path) -> float:
    """The time of training that the last line of metrics says; 0 without one."""
    lines = _lines(path) if path.exists() else []
    seconds = files.parse_json(lines[-1], str(path)).get("seconds") if lines else None
    return seconds if isinstance(seconds, int | float) else 0.0


def _lines(path: Path) -> list[str]:
    """The lines of a file, with their ends; what is no text in them, as it is where a machine died, is replaced."""
    files.check_regular(path)
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True)


def _step(line: str) -> float:
    """The step of a line of metrics, infinite for a damaged one: a machine that dies may cut the last line."""
    try:
        step = files.parse_json(line, "")["step"] if line.endswith("\n") else None
    except (Open4MError, KeyError, TypeError):
        return math.inf
    return step if isinstance(step, int) else math.inf


def _tensorboard(directory: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard events are written: pip install 'open4m[logging]'")
        return None
    threading.excepthook = _quiet(threading.excepthook)
    return SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1 if start else None)


def _quiet(hook: Any) -> Any:
    """A hook for errors of threads that says nothing of those that write events: the next event says it in a line."""

    def call(about: Any) -> None:
        if type(about.thread).__name__ != "_AsyncWriterThread":
            hook(about)

    return hook if getattr(hook, "is_quiet", False) else _marked(call)


def _marked(hook: Any) -> Any:
    hook.is_quiet = True
    return hook
