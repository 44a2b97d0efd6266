"""One request for every image of a folder, in batches; what is done stays done when it is run again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from open4m import config as configs
from open4m import files, modalities
from open4m.generate import index, outputs, record, verbs
from open4m.generate.drawing import Outcome
from open4m.generate.pipeline import FourM
from open4m.generate.request import Generate, Request
from open4m.generate.together import together
from open4m.modalities.frames import frame_of
from open4m.modalities.given import read_file
from open4m.types import Open4MError, Value

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_LISTED_FAILURES = 5
REQUEST = "request.json"

_ANY_EXTENT = (64, 64)


@dataclass(frozen=True)
class FolderJob:
    """``request`` for each image of the folder ``images``, each with the same seeds.

    ``out`` has a folder per image, and lists all of them (:mod:`open4m.generate.index`). ``recursive``: images in
    folders below count too, and have folders below ``out``. ``request.given`` is what all images share, without the
    photo. Raises :class:`Open4MError` for folders that cannot be.
    """

    request: Generate
    images: Path
    out: Path
    batch_size: int = 8
    recursive: bool = False

    def __post_init__(self) -> None:
        if verbs.photo() in self.request.given:
            raise Open4MError(f"{verbs.photo()} is given, but it is each image of the folder: leave it out")
        if not self.images.is_dir():
            raise Open4MError(f"{self.images}: not a folder")
        if self.out.resolve() == self.images.resolve():
            raise Open4MError(f"{self.out}: is the folder of the images; name another one for the results")
        if not self.paths():
            below = "" if self.recursive else "; --recursive takes those in folders below"
            raise Open4MError(f"{self.images}: no images in it ({', '.join(SUFFIXES)}){below}")
        samples, size = self.request.samples, self.batch_size
        if size < 1 or samples * size > verbs.MAX_SAMPLES:
            raise Open4MError(f"samples times batch size must be 1 to {verbs.MAX_SAMPLES}, got {samples} × {size}")

    def paths(self) -> list[Path]:
        """The images, by name."""
        found = self.images.rglob("*") if self.recursive else self.images.iterdir()
        own = self.out.resolve()  # it may lie among the images
        return sorted(p for p in found if p.suffix.lower() in SUFFIXES and own not in p.resolve().parents)

    def folder(self, path: Path) -> Path:
        """Where the results of an image are."""
        return self.out / path.relative_to(self.images)

    def run(self, model: FourM) -> Iterator[str]:
        """Generate what is not there yet; yields each folder that is done, and how many are. Several processes may do
        so at once: what another one has done meanwhile is not done again.

        An image that cannot be used costs no other one: in the end :class:`Open4MError` says what could not be done.
        """
        job = replace(self, request=self.request.pinned(model))
        files.make_folder(self.out)
        model = model.following(job.request.plans)
        job._check(model)
        images = self.paths()
        missing = [path for path in images if not _is_done(self.folder(path))]
        taken = [path for path in missing if _is_taken(self.folder(path))]
        failed = [f"{self.folder(path)}: is there, without {record.NAME}; move it away" for path in taken]
        free = [path for path in missing if path not in taken]
        now = 0
        while free:
            batch, free = free[: self.batch_size], free[self.batch_size :]
            for folder in job._batch(model, batch, failed):
                now += 1
                yield folder
            free = [path for path in free if not _is_done(self.folder(path))]
        for path in images:
            files.unlock(self.folder(path))
        done = [path.relative_to(self.images).as_posix() for path in images if _is_done(self.folder(path))]
        written = index.write(self.out, done, self.request.targets, 1 if self.request.merge else self.request.samples)
        yield f"all: {', '.join(map(str, written))}"
        before = len(images) - now - len(failed)
        yield f"{now} of {len(images)} images done now, {before} before"
        if failed:
            more = f"; and {len(failed) - MAX_LISTED_FAILURES} more" * (len(failed) > MAX_LISTED_FAILURES)
            listed = "; ".join(failed[:MAX_LISTED_FAILURES])
            raise Open4MError(f"{len(failed)} of {len(images)} images cannot be done: {listed}{more}")

    def _of(self, image: Value) -> Generate:
        """The request for one image."""
        return replace(self.request, given={verbs.photo(): image, **self.request.given})

    def _check(self, model: FourM) -> None:
        """Raise for what is wrong whatever the image, and if the folder's results are those of another request."""
        known = {name: modalities.get(name) for name in self.request.given}
        frame = frame_of(self.request.given, known)
        extent = _ANY_EXTENT if frame is None else (frame.height, frame.width)
        request = self._of(np.zeros((*extent, 3), dtype=np.uint8))
        how = request.settings(model, request.given)
        next(
            model.passes(
                request.given, request.targets, **{name: how[name] for name in how if name not in ("resize", "merge")}
            )
        )
        path, written = self.out / REQUEST, json.loads(json.dumps(self.request.to_json(self.out)))
        if not path.exists():
            files.write_text(path, json.dumps(written, indent=1) + "\n")
            return
        before = Request.from_json(configs.load(dict[str, Any], path), self.out, str(path)).to_json(self.out)
        wrong = configs.differences(*({k: v for k, v in one.items() if k != "model"} for one in (before, written)))
        if wrong:
            raise Open4MError(f"{self.out}: holds results of another request ({'; '.join(wrong)}); name another")

    def _batch(self, model: FourM, paths: Sequence[Path], failed: list[str]) -> Iterator[str]:
        """The results of some images, written; what cannot be done is added to ``failed``."""
        photo, readable = verbs.photo(), []
        for path in paths:
            try:
                image = read_file(path, modalities.get(photo))
            except Open4MError as error:
                failed.append(str(error))
                continue
            try:
                readable.append((path, self._of(image)))
            except Open4MError as error:
                failed.append(f"{path}: {error}")
        made = together(model, [request for _, request in readable]) if readable else []
        for (path, request), outcome in zip(readable, made, strict=True):
            if isinstance(outcome, Open4MError):
                failed.append(f"{path}: {outcome}")
                continue
            folder = self.folder(path)
            try:
                files.write_folder(folder, lambda whole, r=request, o=outcome: _fill(model, r, o, whole))
            except Open4MError as error:
                if not _is_done(folder):
                    failed.append(str(error))
                continue
            yield str(folder)


def _fill(model: FourM, request: Generate, outcome: Outcome, folder: Path) -> None:
    folder.mkdir(parents=True)
    for _ in outputs.write(model, request, outcome, folder):
        pass


def _is_done(folder: Path) -> bool:
    return (folder / record.NAME).is_file()


def _is_taken(folder: Path) -> bool:
    """Whether something other than an empty folder is where a folder is to be written."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
