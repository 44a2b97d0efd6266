"""What an evaluation compares: predictions of the model, reconstructions of the tokenizer, and the labels.

A task is a path of modalities, such as ``("rgb", "depth")`` or ``("caption", "clip", "rgb")``: the first is given, the
others are generated in order, and the last one is evaluated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from open4m import modalities
from open4m.generate.pipeline import FourM
from open4m.generate.plan import fitting
from open4m.modalities.frames import Frame, naming
from open4m.progress import Progress
from open4m.types import Open4MError, Sample, Value

T = TypeVar("T")


def predict(
    model: FourM,
    samples: Sequence[Sample],
    path: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 32,
    options: Mapping[str, Any] | None = None,
    merged: int = 1,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Value]:
    """Predictions of the path's last modality, one per sample.

    Sample i is generated with the seed ``seed + i``, so ``batch_size`` changes no result. With ``merged`` above 1, a
    prediction is the consensus of so many, of which number k has the seed ``seed + i + k · samples``. ``options``:
    those of :meth:`FourM.generate`, put over ``defaults``, which are :meth:`FourM.planned`; options of modalities that
    are not on the path are ignored. Raises :class:`Open4MError` for a path of one modality, a ``batch_size`` below 1,
    and values that have no consensus.
    """
    source, *targets = path
    if not targets:
        raise Open4MError(f"a task names a source and one or more targets, got {' → '.join(path)}")
    if merged > 1:
        defaults = model.planned(path, merged=True) if defaults is None else defaults
        how = {"batch_size": batch_size, "options": options, "defaults": defaults}
        several = [predict(model, samples, path, seed=seed + k * len(samples), **how) for k in range(merged)]
        found = [modalities.get(targets[-1]).consensus(values) for values in zip(*several, strict=True)]
        if any(value is None for value in found):
            raise Open4MError(f"{targets[-1]}: several predictions of it have no consensus")
        return found
    defaults = model.planned(path) if defaults is None else defaults
    own = fitting(model.config, targets, options or {})
    values: list[Value] = []
    with Progress(" → ".join(path), len(samples), unit="samples") as progress:
        for batch in _batches(samples, batch_size):
            inputs = [{source: sample[source]} for sample in batch]
            results = model.generate(inputs, targets, seed=seed + len(values), defaults=defaults, **own)
            values += [result[targets[-1]] for result in results]
            progress.update(len(values))
    return values


def reconstruct(model: FourM, key: str, values: Sequence[Value], batch_size: int = 32) -> list[Value]:
    """Values that were tokenized and decoded: an upper bound of predicting their tokens (paper Table 31, last row)."""
    if key not in model.grids:
        restored = []
        for row, value in enumerate(values):
            with naming(row):
                restored.append(model.reconstruct(value, key))
        return restored
    tokenizer = model.grids[key]
    parts = [tokenizer.decode_batch(tokenizer.encode_batch(batch)) for batch in _batches(values, batch_size)]
    return [value for part in parts for value in part]


def labels_of(
    model: FourM, samples: Sequence[Sample], path: Sequence[str], squares: Collection[str] = ()
) -> list[Value]:
    """Each sample's own value of the path's last modality, cropped as the model sees it.

    The model reads the central square of an image at the tokenizer's size, so labels are cropped like the source.
    Of boxes, which are fractions of the whole image, those outside of the square are left out. ``squares``: the
    modalities whose values show that square already, since a labeller made them.
    """
    first, key = path[0], path[-1]
    source, modality = modalities.get(first), modalities.get(key)
    size = model.grids[key].config.image_size if key in model.grids else 1  # only images have pixels
    labels = []
    for sample in samples:
        value = modality.convert(sample[modality.name])
        own = modality.extent(value)
        if own is not None:
            value = modality.fit(value, size)
        elif (extent := source.extent(source.convert(sample[first]))) is not None:
            frame = Frame(*extent)
            value = value if modality.name in squares else modality.crop(value, frame.region)
            value = frame.placed(modality, value)
        labels.append(value)
    return labels


def has_label(model: FourM, sample: Sample, path: Sequence[str], squares: Collection[str] = ()) -> bool:
    """Whether a sample has a task's source and its label, with a measurement in what the model sees."""
    modality = modalities.get(path[-1])
    if path[0] not in sample or modality.name not in sample:
        return False
    if (valid := modality.valid(modality.convert(sample[modality.name]))) is None or valid.all():
        return True
    seen = modality.valid(labels_of(model, [sample], path, squares)[0])
    return bool(seen.any())


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    if size < 1:
        raise Open4MError(f"batch_size must be at least 1, got {size}")
    for start in range(0, len(items), size):
        yield items[start : start + size]
