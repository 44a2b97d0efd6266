"""``open4m evaluate scenes``: a model against the exact labels of held-out scenes (paper F.1, F.2, Tables 31, 32).

From RGB: depth, normals, segmentation, boxes and captions, each by the metrics of its modality, captions by the F1 of
the attributes they mention. From captions: RGB, by CLIP score and by the Fréchet distance of CLIP features.

Two predictors stand beside the model: an upper bound (the label after its tokenizer and back) and a trivial one (the
best constant made from training labels). The model's place between the two is comparable across metrics.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from open4m import modalities
from open4m.datasets.scenes import Scenes, parse_caption
from open4m.evaluate.metrics import frechet
from open4m.evaluate.metrics.attributes import Attributes, agreeing, attribute_f1, most_typical
from open4m.evaluate.predict import labels_of, predict, reconstruct
from open4m.evaluate.report import Result, Row, rows_of
from open4m.generate.pipeline import FourM
from open4m.labellers.clip import CLIPLabeller
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

PREDICTED = ("depth", "normals", "semseg", "boxes", "caption")  # from RGB
PREDICTION = {"temperature": 0.0, "steps": 2}  # options of predictions: the likeliest tokens, two passes per grid
IMAGES = {"guidance": 3.0}  # options of images from captions (paper Table 32)
TRAINING_SAMPLES = 512  # for the trivial predictors and the reference of the Fréchet distance
IMAGE_METRICS = {"clip_score": "higher", "frechet_distance": "lower"}


class Samples(Protocol):
    """Samples by index: a :class:`~open4m.store.RawDataset`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


def evaluate(
    model: FourM,
    test: Samples,
    train: Samples,
    clip: CLIPLabeller | None = None,
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
    - ``clip``: evaluates images; without it, tasks that end in images are left out.
    - ``seed``: sample i is generated with the seed ``seed + i``.
    - ``options``: those of :meth:`FourM.generate`; they override :data:`PREDICTION` and :data:`IMAGES`.
    - ``paths``: the tasks (default: :func:`tasks`), each a source, intermediate targets, and the target to evaluate.
    - ``scenes``: the data set that ``test`` was rendered from. With it, captions are compared with all objects of the
      scene, without it only with those in the reference caption.

    Raises :class:`Open4MError` if there is no task or no sample, or the samples lack a modality of a task.
    """
    paths = [tuple(path) for path in (tasks(model) if paths is None else paths)]
    if clip is None:
        left_out = [" → ".join(path) for path in paths if _is_image(path)]
        paths = [path for path in paths if not _is_image(path)]
        if left_out:
            log.warning("no CLIP to judge images with: %s left out", ", ".join(left_out))
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
            rows += _images(model, path, held_out, known, clip, settings)
        else:
            settings["options"] = {**PREDICTION, **(options or {})}
            rows += _predictions(model, path, held_out, known, truth, settings)
        log.info("%s: %.1f s", " → ".join(path), time.perf_counter() - start)
    return Result(samples=len(held_out), seed=seed, options=dict(options or {}), rows=tuple(rows))


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
    metrics, better, trivial = measured_by.metrics, measured_by.better, modality.trivial
    if modality.name == "caption":
        better, trivial = {"attribute_f1": "higher"}, most_typical

        def metrics(predictions: Sequence[Value], labels: Sequence[Value]) -> dict[str, float]:
            return {"attribute_f1": attribute_f1(predictions, labels, truth)}

    labels = labels_of(model, test, path)
    constant = trivial(labels_of(model, train, path))
    columns = (
        predict(model, test, path, **settings),
        reconstruct(model, path[-1], labels, settings["batch_size"]),
        [constant] * len(labels),
    )
    return rows_of(path, better, *(metrics(values, labels) for values in columns))


def _images(
    model: FourM,
    path: tuple[str, ...],
    test: list[Sample],
    train: list[Sample],
    clip: CLIPLabeller,
    settings: dict[str, Any],
) -> list[Row]:
    """The rows of a task that generates images from captions.

    All columns have the Fréchet distance to real training images, so that no column is compared with the images that it
    was made from. Upper bound: reconstructed test images with their own captions. Trivial: for the CLIP score, training
    images that do not belong to the captions; for the distance, the mean training image for every caption.
    """
    captions = [sample["caption"] for sample in test]
    key = path[-1]
    real = labels_of(model, train, path)
    reference = clip.features(real)
    unrelated = [real[i % len(real)] for i in range(len(test))]
    mean_image = modalities.get(key).trivial(real)

    def measured(images: list[np.ndarray]) -> dict[str, float]:
        distance = frechet.distance(clip.features(images), reference)
        return {"clip_score": clip.clip_score(images, captions), "frechet_distance": distance}

    generated = measured(predict(model, test, path, **settings))
    bound = measured(reconstruct(model, key, labels_of(model, test, path), settings["batch_size"]))
    trivial = {
        "clip_score": clip.clip_score(unrelated, captions),
        "frechet_distance": frechet.distance(clip.features([mean_image] * len(test)), reference),
    }
    return rows_of(path, IMAGE_METRICS, generated, bound, trivial)


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
    attributes = ("shape", "color", "size", "material", "pattern")
    truth: list[list[Attributes]] = []
    for i, sample in enumerate(test):
        truth.append([{name: getattr(solid, name) for name in attributes} for solid in scenes.scene(i).objects])
        mentioned = parse_caption(sample["caption"])
        if agreeing(mentioned, truth[-1]) < sum(map(len, mentioned)):
            raise Open4MError(
                f"evaluation of scenes: test sample {i} is not scene {i} of {scenes}: its caption is "
                f"{sample['caption']!r}"
            )
    return truth
