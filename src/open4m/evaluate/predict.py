"""What an evaluation compares: the model's predictions, the tokenizer's reconstructions, and labels to hold them to.

A task is a path of modalities, like ``("rgb", "depth")`` or ``("caption", "clip", "rgb")``: from the values of the
first one alone, the others are generated in order, and the last one is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from open4m import modalities
from open4m.generate.pipeline import FourM
from open4m.generate.plan import fitting
from open4m.modalities.crops import Crop
from open4m.types import Open4MError, Sample, Value

log = logging.getLogger("open4m")

T = TypeVar("T")


def predict(
    model: FourM,
    samples: Sequence[Sample],
    path: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
) -> list[Value]:
    """Values of the path's last modality, one a sample.

    Sample i draws from ``seed`` + i whatever the batch size. ``options`` are those of :meth:`FourM.generate`; what
    says nothing about the path's targets is passed over.
    """
    source, *targets = path
    if not targets:
        raise Open4MError(f"a task names a source and one or more targets, got {' → '.join(path)}")
    own = fitting(model.config, targets, options or {})
    values: list[Value] = []
    for batch in _batches(samples, batch_size):
        inputs = [{source: sample[source]} for sample in batch]
        results = model.generate(inputs, targets, seed=seed + len(values), **own)
        values += [result[targets[-1]] for result in results]
        log.info("%s: %d of %d samples", " → ".join(path), len(values), len(samples))
    return values


def reconstruct(model: FourM, key: str, values: Sequence[Value], batch_size: int = 32) -> list[Value]:
    """The values after tokenizing them and back: no prediction of tokens can be better (paper Table 31, last row)."""
    if key not in model.grids:
        return [model.reconstruct(value, key) for value in values]
    tokenizer = model.grids[key]
    parts = [tokenizer.decode_batch(tokenizer.encode_batch(batch)) for batch in _batches(values, batch_size)]
    return [value for part in parts for value in part]


def labels_of(model: FourM, samples: Sequence[Sample], path: Sequence[str]) -> list[Value]:
    """The samples' own values of the path's last modality, as the model works on them.

    Images are seen as their central square at the tokenizer's size, so labels are cropped like the source.
    """
    first, key = path[0], path[-1]
    source, modality = modalities.get(first), modalities.get(key)
    size = model.grids[key].config.image_size if key in model.grids else 1  # only images have pixels
    labels = []
    for sample in samples:
        value = modality.convert(sample[modality.name])
        extents = source.extent(source.convert(sample[first])), modality.extent(value)
        extent = next((e for e in extents if e is not None), None)
        labels.append(value if extent is None else modality.crop(value, Crop.center(*extent, size)))
    return labels


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    if size < 1:
        raise Open4MError(f"batch_size must be at least 1, got {size}")
    for start in range(0, len(items), size):
        yield items[start : start + size]
