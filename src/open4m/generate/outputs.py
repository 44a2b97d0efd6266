"""The folder of a result: each value as a file and as a picture, all as one picture, and the record.

It holds each generated value (``rgb.png``, ``depth.npy``), a picture of each (``depth_view.png``), all together
(``grid.png``), and ``result.json``, which ``open4m replay`` reads.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from open4m import files, modalities
from open4m.generate import record
from open4m.generate.drawing import Outcome, frame, highest, titled, uncertainty
from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.generate.request import Generate, Request
from open4m.generate.results import Generation, Snapshot
from open4m.modalities.codecs import write_array
from open4m.modalities.families import STANDARDIZED
from open4m.modalities.frames import frame_of
from open4m.pictures import legend, stack
from open4m.types import Boxes, Open4MError, Value

VIEW_SIZE = 512  # pixels of the picture of one value
STAGE = ".result.tmp"
"""The folder in that of a result where its files are written."""

FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS = 200, 2000


class Animation:
    """An animated GIF of all passes: give :meth:`watch` to a request's ``run``, then :meth:`write` it."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`Open4MError` for a path where no GIF can be written."""
        if path.suffix.lower() != ".gif":
            raise Open4MError(f"{path}: expected a file that ends with .gif")
        files.make_folder(path.parent)
        self.path = path
        self._frames: list[Image.Image] = []
        self._seeds: list[int] = []  # of the first batch

    def watch(self, progress: Snapshot) -> None:
        """Keep a picture of the first sample after a pass; those of further batches show other samples."""
        self._seeds = self._seeds or progress.seeds
        if progress.seeds == self._seeds:
            self._frames.append(frame(progress))

    def write(self) -> str:
        """Write the frames; returns what to tell the user."""
        first, *others = self._frames
        times = [FRAME_MILLISECONDS] * len(others) + [LAST_FRAME_MILLISECONDS]
        how = {"save_all": True, "append_images": others, "duration": times, "loop": 0}
        files.write_file(self.path, lambda path: first.save(path, "GIF", **how))
        return f"animation: {self.path}"


def write(model: FourM, request: Request, outcome: Outcome, folder: Path) -> Iterator[str]:
    """Write all files of an outcome to a folder; yields what to tell the user of each.

    They take the place of a result that the folder holds once all of them are there, so that two are never mixed and a
    full disk costs neither. Raises :class:`Open4MError` that names the folder or a file in it.
    """
    stage = folder / STAGE
    shutil.rmtree(stage, ignore_errors=True)  # of a process that died
    try:
        with files.writing(folder, stage):
            stage.mkdir()
            lines = [*_write(model, request, outcome, stage)]
            remove(folder)
            for file in sorted(stage.iterdir(), key=lambda file: file.name == record.NAME):  # the record last
                files.rename(file, folder / file.name)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    yield from (line.replace(str(stage), str(folder)) for line in lines)


def _write(model: FourM, request: Request, outcome: Outcome, folder: Path) -> Iterator[str]:
    if outcome.merged is not None:
        yield from write_values(model, [outcome.merged], folder)
    yield from write_values(model, outcome.results, folder)
    outcome.picture(model).save(folder / "grid.png")
    path = record.write(folder, model, request, outcome.results)
    yield f"all: {folder / 'grid.png'}, {path}"


def remove(folder: Path) -> None:
    """Remove the files of the result that a folder holds, as its record says; nothing else in it is touched."""
    path = folder / record.NAME
    try:
        found = files.read_json(path)["results"]
        targets = {target for result in found for target in result["tokens"] if modalities.is_known(target)}
    except (OSError, Open4MError, KeyError, TypeError):
        return
    ends = ["", *(f"_{number}" for number in range(1, len(found) + 1))] if len(found) > 1 else [""]
    names = [f"{target}{kind}{end}.*" for target in targets for kind in ("", "_view", "_entropy") for end in ends]
    for pattern in (*names, "given-*", "grid.png", record.NAME):
        for file in folder.glob(pattern):
            if file.is_file():
                file.unlink()


def save(model: FourM, results: Sequence[Generation], folder: Path) -> None:
    """Write the files of results of :meth:`FourM.generate` that are made from the same values.

    The record asks for them in a way that makes them again. There is none of results that nothing asks for: their seeds
    do not follow one another, or they are in the frame of a photo that they were not given.
    """
    files.make_folder(folder)
    merged = results[0] if results[0].samples is not None else None
    results = results if merged is None else merged.samples
    request = asking_for(results)
    outcome = Outcome(results, titled(results[0].given, [*results[0].values]), merged=merged)
    if request is not None:
        request = replace(request, model=model.name, merge="" if merged is None else merged.merge)
        for _ in write(model, request, outcome, folder):
            pass
        return
    with files.writing(folder):
        for part in (results, *([[merged]] if merged is not None else [])):
            for _ in write_values(model, part, folder):
                pass
        outcome.picture(model).save(folder / "grid.png")


def asking_for(results: Sequence[Generation]) -> Generate | None:
    """The request that makes results again which are made from the same values; None if there is none."""
    first = results[0]
    given = {name: value.value if isinstance(value, Masked) else value for name, value in first.given.items()}
    fit = first.frame.fit if first.frame else "crop"
    own = frame_of(given, {name: modalities.get(name) for name in given}, fit)
    if own != first.frame or any(result.seed != first.seed + row for row, result in enumerate(results)):
        return None
    own = first.model.config.keys if first.model is not None else [step.target for step in first.plan]
    return Generate(
        given=first.given,
        targets=tuple(step.target for step in first.plan if step.target in own),
        upscale=any(step.target not in own for step in first.plan),
        options={step.target: _options(step) for step in first.plan},
        conditions=first.conditions,
        samples=len(results),
        seed=first.seed,
        entropies=bool(first.entropy),
        fit=fit,
    )


def _options(step: Step) -> dict[str, Any]:
    return {f.name: getattr(step, f.name) for f in fields(step) if f.name != "target"}


def write_values(model: FourM, results: Sequence[Generation], folder: Path) -> Iterator[str]:
    """Write each value and its picture; files of several results are numbered from 1."""
    for number, result in enumerate(results, 1):
        end = f"_{number}" * (len(results) > 1)
        for target, value in result.values.items():
            modality = modalities.get(target)
            view = folder / f"{target}_view{end}.png"
            if target in model.grids and model.grids[target].config.standardize:  # no value of the modality: no units
                data = folder / f"{target}{end}.{STANDARDIZED}.npy"
                data.write_bytes(write_array(value))
            else:
                data = folder / f"{target}{end}.{modality.extension}"
                data.write_bytes(modality.write(value))
            result.render(target, VIEW_SIZE).save(view)
            yield f"{target}: {data}, {view}{summary(value)}"
        for target in result.entropy:
            path, high = folder / f"{target}_entropy{end}.png", highest(result.entropy[target])
            stack([uncertainty(model, result, target, high, VIEW_SIZE), legend("0", f"{high:.2f} nats")]).save(path)
            yield f"{target}: {path}: how unsure the model was of each token"


def summary(value: Value) -> str:
    """What a line about a generated value ends with: a text, the number of boxes, and of what is malformed."""
    if isinstance(value, str):
        return f": {value}"
    if isinstance(value, Boxes):
        malformed = f", {value.malformed} malformed" * (value.malformed > 0)
        return f": {len(value)} box{'es' * (len(value) != 1)}{malformed}"
    malformed = getattr(value, "malformed", 0)
    return f": {malformed} malformed" if malformed else ""
