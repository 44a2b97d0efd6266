"""What a run tells while it goes: metrics as JSON lines and TensorBoard, pictures, progress with an ETA."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("open4m")


class RunLog:
    """Writes ``metrics.jsonl``, ``bad_steps.jsonl``, TensorBoard events and ``pictures/`` of a run, and shows progress.

    On resuming at ``start``, lines of later steps, which will be computed again, are dropped.
    """

    def __init__(self, directory: Path, description: str, steps: int, start: int = 0):
        self.directory, self.steps, self.start = directory, steps, start
        self._bad_steps = directory / "bad_steps.jsonl"
        for path in (directory / "metrics.jsonl", self._bad_steps):
            _keep(path, start)
        self._metrics = (directory / "metrics.jsonl").open("a")
        self._writer = _tensorboard(directory, start)
        self._began = self._spoke = time.monotonic()
        console = Console(stderr=True)
        self._progress = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._progress = Progress(*columns, console=console)
            self._bar = self._progress.add_task(description, total=steps, completed=start, note="")
            self._progress.start()
        self._description = description

    def progress(self, step: int, note: str) -> None:
        """Show that ``step`` steps are done: a bar on a terminal, else a line every ten seconds."""
        if self._progress is not None:
            self._progress.update(self._bar, completed=step, note=note)
            return
        now = time.monotonic()
        if now - self._spoke >= 10 or step == self.steps:
            self._spoke = now
            left = (now - self._began) / max(1, step - self.start) * (self.steps - step)
            logger.info("%s %d/%d, %s, %s left", self._description, step, self.steps, note, _clock(left))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record metrics of a step; those that are not finite, which JSON cannot say, are left out."""
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        self._metrics.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def bad_step(self, step: int, what: str, values: Mapping[str, float]) -> Path:
        """Write down a step that went wrong and its batch, which ``task.batch`` makes again; gives the file."""
        readable = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        with self._bad_steps.open("a") as file:
            file.write(json.dumps({"step": step + 1, "batch": step, "what": what, **readable}) + "\n")
        return self._bad_steps

    def pictures(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Save pictures of what the model does at a step."""
        folder = self.directory / "pictures"
        folder.mkdir(exist_ok=True)
        for name, image in images.items():
            image.save(folder / f"{name}-{step:07d}.png")

    def close(self) -> None:
        """Flush and close everything."""
        self._metrics.close()
        if self._writer is not None:
            self._writer.close()
        if self._progress is not None:
            self._progress.stop()


def _keep(path: Path, step: int) -> None:
    """Drop the lines of later steps than ``step`` from a file, if it is there."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("}\n")]  # a machine that died may have cut the last one
        path.write_text("".join(line for line in whole if json.loads(line)["step"] <= step))


def _tensorboard(directory: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("no TensorBoard events are written: pip install 'open4m[logging]'")
        return None
    return SummaryWriter(str(directory / "tensorboard"), purge_step=start + 1 if start else None)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
