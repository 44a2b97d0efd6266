"""What is told of a forward pass while a result grows: how far it is, and pictures of what is there."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from open4m.generate.drawing import pictures
from open4m.generate.outputs import summary
from open4m.generate.results import Snapshot
from open4m.serve.jobs import Job

FRAMES = {"none": {}, "png": {"compress_level": 1}, "webp": {"quality": 85, "method": 0}}
"""Formats of pictures of passes, and how each is written in a hurry."""

MOST_SHOWN = 4
"""Samples of a job that are pictured while they grow."""

SMALLEST, LARGEST = 96, 256
"""Pixels of a side of these pictures."""

SHARE = 0.25
"""The part of a batch's time that pictures of passes may take."""

APART = 0.1
"""Seconds between events of passes."""


class Teller:
    """Tells the jobs of a batch of every forward pass, but not too often; the last pass of each target always."""

    def __init__(self, jobs: Sequence[Job], clock: Callable[[], float] = time.perf_counter):
        self._jobs, self._clock = jobs, clock
        self._began = self._told = clock()
        self._spent = 0.0
        self._waits: tuple[Snapshot, Sequence[tuple[int, int]]] | None = None
        self._any = False

    def __call__(self, progress: Snapshot, rows: Sequence[tuple[int, int]]) -> None:
        now, before = self._clock(), self._waits
        if before is not None and not _goes_on(before[0], progress):
            self._tell(*before)
        if self._any and (now - self._told < APART or self._spent > SHARE * (now - self._began)):
            self._waits = progress, rows
            return
        self._tell(progress, rows)

    def close(self) -> None:
        """Tell of the last pass."""
        if self._waits is not None:
            self._tell(*self._waits)

    def _tell(self, progress: Snapshot, rows: Sequence[tuple[int, int]]) -> None:
        begin = self._clock()
        self._waits, self._any, made = None, True, progress.made
        targets = [step.target for step in progress.plan]
        about = {"target": made.step.target, "number": targets.index(made.step.target) + 1, "targets": len(targets)}
        about |= {"pass": made.number, "passes": made.total}
        for number in dict.fromkeys(number for number, _ in rows):
            job = self._jobs[number]
            if job.is_over:  # its last event has been told
                continue
            own = [(row, sample) for row, (whose, sample) in enumerate(rows) if whose == number and sample < MOST_SHOWN]
            shown = samples(progress, own, job.frames) if job.frames != "none" and not job.stop else []
            job.events.add("pass", {**about, "samples": shown}, many=True)
        self._told = self._clock()
        self._spent += self._told - begin


def _goes_on(before: Snapshot, after: Snapshot) -> bool:
    """Whether a pass goes on with the target of an earlier one."""
    return before.canvas is after.canvas and before.made.step.target == after.made.step.target


def samples(progress: Snapshot, rows: Sequence[tuple[int, int]], form: str) -> list[dict[str, Any]]:
    """What is there of the target of a pass, of some rows, each with the number of its sample."""
    model, canvas, key = progress.model, progress.canvas, progress.made.step.target
    if model.config.spec(key).is_causal:
        values = [model.decode(key, as_array(canvas.sequences[key][row])) for row, _ in rows]
        known = [""] * len(rows)
    else:
        values = [model.grids[key].decode_batch(canvas.grids[key][row : row + 1].numpy())[0] for row, _ in rows]
        known = ["".join("01"[is_known] for is_known in canvas.known[key][row].tolist()) for row, _ in rows]
    drawn = [None] * len(rows)
    if not model.modalities[key].is_text:
        side = model.grids[key].config.image_size if key in model.grids else SMALLEST
        drawn = pictures(model, key, values, size=min(max(side, SMALLEST), LARGEST))[0]
    return [
        {
            "sample": sample,
            "known": cells,
            "picture": "" if picture is None else data_url(picture, form),
            "text": summary(value).removeprefix(": "),
        }
        for (_, sample), value, cells, picture in zip(rows, values, known, drawn, strict=True)
    ]


def as_array(tokens: Sequence[int] | None) -> np.ndarray:
    """Tokens of a sequence so far, (length,)."""
    return np.array(tokens or [], dtype=np.int64)


def encoded(picture: Image.Image, form: str = "png") -> bytes:
    """The bytes of a picture in one of :data:`FRAMES`."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format=form.upper(), **FRAMES[form])
    return buffer.getvalue()


def data_url(picture: Image.Image, form: str = "png") -> str:
    """A picture as an address that holds it."""
    return f"data:image/{form};base64,{base64.b64encode(encoded(picture, form)).decode()}"
