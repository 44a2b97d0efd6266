"""Linear probes: what the encoder's features of a place say of what is there, against what the place itself says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from open4m import modalities
from open4m.evaluate.diagnose.data import Data, Labels, Split
from open4m.evaluate.diagnose.linear import accuracy, explained
from open4m.evaluate.diagnose.measure import sentinels_of
from open4m.evaluate.diagnose.passes import by_cell
from open4m.fourm import FourMBase
from open4m.masking.whole import whole
from open4m.model.patches import patchify
from open4m.progress import Progress
from open4m.rng import stream

CELL = "cell"
"""The label that every place has: where it is."""

CELLS_PER_SAMPLE = 4
"""Random places of each sample that have labels of no object: where they are, and their class."""

MAX_EXAMPLES = 6000
"""Examples that a probe is fitted to at most: they are in memory, and decomposed at once."""

TRAIN_SHARE = 0.7
"""Share of the samples that probes are fitted to where the data has one split only."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear probe for ``label`` at places of ``source``, on test examples: accuracy of classes, R² of values.

    ``raw`` is the same probe on what the encoder is given there: a patch's pixels, or a token's embedding. ``chance``
    is the most frequent class, or 0.
    """

    source: str
    label: str
    encoder: float
    raw: float
    chance: float
    examples: int  # fitted to
    error: float  # standard error of the accuracy; NaN of R²
    is_value: bool = False  # figures are R², not accuracies


def place_labels(model: FourMBase, split: Split, grid: tuple[int, int], seed: int) -> dict[str, Labels]:
    """Labels that any data has: which cell of ``grid`` a place is in, and its class by each map of classes that the
    model can decode."""
    size = len(split)
    places = stream(seed, size).random((size, CELLS_PER_SAMPLE, 2)).reshape(-1, 2)
    sample = np.repeat(np.arange(size), CELLS_PER_SAMPLE)
    labels = {CELL: Labels(sample=sample, place=places, value=np.floor(places * grid))}
    for spec in model.config.modalities:
        key = spec.key
        if not (key in model.grids and modalities.is_known(key) and modalities.get(key).categorical):
            continue
        if key not in split.batches[0].ids:
            continue
        maps = np.concatenate([np.stack(model.grids[key].decode_batch(b.ids[key])) for b in split.batches])
        side = np.array(maps.shape[1:])
        y, x = (places * side).astype(int).T
        names = model.grids[key].config.class_names or ()
        labels[f"{key} class"] = Labels(sample=sample, place=places, value=maps[sample, y, x], classes=tuple(names))
    return labels


def probe(model: FourMBase, data: Data, source: str, seed: int) -> list[Probe]:
    """All probes of one input modality that lies on places."""
    test = data.test
    train = data.train or test
    grid = model.config.spec(source).grid
    labelled = {s: {**place_labels(model, s, grid, seed), **s.labels} for s in dict.fromkeys((train, test))}
    read = {split: _features(model, split, source, labelled[split], grid) for split in labelled}
    probes = []
    for name in labelled[test]:
        if name not in labelled[train]:
            continue
        parts = []
        for split, side in ((train, "fit"), (test, "judge")):
            labels = labelled[split][name]
            kept = np.ones(len(labels.sample), bool)
            if train is test:
                fitted = labels.sample < TRAIN_SHARE * len(split)
                kept = fitted if side == "fit" else ~fitted
            parts.append((kept, labels.value, read[split][name]))
        probes.append(_probe(source, name, *parts, seed=seed))
    return [p for p in probes if p is not None]


def _probe(source: str, name: str, train: tuple, test: tuple, seed: int) -> Probe | None:
    """A probe from (which examples, values, (features, raw)) of both sides; None if there is nothing to tell apart."""
    (kept, values, views), (judged, truth, test_views) = train, test
    chosen = np.flatnonzero(kept)
    chosen = stream(seed, len(chosen)).permutation(chosen)[:MAX_EXAMPLES]
    values, truth = values[chosen], truth[judged]
    if len(values) < 2 or not len(truth) or len(np.unique(values, axis=0)) < 2:
        return None
    is_class = values.ndim == 1
    figures = [
        (accuracy if is_class else explained)((view[chosen], values), (test_view[judged], truth))
        for view, test_view in zip(views, test_views, strict=True)
    ]
    chance = float((truth == np.bincount(values).argmax()).mean()) if is_class else 0.0
    return Probe(
        source=source,
        label=name,
        encoder=figures[0],
        raw=figures[1],
        chance=chance,
        examples=len(chosen),
        error=float(np.sqrt(figures[0] * (1 - figures[0]) / len(truth))) if is_class else float("nan"),
        is_value=not is_class,
    )


@torch.inference_mode()
def _features(
    model: FourMBase, split: Split, source: str, labels: Mapping[str, Labels], grid: tuple[int, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The encoder's features (n, D) and the raw content (n, C) at the places of each label.

    Only labelled places are kept, batch by batch.
    """
    cells = {
        name: np.minimum(label.place * grid, np.array(grid) - 1e-9).astype(int) @ [grid[1], 1]
        for name, label in labels.items()
    }
    found: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {name: [] for name in labels}
    first = 0
    with Progress(f"probes of {source}", len(split.batches)) as progress:
        for rows in split.batches:
            batch = whole(model.config, rows, source, [], sentinels_of(model)).to(model.device)
            features = by_cell(model.model.encode(batch)[:, model.config.register_tokens :], batch)
            if model.config.spec(source).content == "pixels":
                raw = patchify(batch.pixels[source], model.config.spec(source).patch_size)
            else:
                raw = by_cell(model.model.embeddings.content(batch), batch)
            for name, label in labels.items():
                inside = np.flatnonzero((label.sample >= first) & (label.sample < first + len(batch)))
                row, cell = (torch.as_tensor(a[inside]) for a in (label.sample - first, cells[name]))
                values = (v[row.to(v.device), cell.to(v.device)].float().cpu().numpy() for v in (features, raw))
                found[name].append((inside, *values))
            first += len(batch)
            progress.advance()
    return {name: _ordered(parts) for name, parts in found.items()}


def _ordered(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The examples of all batches in the order of their labels."""
    order = np.concatenate([inside for inside, *_ in parts]).argsort()
    features, raw = (np.concatenate([part[i] for part in parts])[order] for i in (1, 2))
    return features, raw
