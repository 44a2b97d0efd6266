"""``open4m evaluate MODEL --data RAW``: a model against the labels of any raw data, by the metrics of its modalities.

Two predictors stand beside the model: an upper bound (the label after its tokenizer and back) and a trivial one (the
best constant made from training labels). The model's place between the two is comparable across metrics. All figures
have 95% intervals (``open4m.evaluate.intervals``). A suite of one data set, which knows more of it, is a subclass.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from open4m import modalities
from open4m.datasets.classes import of_data
from open4m.evaluate.intervals import Figures, measure
from open4m.evaluate.predict import has_label, labels_of, predict, reconstruct
from open4m.evaluate.report import Result, Row, rows_of
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.store.manifest import FILE, folder_of
from open4m.store.shards import RawDataset
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

TRAINING_SAMPLES = 512
"""Training samples that the trivial predictors are made from, at most."""

TRAIN, TESTS = "train", ("test", "validation", "val")
"""Folders that hold the splits of a data set: of several for tests, the first is measured."""

HELD_OUT = ("validation", "val", "test")
"""Those that settings are chosen on, so that figures of the test split stay those of samples that nothing follows."""


class Samples(Protocol):
    """Samples by index: a :class:`~open4m.store.RawDataset`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class TaskMeasure:
    """How one task is measured: the direction of each metric, the figures of one value per sample, and the figures of
    the two predictors beside the model."""

    better: Mapping[str, str]
    figures: Callable[[Sequence[Value]], Figures]
    bound: Callable[[], Figures]
    trivial: Callable[[], Figures]


class Suite:
    """Tasks of a model, on the first ``samples`` of ``test``.

    - ``train``: the samples that the trivial predictors are made from; without any, those are not measured.
      A task is measured on the samples that have its source and a label with a measurement in what the model sees.
    - ``paths``: the tasks, each a source, intermediate targets, and the target to evaluate.
    - ``squares``: the modalities whose values show the central square of the image (:class:`RawDataset`).
    - ``data``: what the samples are called in the result.

    Raises :class:`Open4MError` if there is no task or no sample, or the samples lack a modality of a task.
    """

    def __init__(
        self,
        model: FourM,
        test: Samples,
        train: Samples = (),
        *,
        paths: Sequence[Sequence[str]],
        samples: int = 128,
        batch_size: int = 32,
        squares: Collection[str] = (),
        data: str = "",
    ):
        self.model, self.batch_size, self.squares, self.data = model, batch_size, squares, data
        self._usable: dict[tuple[str, str], list[Sample]] = {}
        self.paths = [tuple(path) for path in paths]
        if not self.paths or samples < 1 or not len(test):
            raise Open4MError(
                f"evaluation: expected tasks and samples, got {len(self.paths)} tasks that the model can do, "
                f"{min(samples, len(test))} test and {len(train)} training samples"
            )
        names = {modalities.get(key).name for path in self.paths for key in (path[0], path[-1])}
        self.test = _read(test, min(samples, len(test)), names)
        self.train = _read(train, min(TRAINING_SAMPLES, len(train)), names)
        for path in self.paths:
            if not (count := len(self.usable(path))):
                raise Open4MError(f"evaluation: {' → '.join(path)}: no sample has both and a measurement of the label")
            if count < len(self.test):
                log.info("%s: %d of %d samples have both", " → ".join(path), count, len(self.test))

    def run(self, seed: int = 0, options: Mapping[str, Any] | None = None) -> Result:
        """Measure all tasks. Sample i is generated with the seed ``seed + i``; ``options``: see :meth:`generate`."""
        rows: list[Row] = []
        measures = [self.task(path) for path in self.paths]
        bounds = [measured.bound() for measured in measures]  # first, since labels that the model does not know fail
        for path, measured, bound in zip(self.paths, measures, bounds, strict=True):
            start = time.perf_counter()
            generated = measured.figures(self.generate(path, seed, options))
            rows += rows_of(path, measured.better, generated, bound, measured.trivial())
            log.info("%s: %.1f s", " → ".join(path), time.perf_counter() - start)
        about = {"samples": len(self.test), "seed": seed, "options": dict(options or {}), "data": self.data}
        return Result(rows=tuple(rows), reader=self.reader(), **about)

    def generate(
        self, path: Sequence[str], seed: int = 0, options: Mapping[str, Any] | None = None, merged: int | None = None
    ) -> list[Value]:
        """What the model makes of a task, one value per sample.

        ``options``: those of :meth:`FourM.generate`; they override the model's plans, or without any those of
        :meth:`unplanned`. ``merged``: of how many generations a value is the consensus, by default as the model's plans
        say, if there are no options.
        """
        if merged is None:
            several = None if options else self.model.plans.merged_of(path)
            merged = several.samples if several else 1
        plans = self.model.plans
        fallback = self.unplanned(path) if (plans.merged_of(path) if merged > 1 else plans.of(path)) is None else {}
        settings = {"seed": seed, "batch_size": self.batch_size, "options": {**fallback, **(options or {})}}
        return predict(self.model, self.usable(path), path, merged=merged, **settings)

    def usable(self, path: Sequence[str]) -> list[Sample]:
        """The samples of the test that have a task's source and its label."""
        if (key := (path[0], path[-1])) not in self._usable:
            self._usable[key] = self._labelled(self.test, path)
        return self._usable[key]

    def _labelled(self, samples: Sequence[Sample], path: Sequence[str]) -> list[Sample]:
        return [sample for sample in samples if has_label(self.model, sample, path, self.squares)]

    def unplanned(self, path: Sequence[str]) -> Mapping[str, Any]:
        """How a task is generated by a model without a plan for it: labels are the likeliest, images are sampled."""
        return {} if modalities.get(path[-1]).image else LIKELIEST

    def task(self, path: Sequence[str]) -> TaskMeasure:
        """How a task is measured: its result is compared with a label."""
        modality = modalities.get(path[-1])
        measured_by = self.model.grids.get(path[-1], modality)  # a tokenizer that loses units leaves metrics out
        return self.compared(path, measured_by.better, lambda p, t, _: measured_by.metrics(p, t), modality.trivial)

    def compared(
        self,
        path: Sequence[str],
        better: Mapping[str, str],
        metrics: Callable[[list[Value], list[Value], Sequence[int]], Mapping[str, float]],
        constant: Callable[[Sequence[Value]], Value | None],
    ) -> TaskMeasure:
        """A comparison with labels. ``metrics``: of predictions and labels of the samples of some indices;
        ``constant``: the best constant prediction for given labels."""
        labels = labels_of(self.model, self.usable(path), path, self.squares)

        def figures(values: Sequence[Value]) -> Figures:
            def chosen(rows: Sequence[int]) -> Mapping[str, float]:
                return metrics([values[row] for row in rows], [labels[row] for row in rows], rows)

            return measure(chosen, len(labels))

        def trivial() -> Figures:
            known = self._labelled(self.train, path)
            best = constant(labels_of(self.model, known, path, self.squares)) if known else None
            return Figures(dict.fromkeys(better, math.nan)) if best is None else figures([best] * len(labels))

        return TaskMeasure(
            better=better,
            figures=figures,
            bound=lambda: figures(reconstruct(self.model, path[-1], labels, self.batch_size)),
            trivial=trivial,
        )

    def reader(self) -> Figures:
        """How well the reader of objects, if there is one, does on the true images."""
        return Figures({})


def open_suite(
    model: FourM,
    root: Path,
    *,
    samples: int,
    known: int = TRAINING_SAMPLES,
    batch_size: int = 32,
    splits: Sequence[str] = TESTS,
) -> Suite:
    """The suite of raw data: all labels that the data have, the model predicts and a metric compares.

    ``root`` is a folder with ``train`` and ``test`` or ``validation`` in it, or one data set, which is taken as test
    data; the trivial predictors are then not measured. ``splits``: which of those for tests is taken, the first that is
    there. Raises :class:`Open4MError` if nothing can be measured.
    """
    if not root.is_dir():
        raise Open4MError(f"{root}: no such folder; expected raw shards")
    test = next((root / name for name in splits if (root / name).is_dir()), root)
    train = root / TRAIN if (root / TRAIN).is_dir() else None
    if test == root and train is not None:
        raise Open4MError(f"{root}: has {TRAIN} but none of {', '.join(TESTS)}; name one data set, or add a test split")
    names = stored(model, test)
    paths, unmeasured = tasks(model, names)
    if not paths:
        without = f"; no metric compares with a label: {', '.join(unmeasured)}" if unmeasured else ""
        raise Open4MError(
            f"{test}: expected something the model reads and labels that it predicts, got "
            f"{', '.join(names) or 'none of its modalities'}{without} (inputs: {', '.join(model.config.inputs)}; "
            f"targets: {', '.join(model.config.targets)})"
        )
    if unmeasured:
        log.warning("not measured, since no metric compares them with a label: %s", ", ".join(unmeasured))
    for _, key in paths:
        check_classes(model, test, key)
    used = [*dict.fromkeys(modalities.get(key).name for path in paths for key in (path[0], path[-1]))]
    data = RawDataset(test, used)
    training = _first(RawDataset(train, used), known) if train is not None else ()
    sizes = {"samples": samples, "batch_size": batch_size}
    return Suite(model, data, training, paths=paths, squares=data.squares, data=str(test), **sizes)


def check_classes(model: FourM, root: Path, key: str) -> None:
    """Raise :class:`Open4MError` if the class ids of raw data mean something else than those of the model's tokenizer:
    both name their classes, and not alike."""
    if (grid := model.grids.get(key)) is None:
        return
    known, named = grid.config.class_names, of_data(root, modalities.get(key).name).names
    differ = [i for i, name in enumerate(named) if known[i : i + 1] != (name,)]
    if known and differ:
        other = repr(known[differ[0]]) if differ[0] < len(known) else "no class"
        raise Open4MError(
            f"{root}: class {differ[0]} of {key} is {named[differ[0]]!r}, but {other} to the model's tokenizer; a "
            "model of other classes cannot be measured here"
        )


def stored(model: FourM, root: Path) -> list[str]:
    """The modalities of a model that raw data hold, or hold the source of."""

    def is_there(name: str) -> bool:
        source = modalities.get(name).source
        return (folder_of(root, name) / FILE).is_file() or (source is not None and is_there(source))

    return [name for name in dict.fromkeys(_names(model).values()) if is_there(name)]


def tasks(model: FourM, names: Collection[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """The tasks that ``names`` allow, and the targets that cannot be measured: those without metrics, and images, since
    many others than the label are as right.

    A target is predicted from the photo or, if that is not there or the model was not trained to, from the first of its
    sources that is.
    """
    by_key, paths, unmeasured = _names(model), [], []
    for key in model.config.targets:
        if by_key.get(key) not in names or not model.can_decode(key):
            continue
        sources = [by_key[source] for source in model.config.sources(key) if source in by_key]
        sources = [name for name in dict.fromkeys(sources) if name in names and name != by_key[key]]
        if not sources:
            continue
        if modalities.get(key).image or not model.grids.get(key, modalities.get(key)).better:
            unmeasured.append(key)
            continue
        photos = [name for name in sources if modalities.get(name).image]
        paths.append(((photos or sources)[0], key))
    return paths, unmeasured


def _names(model: FourM) -> dict[str, str]:
    """Under which name users' data hold each modality of a model, by its key: pixels are those of an image."""
    config = model.config
    read = {key: name for name, key in config.readers.items()}
    return {key: read.get(key) or modalities.get(key).name for key in config.keys if modalities.is_known(key)}


def _first(data: RawDataset, count: int) -> list[Sample]:
    return [data[i] for i in range(min(count, TRAINING_SAMPLES, len(data)))]


def _read(data: Samples, count: int, names: set[str]) -> list[Sample]:
    samples = [data[i] for i in range(count)]
    held = dict.fromkeys(name for sample in samples for name in sample)
    if samples and (missing := names - held.keys()):
        raise Open4MError(f"evaluation: the samples have no {', '.join(sorted(missing))}; they have {', '.join(held)}")
    return [{name: sample[name] for name in names if name in sample} for sample in samples]
