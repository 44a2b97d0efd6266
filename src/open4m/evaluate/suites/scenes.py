"""``open4m evaluate scenes``: a model against the exact labels of held-out scenes (paper F.1, F.2, Tables 31, 32).

From RGB: depth, normals, segmentation, boxes and captions, each by the metrics of its modality, captions by the F1 of
the attributes they mention. From captions: RGB, by CLIP score, by the Fréchet distance of CLIP features, and by the
objects that are read from it (``scene_images.py``). All have 95% intervals (``open4m.evaluate.intervals``).

Two predictors stand beside the model: an upper bound (the label after its tokenizer and back) and a trivial one (the
best constant made from training labels). The model's place between the two is comparable across metrics.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from open4m import modalities
from open4m.datasets.scenes import Scenes, parse_caption
from open4m.evaluate.intervals import Figures, measure
from open4m.evaluate.metrics.attributes import Attributes, agreeing, attribute_f1, most_typical
from open4m.evaluate.predict import labels_of, predict, reconstruct
from open4m.evaluate.report import Result, Row, rows_of
from open4m.evaluate.suites.scene_images import ImageMeasure, Judges, reader_accuracy
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

PREDICTED = ("depth", "normals", "semseg", "boxes", "caption")  # from RGB
IMAGES = {"guidance": 3.0}  # options of images from captions (paper Table 32), for a model without plans of its own
TRAINING_SAMPLES = 512  # for the trivial predictors and the reference of the Fréchet distance


class Samples(Protocol):
    """Samples by index: a :class:`~open4m.store.RawDataset`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


def evaluate(
    model: FourM,
    test: Samples,
    train: Samples,
    judges: Judges | None = None,
    *,
    samples: int = 256,
    seed: int = 0,
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
    paths: Sequence[Sequence[str]] | None = None,
    scenes: Scenes | None = None,
) -> Result:
    """Evaluate a model on the first ``samples`` of ``test``.

    - ``train``: the samples that the trivial predictors are made from.
    - ``judges``: evaluate images; without any, tasks that end in images are left out, and what is measured by one that
      is missing is, too.
    - ``seed``: sample i is generated with the seed ``seed + i``.
    - ``options``: those of :meth:`FourM.generate`; they override the model's plans, or without any
      :data:`IMAGES` and :data:`LIKELIEST`.
    - ``paths``: the tasks (default: :func:`tasks`), each a source, intermediate targets, and the target to evaluate.
    - ``scenes``: the data set that ``test`` was rendered from. With it, captions are compared with all objects of the
      scene, without it only with those in the reference caption, and images are not counted on.

    Raises :class:`Open4MError` if there is no task or no sample, or the samples lack a modality of a task.
    """
    suite = Suite(model, test, train, judges, samples=samples, batch_size=batch_size, paths=paths, scenes=scenes)
    rows: list[Row] = []
    for path in suite.paths:
        start = time.perf_counter()
        measured = suite.task(path)
        generated = measured.figures(suite.generate(path, seed, options))
        rows += rows_of(path, measured.better, generated, measured.bound(), measured.trivial())
        log.info("%s: %.1f s", " → ".join(path), time.perf_counter() - start)
    return Result(
        samples=len(suite.test), seed=seed, options=dict(options or {}), rows=tuple(rows), reader=suite.reader()
    )


@dataclass(frozen=True, kw_only=True)
class TaskMeasure:
    """How one task is measured: the direction of each metric, the figures of one value per sample, and the figures of
    the two predictors beside the model."""

    better: Mapping[str, str]
    figures: Callable[[Sequence[Value]], Figures]
    bound: Callable[[], Figures]
    trivial: Callable[[], Figures]


class Suite:
    """The tasks of :func:`evaluate`, which describes the arguments, on samples that were read."""

    def __init__(
        self,
        model: FourM,
        test: Samples,
        train: Samples,
        judges: Judges | None = None,
        *,
        samples: int,
        batch_size: int = 32,
        paths: Sequence[Sequence[str]] | None = None,
        scenes: Scenes | None = None,
    ):
        self.model, self.judges, self.batch_size = model, judges or Judges(), batch_size
        self.paths = [tuple(path) for path in (tasks(model) if paths is None else paths)]
        if images := [" → ".join(path) for path in self.paths if is_image(path)]:
            _warn_of_missing(self.judges, images)
            self.paths = [path for path in self.paths if self.judges or not is_image(path)]
        if not self.paths or samples < 1 or not len(test) or not len(train):
            raise Open4MError(
                f"evaluation of scenes: expected tasks and samples, got {len(self.paths)} tasks that the model can do, "
                f"{min(samples, len(test))} test and {len(train)} training samples"
            )
        names = {modalities.get(key).name for path in self.paths for key in (path[0], path[-1])}
        self.test = _read(test, min(samples, len(test)), names)
        self.train = _read(train, min(TRAINING_SAMPLES, len(train)), names)
        self._truth = _truth(scenes, self.test) if scenes is not None and "caption" in names else None

    def generate(
        self, path: Sequence[str], seed: int = 0, options: Mapping[str, Any] | None = None, merged: int | None = None
    ) -> list[Value]:
        """What the model makes of a task, one value per sample.

        ``options`` override the model's plans, or without any :data:`IMAGES` and :data:`LIKELIEST`. ``merged``: of how
        many generations a value is the consensus, by default as the model's plans say, if there are no options.
        """
        if merged is None:
            merged = 1 if options else self.model.plans.merged_of(path)
        unplanned = IMAGES if is_image(path) else LIKELIEST
        fallback = unplanned if self.model.plans.of(path) is None else {}
        settings = {"seed": seed, "batch_size": self.batch_size, "options": {**fallback, **(options or {})}}
        return predict(self.model, self.test, path, merged=merged, **settings)

    def task(self, path: Sequence[str]) -> TaskMeasure:
        """How a task is measured."""
        return self._image(path) if is_image(path) else self._label(path)

    def reader(self) -> Figures:
        """How well the reader of objects does on the true images; nothing if it is not asked or there are none."""
        if self.judges.reader is None or self._truth is None or "rgb" not in self.test[0]:
            return Figures({})
        return reader_accuracy(self.judges.reader, [sample["rgb"] for sample in self.test], self._truth)

    def _label(self, path: Sequence[str]) -> TaskMeasure:
        """A task whose result is compared with a label."""
        modality = modalities.get(path[-1])
        measured_by = self.model.grids.get(path[-1], modality)  # a tokenizer that loses units leaves metrics out
        better, constant, metrics = measured_by.better, modality.trivial, lambda p, t, _: measured_by.metrics(p, t)
        if modality.name == "caption":
            better, constant, metrics = {"attribute_f1": "higher"}, most_typical, self._caption_metrics
        labels = labels_of(self.model, self.test, path)

        def figures(values: Sequence[Value]) -> Figures:
            def chosen(rows: Sequence[int]) -> dict[str, float]:
                return metrics([values[row] for row in rows], [labels[row] for row in rows], rows)

            return measure(chosen, len(labels))

        return TaskMeasure(
            better=better,
            figures=figures,
            bound=lambda: figures(reconstruct(self.model, path[-1], labels, self.batch_size)),
            trivial=lambda: figures([constant(labels_of(self.model, self.train, path))] * len(labels)),
        )

    def _caption_metrics(
        self, values: Sequence[Value], labels: Sequence[Value], rows: Sequence[int]
    ) -> dict[str, float]:
        truth = self._truth and [self._truth[row] for row in rows]
        return {"attribute_f1": attribute_f1(values, labels, truth)}

    def _image(self, path: Sequence[str]) -> TaskMeasure:
        """A task that generates images from captions.

        All columns have the Fréchet distance to real training images, so that no column is compared with the images
        that it was made from. Upper bound: reconstructed test images with their own captions. Trivial: training images
        that do not belong to the captions; for the Fréchet distance, which those would win, the mean training image for
        every caption.
        """
        real = labels_of(self.model, self.train, path)
        measured = ImageMeasure(self.judges, [sample["caption"] for sample in self.test], real, self._truth)

        def bound() -> Figures:
            return measured(reconstruct(self.model, path[-1], labels_of(self.model, self.test, path), self.batch_size))

        def trivial() -> Figures:
            unrelated = measured([real[i % len(real)] for i in range(len(self.test))])
            constant = measured([modalities.get(path[-1]).trivial(real)] * len(self.test))
            return unrelated.with_(constant, "frechet_distance")

        return TaskMeasure(better=measured.better, figures=measured, bound=bound, trivial=trivial)


def tasks(model: FourM) -> list[tuple[str, ...]]:
    """The suite's tasks that the model can do: from RGB each label; from captions RGB, directly and through CLIP."""
    targets = {modalities.get(key).name: key for key in reversed(model.config.targets)}  # the first of each name
    sources = {
        name: {modalities.get(source).source or source for source in model.config.sources(key)}
        for name, key in targets.items()
    }
    paths = [("rgb", targets[name]) for name in PREDICTED if "rgb" in sources.get(name, ())]
    if "caption" in sources.get("rgb", ()):
        paths.append(("caption", targets["rgb"]))
        if "caption" in sources.get("clip", ()) and model.config.spec(targets["clip"]).is_input:
            paths.append(("caption", targets["clip"], targets["rgb"]))
    return paths


def _warn_of_missing(judges: Judges, tasks: Sequence[str]) -> None:
    """One line about what cannot be measured of tasks that end in images."""
    missing = [name for name, judge in (("CLIP", judges.clip), ("reader of objects", judges.reader)) if judge is None]
    if missing:
        lost = "left out" if not judges else "measured by the other alone"
        log.warning("no %s to judge images with: %s %s", " and no ".join(missing), ", ".join(tasks), lost)


def is_image(path: Sequence[str]) -> bool:
    """Whether the task generates images from captions, which have no label to compare with."""
    return path[0] == "caption" and modalities.get(path[-1]).name == "rgb"


def _read(data: Samples, count: int, names: set[str]) -> list[Sample]:
    samples = [data[i] for i in range(count)]
    missing = names - samples[0].keys()
    if missing:
        raise Open4MError(
            f"evaluation of scenes: the samples have no {', '.join(sorted(missing))}; they have {', '.join(samples[0])}"
        )
    return [{name: sample[name] for name in names} for sample in samples]


def _truth(scenes: Scenes, test: list[Sample]) -> list[list[Attributes]]:
    """All attributes of all objects of each scene. Raises :class:`Open4MError` if a reference caption disagrees."""
    truth: list[list[Attributes]] = []
    for i, sample in enumerate(test):
        truth.append([solid.attributes for solid in scenes.scene(i).objects])
        mentioned = parse_caption(sample["caption"])
        if agreeing(mentioned, truth[-1]) < sum(map(len, mentioned)):
            raise Open4MError(
                f"evaluation of scenes: test sample {i} is not scene {i} of {scenes}: its caption is "
                f"{sample['caption']!r}"
            )
    return truth
