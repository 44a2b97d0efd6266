"""``open4m evaluate MODEL --world scenes``: a model against the exact labels of scenes (paper F.1, F.2, Tables 31, 32).

From RGB: depth, normals, segmentation, boxes and captions, each by the metrics of its modality, captions by the F1 of
the attributes they mention. From captions: RGB, by CLIP score, by the Fréchet distance of CLIP features, and by the
objects that are read from it (``scene_images.py``). All have 95% intervals (``open4m.evaluate.intervals``).

What stands beside the model's figures is that of all suites (``labels.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from open4m import modalities
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, Scenes, parse_caption
from open4m.evaluate.intervals import Figures
from open4m.evaluate.metrics.attributes import Attributes, agreeing, attribute_f1, most_typical
from open4m.evaluate.predict import labels_of, reconstruct
from open4m.evaluate.report import Result
from open4m.evaluate.suites import labels
from open4m.evaluate.suites.labels import Samples, TaskMeasure
from open4m.evaluate.suites.scene_images import ImageMeasure, Judges, reader_accuracy
from open4m.generate.pipeline import FourM
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

PREDICTED = ("depth", "normals", "semseg", "boxes", "caption")  # from RGB
VIA = ("semseg", "clip")  # from captions to RGB, in this order
IMAGES = {"guidance": 3.0}  # options of images from captions (paper Table 32), for a model without plans of its own


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
    """Evaluate a model on the first ``samples`` of ``test``: :class:`Suite` describes the arguments, and
    :meth:`Suite.run` and :meth:`Suite.generate` ``seed`` and ``options``.

    Raises :class:`Open4MError` if there is no task or no sample, or the samples lack a modality of a task.
    """
    suite = Suite(model, test, train, judges, samples=samples, batch_size=batch_size, paths=paths, scenes=scenes)
    return suite.run(seed, options)


class Suite(labels.Suite):
    """The tasks of a model on scenes.

    - ``train``: the samples that the trivial predictors and the reference of the Fréchet distance are made from.
    - ``judges``: evaluate images; without any, tasks that end in images are left out, and what is measured by one that
      is missing is, too.
    - ``paths``: the tasks (default: :func:`tasks`), each a source, intermediate targets, and the target to evaluate.
    - ``scenes``: the data set that ``test`` was rendered from. With it, captions are compared with all objects of the
      scene, without it only with those in the reference caption, and images are not counted on.
    """

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
        self.judges = judges or Judges()
        paths = [tuple(path) for path in (tasks(model) if paths is None else paths)]
        if images := [" → ".join(path) for path in paths if is_image(path)]:
            _warn_of_missing(self.judges, images)
            paths = [path for path in paths if self.judges or not is_image(path)]
        if not len(train):
            raise Open4MError(
                f"evaluation of scenes: expected training samples, got {min(samples, len(test))} test and 0"
            )
        data = "" if scenes is None else f"{scenes.world.name}, {scenes.split} split"
        super().__init__(model, test, train, paths=paths, samples=samples, batch_size=batch_size, data=data)
        self._text = modalities.of_role("text").name
        has_truth = scenes is not None and self._text in self.test[0]
        self._truth = _truth(scenes, self.test, self._text) if has_truth else None

    def unplanned(self, path: Sequence[str]) -> Mapping[str, Any]:
        return IMAGES if is_image(path) else super().unplanned(path)

    def task(self, path: Sequence[str]) -> TaskMeasure:
        if is_image(path):
            return self._image(path)
        if modalities.get(path[-1]).is_text:
            return self.compared(path, {"attribute_f1": "higher"}, self._text_metrics, most_typical)
        return super().task(path)

    def reader(self) -> Figures:
        photo = modalities.of_role("photo").name
        if self.judges.reader is None or self._truth is None or photo not in self.test[0]:
            return Figures({})
        return reader_accuracy(self.judges.reader, [sample[photo] for sample in self.test], self._truth)

    def _text_metrics(self, values: list[Value], references: list[Value], rows: Sequence[int]) -> dict[str, float]:
        truth = self._truth and [self._truth[row] for row in rows]
        return {"attribute_f1": attribute_f1(values, references, truth)}

    def _image(self, path: Sequence[str]) -> TaskMeasure:
        """A task that generates images from captions.

        All columns have the Fréchet distance to real training images, so that no column is compared with the images
        that it was made from. Upper bound: reconstructed test images with their own captions. Trivial: training images
        that do not belong to the captions; for the Fréchet distance, which those would win, the mean training image for
        every caption.
        """
        real = labels_of(self.model, self.train, path)
        measured = ImageMeasure(self.judges, [sample[path[0]] for sample in self.test], real, self._truth)

        def bound() -> Figures:
            return measured(reconstruct(self.model, path[-1], labels_of(self.model, self.test, path), self.batch_size))

        def trivial() -> Figures:
            unrelated = measured([real[i % len(real)] for i in range(len(self.test))])
            constant = measured([modalities.get(path[-1]).trivial(real)] * len(self.test))
            return unrelated.with_(constant, "frechet_distance")

        return TaskMeasure(better=measured.better, figures=measured, bound=bound, trivial=trivial)


def tasks(model: FourM) -> list[tuple[str, ...]]:
    """The suite's tasks that the model can do: from RGB each label; from captions RGB, directly and in a chain of
    generations (paper A.1): what is where, then CLIP, then RGB."""
    targets = {modalities.get(key).name: key for key in reversed(model.config.targets)}  # the first of each name
    sources = {
        name: {modalities.get(source).source or source for source in model.config.sources(key)}
        for name, key in targets.items()
    }
    paths = [("rgb", targets[name]) for name in PREDICTED if "rgb" in sources.get(name, ())]
    if "caption" in sources.get("rgb", ()):
        paths.append(("caption", targets["rgb"]))
        able = [
            name for name in VIA if "caption" in sources.get(name, ()) and model.config.spec(targets[name]).is_input
        ]
        if able:
            paths.append(("caption", *(targets[name] for name in able), targets["rgb"]))
    return paths


def knows_scenes(model: FourM) -> bool:
    """Whether a tokenizer of the model names the classes of rendered scenes, so that it was made for them."""
    named = [tokenizer.config.class_names for tokenizer in model.grids.values()]
    named += [] if model.text is None else [model.text.class_names]
    return any(tuple(names) in (CLASSES, OBJECT_CLASSES) for names in named)


def _warn_of_missing(judges: Judges, tasks: Sequence[str]) -> None:
    """One line about what cannot be measured of tasks that end in images."""
    missing = [name for name, judge in (("CLIP", judges.clip), ("reader of objects", judges.reader)) if judge is None]
    if missing:
        lost = "left out" if not judges else "measured by the other alone"
        log.warning("no %s to judge images with: %s %s", " and no ".join(missing), ", ".join(tasks), lost)


def is_image(path: Sequence[str]) -> bool:
    """Whether the task generates images from texts, which have no label to compare with."""
    return modalities.get(path[0]).is_text and modalities.get(path[-1]).image


def _truth(scenes: Scenes, test: list[Sample], text: str) -> list[list[Attributes]]:
    """All attributes of all objects of each scene. Raises :class:`Open4MError` if a reference caption disagrees."""
    truth: list[list[Attributes]] = []
    for i, sample in enumerate(test):
        truth.append([solid.attributes for solid in scenes.scene(i).objects])
        mentioned = parse_caption(sample[text])
        if agreeing(mentioned, truth[-1]) < sum(map(len, mentioned)):
            raise Open4MError(
                f"evaluation of scenes: test sample {i} is not scene {i} of {scenes}: its caption is "
                f"{sample['caption']!r}"
            )
    return truth
