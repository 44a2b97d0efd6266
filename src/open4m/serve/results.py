"""The result of a job as clients get it: values, tokens, pictures, files."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m import config as configs
from open4m import modalities
from open4m.generate import outputs, record, values
from open4m.generate.commands import command_of
from open4m.generate.drawing import highest, pictures, tile, uncertainty
from open4m.generate.masks import Masked
from open4m.generate.plan import Step
from open4m.generate.results import Generation
from open4m.modalities.codecs import write_array
from open4m.modalities.families import STANDARDIZED
from open4m.serve import answers
from open4m.serve.jobs import Job
from open4m.serve.limits import Refused
from open4m.serve.recipes import Recipes, pinned
from open4m.serve.worker import Worker
from open4m.types import shown

SMALLEST, LARGEST = 16, 1024
"""Pixels of a side of a picture."""

RECORD = "record.json"
"""The name under which clients get the record of a result."""


class Results:
    """The results of a worker's jobs. Any thread may ask."""

    def __init__(self, worker: Worker, recipes: Recipes):
        self.worker, self.model, self.recipes = worker, worker.model, recipes

    # ---- as JSON
    def answer(self, job: Job, with_values: bool = True) -> answers.Result:
        """All that there is to tell. Raises :class:`Refused` while there is no result."""
        outcome, all_of = job.result(), results_of(job)
        titles = [*outcome.titles] or [f"seed {result.seed}" for result in outcome.results]
        if outcome.merged is not None:
            titles = ["merged", *titles]
        frame = all_of[0].frame
        made = [
            answers.Sample(
                seed=result.seed,
                title=titles[number],
                merged=result is outcome.merged,
                targets={key: self._target(job, number, result, key, with_values) for key in result.values},
            )
            for number, result in enumerate(all_of)
        ]
        beside = [
            answers.Shown(
                title=title,
                modality=name,
                picture=f"/api/jobs/{job.id}/shown/{number}.png",
                value=values.encode(value) if with_values else None,
            )
            for number, (title, name, value) in enumerate(outcome.shown)
        ]
        job.collected = True
        return answers.Result(
            id=job.id,
            verb=job.verb,
            seconds=round(job.seconds, 3),
            frame=None if frame is None else configs.to_dict(frame),
            results=made,
            shown=beside,
            swept=outcome.swept,
            recipe=self.recipes.add(pinned(self.worker, job.request), RECORD),
        )

    def _target(self, job: Job, number: int, result: Generation, key: str, with_values: bool) -> answers.Target:
        tokens, value = result.tokens.get(key, np.zeros(0, dtype=np.int64)), result.values[key]
        is_grid = key in self.model.grids
        step = next((step for step in result.plan if step.target == key), None)
        numbers = {
            name: record.rounded(found[key]) if key in found else []
            for name, found in (("log_probability", result.log_probability), ("entropy", result.entropy))
        }
        return answers.Target(
            picture=f"/api/jobs/{job.id}/pictures/{number}/{key}.png",
            file=f"/api/jobs/{job.id}/files/{number}/{key}",
            summary=outputs.summary(value).removeprefix(": "),
            value=values.encode(value) if with_values else None,
            grid=[*self.model.grids[key].config.grid] if is_grid else [],
            tokens=tokens.tolist(),
            words=[] if is_grid or self.model.text is None else [self.model.text.name(int(i)) for i in tokens],
            step={} if step is None else _options(step),
            planned=result.planned.get(key, ""),
            **numbers,
        )

    def record(self, job: Job) -> bytes:
        """The record, arrays included: what ``open4m replay`` reads."""
        outcome = job.result()
        request = pinned(self.worker, job.request)
        job.collected = True
        return json.dumps(record.written(self.model, request, outcome.results), allow_nan=False).encode()

    # ---- as pictures and files
    def picture(self, job: Job, number: int, key: str, size: int, kind: str = "value") -> Image.Image:
        """A generated value, drawn in the style of all samples, or how unsure the model was of it (``entropy``)."""
        all_of, result = results_of(job), _of(job, number, key)
        if kind == "entropy":
            if key not in result.entropy:
                raise Refused(f"{key}: no entropies were recorded", 404, 'ask for them: "entropies": true')
            high = max(highest(other.entropy[key]) for other in all_of if key in other.entropy)
            return uncertainty(self.model, result, key, high, _side(size))
        photos = [None] * len(all_of)
        photos[number] = self._photo(result, _side(size), key)
        seen = [other.seen(key) for other in all_of]
        return pictures(self.model, key, seen, photos, _side(size), only=[number])[0][0]

    def _photo(self, result: Generation, size: int, key: str) -> Image.Image | None:
        """A picture of the image that a value lies on."""
        for name, value in {**result.given, **result.values}.items():
            if modalities.get(name).role == "photo" and name != key and not isinstance(value, Masked):
                return tile(self.model, name, value, result.frame).resize((size, size), Image.Resampling.LANCZOS)
        return None

    def shown(self, job: Job, number: int, size: int) -> Image.Image:
        """A value that is shown beside the results."""
        outcome = job.result()
        if not 0 <= number < len(outcome.shown):
            raise Refused(f"shown/{number}: there are {len(outcome.shown)}, from 0", 404)
        _, name, value = outcome.shown[number]
        found = tile(self.model, name, value, outcome.results[0].frame)
        return found.resize((_side(size), _side(size)), Image.Resampling.NEAREST)

    def overview(self, job: Job) -> Image.Image:
        """All of it as one picture."""
        return job.result().picture(self.model)

    def file(self, job: Job, number: int, key: str) -> tuple[str, bytes]:
        """The name and the bytes of a generated value's file."""
        value, modality = _of(job, number, key).values[key], modalities.get(key)
        if key in self.model.grids and self.model.grids[key].config.standardize:  # it has no units
            return f"{key}.{STANDARDIZED}.npy", write_array(value)
        return f"{key}.{modality.extension}", modality.write(value)

    def archive(self, job: Job) -> bytes:
        """The folder that the command line writes, with what the command of the recipe reads, as a ZIP file."""
        outcome, request = job.result(), pinned(self.worker, job.request)
        job.collected = True
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="open4m-") as folder:
            for _ in outputs.write(self.model, request, outcome, Path(folder)):
                pass
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(Path(folder).iterdir()):
                    archive.write(path, path.name)
                command = command_of(request)
                for name, data in ({} if command is None else command.files()).items():
                    archive.writestr(name, data)
        return buffer.getvalue()


def results_of(job: Job) -> Sequence[Generation]:
    """All results of a job, the merged one first."""
    outcome = job.result()
    return [*([] if outcome.merged is None else [outcome.merged]), *outcome.results]


def _of(job: Job, number: int, key: str) -> Generation:
    """A result that has a value of a modality. Raises :class:`Refused` if there is none."""
    all_of = results_of(job)
    if not 0 <= number < len(all_of):
        raise Refused(f"sample {number}: there are {len(all_of)}, from 0", 404)
    if key not in all_of[number].values:
        raise Refused(f"{shown(key)}: generated were {', '.join(all_of[number].values)}", 404)
    return all_of[number]


def _side(size: int) -> int:
    if not SMALLEST <= size <= LARGEST:
        raise Refused(f"size: expected {SMALLEST} to {LARGEST} pixels, got {size}")
    return size


def _options(step: Step) -> dict[str, Any]:
    return {f.name: configs.to_dict(getattr(step, f.name)) for f in fields(step) if f.name != "target"}
