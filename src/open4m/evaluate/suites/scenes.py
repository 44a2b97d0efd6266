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
from typing import Any, Protocol

from open4m import modalities
from open4m.datasets.scenes import Scenes, parse_caption
from open4m.evaluate.intervals import Figures, measure
from open4m.evaluate.metrics.attributes import Attributes, agreeing, attribute_f1, most_typical
from open4m.evaluate.predict import labels_of, predict, reconstruct
from open4m.evaluate.report import Result, Row, rows_of
from open4m.evaluate.suites.scene_images import ImageMeasure, Judges, reader_accuracy
from open4m.generate.pipeline import FourM
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

PREDICTED = ("depth", "normals", "semseg", "boxes", "caption")  # from RGB
PREDICTION = {"temperature": 0.0, "steps": 2}  # options of predictions: the likeliest tokens, two passes per grid
IMAGES = {"guidance": 3.0}  # options of images from captions (paper Table 32)
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
    - ``options``: those of :meth:`FourM.generate`; they override :data:`PREDICTION` and :data:`IMAGES`.
    - ``paths``: the tasks (default: :func:`tasks`), each a source, intermediate targets, and the target to evaluate.
    - ``scenes``: the data set that ``test`` was rendered from. With it, captions are compared with all objects of the
      scene, without it only with those in the reference caption, and images are not counted on.

    Raises :class:`Open4MError` if there is no task or no sample, or the samples lack a modality of a task.
    """
    judges = judges or Judges()
    paths = [tuple(path) for path in (tasks(model) if paths is None else paths)]
    if images := [" → ".join(path) for path in paths if _is_image(path)]:
        _warn_of_missing(judges, images)
        paths = [path for path in paths if judges or not _is_image(path)]
    if not paths or samples < 1 or not len(test) or not len(train):
        raise Open4MError(
            f"evaluation of scenes: expected tasks and samples, got {len(paths)} tasks that the model can do, "
            f"{min(samples, len(test))} test and {len(train)} training samples"
        )
    names = {modalities.get(key).name for path in paths for key in (path[0], path[-1])}
    held_out = _read(test, min(samples, len(test)), names)
    known = _read(train, min(TRAINING_SAMPLES, len(train)), names)
    truth = _truth(scenes, held_out) if scenes is not None and "caption" in names else None
    rows: list[Row] = []
    for path in paths:
        start = time.perf_counter()
        settings = {"seed": seed, "batch_size": batch_size}
        if _is_image(path):
            settings["options"] = {**IMAGES, **(options or {})}
            rows += _images(model, path, held_out, known, judges, truth, settings)
        else:
            settings["options"] = {**PREDICTION, **(options or {})}
            rows += _predictions(model, path, held_out, known, truth, settings)
        log.info("%s: %.1f s", " → ".join(path), time.perf_counter() - start)
    reader = Figures({})
    if judges.reader is not None and truth is not None and "rgb" in names:
        reader = reader_accuracy(judges.reader, [sample["rgb"] for sample in held_out], truth)
    return Result(samples=len(held_out), seed=seed, options=dict(options or {}), rows=tuple(rows), reader=reader)


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


def _predictions(
    model: FourM,
    path: tuple[str, ...],
    test: list[Sample],
    train: list[Sample],
    truth: list[list[Attributes]] | None,
    settings: dict[str, Any],
) -> list[Row]:
    """The rows of a task whose result is compared with a label."""
    modality = modalities.get(path[-1])
    measured_by = model.grids.get(path[-1], modality)  # a tokenizer that loses units leaves metrics out
    better, trivial, metrics = measured_by.better, modality.trivial, lambda p, t, _: measured_by.metrics(p, t)
    if modality.name == "caption":
        better, trivial, metrics = {"attribute_f1": "higher"}, most_typical, _caption_metrics(truth)
    labels = labels_of(model, test, path)
    constant = trivial(labels_of(model, train, path))
    columns = (
        predict(model, test, path, **settings),
        reconstruct(model, path[-1], labels, settings["batch_size"]),
        [constant] * len(labels),
    )

    def figures(values: Sequence[Value]) -> Figures:
        return measure(
            lambda rows: metrics([values[row] for row in rows], [labels[row] for row in rows], rows), len(labels)
        )

    return rows_of(path, better, *map(figures, columns))


def _caption_metrics(truth: list[list[Attributes]] | None) -> Callable[..., dict[str, float]]:
    """The metrics of captions, their references and the samples that they are of."""
    return lambda values, labels, rows: {
        "attribute_f1": attribute_f1(values, labels, truth and [truth[row] for row in rows])
    }


def _images(
    model: FourM,
    path: tuple[str, ...],
    test: list[Sample],
    train: list[Sample],
    judges: Judges,
    truth: list[list[Attributes]] | None,
    settings: dict[str, Any],
) -> list[Row]:
    """The rows of a task that generates images from captions.

    All columns have the Fréchet distance to real training images, so that no column is compared with the images that it
    was made from. Upper bound: reconstructed test images with their own captions. Trivial: training images that do not
    belong to the captions; for the Fréchet distance, which those would win, the mean training image for every caption.
    """
    key = path[-1]
    real = labels_of(model, train, path)
    measured = ImageMeasure(judges, [sample["caption"] for sample in test], real, truth)
    generated = measured(predict(model, test, path, **settings))
    bound = measured(reconstruct(model, key, labels_of(model, test, path), settings["batch_size"]))
    trivial = measured([real[i % len(real)] for i in range(len(test))])
    constant = measured([modalities.get(key).trivial(real)] * len(test))
    trivial = trivial.with_(constant, "frechet_distance")
    return rows_of(path, measured.better, generated, bound, trivial)


def _warn_of_missing(judges: Judges, tasks: Sequence[str]) -> None:
    """One line about what cannot be measured of tasks that end in images."""
    missing = [name for name, judge in (("CLIP", judges.clip), ("reader of objects", judges.reader)) if judge is None]
    if missing:
        lost = "left out" if not judges else "measured by the other alone"
        log.warning("no %s to judge images with: %s %s", " and no ".join(missing), ", ".join(tasks), lost)


def _is_image(path: Sequence[str]) -> bool:
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
