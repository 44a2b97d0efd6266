"""Measuring and tuning model directories: on raw data of the user's, or on rendered scenes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from open4m.datasets.scenes import Scenes
from open4m.evaluate.report import Result
from open4m.evaluate.suites import labels, scenes
from open4m.evaluate.suites.labels import TRAINING_SAMPLES
from open4m.evaluate.suites.scene_images import Judges
from open4m.evaluate.tuning import Trial, tune
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.hub import locate
from open4m.hub.ml4m import transformer
from open4m.model.plans import ARROW, Plans
from open4m.progress import track
from open4m.types import Open4MError

log = logging.getLogger("open4m")

WORLD = "scenes"
"""The world of scenes that a model which knows scenes is measured on, unless one is named."""


TRAINING_SAMPLES_EACH, FEWEST_TRAINING_SAMPLES = 4, 64
"""How many training samples the trivial predictors are made of: so many per measured sample, and at least so many."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a model is measured on, and where.

    ``data``: a folder of raw shards (:func:`~open4m.evaluate.suites.labels.open_suite`). ``world``: instead, that of
    freshly rendered scenes (:data:`open4m.datasets.scenes.WORLDS`); needed by a model that knows no scenes.
    ``samples``: how many, at most. ``known``: of how many training samples the trivial predictors are made, at most
    (:attr:`training_samples`). ``seed``: of the first sample's generation. ``device``, ``dtype``: see
    :meth:`open4m.FourM.to`.
    """

    samples: int = 128
    seed: int = 0
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    known: int = TRAINING_SAMPLES
    world: str = ""
    data: Path | None = None

    def __post_init__(self) -> None:
        if self.samples < 1:  # before any are rendered
            raise Open4MError(f"samples: expected 1 or more, got {self.samples}")
        if self.world and self.data is not None:
            raise Open4MError(f"data: {self.data}, or scenes of the world {self.world!r}? name one of them")

    @property
    def training_samples(self) -> int:
        """Of how many training samples the trivial predictors are made: 4 for each that is measured, but at least 64.

        More would take most of the time of a short evaluation, to make figures finer than their intervals."""
        return min(self.known, max(FEWEST_TRAINING_SAMPLES, TRAINING_SAMPLES_EACH * self.samples))


def evaluate_pretrained(name: str | Path, on: Measurement) -> Result:
    """Measure a model directory or a shipped model.

    Raises :class:`Open4MError` for a model without anything to measure, and see :func:`world_of`.
    """
    suite = suite_of(name, on, "test")
    for line in advice(name, suite, on):
        log.info("%s", line)
    return suite.run(on.seed)


def advice(name: str | Path, suite: labels.Suite, on: Measurement) -> list[str]:
    """What to know of how a model generates before its figures are read: which tasks no plan was chosen for, and
    whether plans were chosen on the very samples that are measured."""
    plans, lines = suite.model.plans, []
    where = f"--data {on.data}" if on.data is not None else f"--world {world_of(suite.model, on.world)}"
    if lacking := [ARROW.join(path) for path in suite.paths if plans.of(path) is None]:
        lines.append(
            f"no plan of how to generate was chosen for {', '.join(lacking)}: labels are the likeliest ones in "
            f"{LIKELIEST['steps']} passes, images are sampled; open4m tune {name} {where} chooses by measurement"
        )
    if suite.data and plans.about.get("data") == suite.data:
        lines.append(
            f"{suite.data}: the model's plans were chosen on these samples, so that figures are a little too good; "
            "with a validation split beside test, open4m tune takes that"
        )
    return lines


def tune_pretrained(name: str | Path, on: Measurement, write: bool = True) -> tuple[Plans, list[Trial]]:
    """Choose how a model generates best; ``write``: into its directory. Raises like :func:`evaluate_pretrained`, and
    for a directory that is not the user's to change."""
    if write:
        check_own(name)
    plans, trials = tune(suite_of(name, on, "validation"), on.seed)
    if write:
        plans.save(locate.resolve(name))
    return plans, trials


def check_own(name: str | Path) -> None:
    """Raise :class:`Open4MError` for a model whose directory nothing may be stored in: it is part of the program, or of
    the hub's cache, or in the authors' format, which has no place for plans."""
    path, folder = Path(name), locate.resolve(name)
    if str(name) not in locate.shipped() and path.exists() and not transformer.is_reference(folder):
        return
    raise Open4MError(
        f"{name}: is used as it is, no plans can be stored in it; --dry-run measures only, and plans are stored in a "
        f"copy of yours: open4m import {name} OUT"
    )


def suite_of(name: str | Path, on: Measurement, split: str) -> labels.Suite:
    """The suite of a model; ``split``: "test", or "validation" to choose settings on."""
    folder = locate.resolve(name)
    model = FourM.from_pretrained(name, on.device, on.dtype)
    if on.data is not None:
        splits = labels.TESTS if split == "test" else labels.HELD_OUT
        return labels.open_suite(model, on.data, samples=on.samples, known=on.training_samples, splits=splits)
    world = world_of(model, on.world)
    if not model.grids:
        raise Open4MError(f"{folder}: has no grid modality, so there is nothing to measure on scenes")
    size = max(tokenizer.config.image_size for tokenizer in model.grids.values())
    own, train = (Scenes(part, resolution=size, device=on.device, world=world) for part in (split, "train"))
    return scenes.Suite(
        model,
        own.samples(track(range(on.samples), f"rendering the {split} split", unit="scenes")),
        train.samples(track(range(on.training_samples), "rendering training scenes", unit="scenes")),
        Judges.load(folder, on.device),
        samples=on.samples,
        scenes=own,
    )


def world_of(model: FourM, world: str = "") -> str:
    """The world of scenes for a model: the one that is named, else :data:`WORLD`.

    Raises :class:`Open4MError` if none is named and the model was not made for rendered scenes: what it does on them
    says nothing about it.
    """
    if not world and not scenes.knows_scenes(model):
        raise Open4MError(
            f"{model.name}: its tokenizers do not know the classes of rendered scenes, so it was made for other data: "
            f"name those, raw shards in a folder (--data FOLDER), or say that you mean scenes (--world {WORLD})"
        )
    return world or WORLD
