"""What a diagnosis is made on: whole tokens of training and test samples, and labels of places for the probes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from open4m import modalities
from open4m.data.rows import RowReader, check_store
from open4m.fourm import FourMBase
from open4m.masking.batch import TokenRows
from open4m.modalities.families import Modality
from open4m.modalities.frames import frame_of, positioned
from open4m.model.config import ModalitySpec
from open4m.progress import track
from open4m.store.manifest import FILE, folder_of, open_manifest
from open4m.store.shards import HEADER, RawDataset
from open4m.store.tokens import TokenStore
from open4m.types import Open4MError, Sample

logger = logging.getLogger("open4m")

T = TypeVar("T", RawDataset, TokenStore)

TRAIN, TESTS = "train", ("validation", "test", "val")
"""Folders that hold the splits of a data set."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Examples of one thing that a probe looks for at places of samples.

    ``sample`` (n,): index of the sample. ``place`` (n, 2): row and column of the place as fractions of the image.
    ``value``: class ids (n,) int, or values (n, K) float, which are regressed. ``classes``: names, of class ids.
    """

    sample: np.ndarray
    place: np.ndarray
    value: np.ndarray
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Samples in batches of at least two, and labels by what they tell, such as ``shape``."""

    batches: list[TokenRows]
    labels: dict[str, Labels]

    def __len__(self) -> int:
        return sum(map(size_of, self.batches))


@dataclass(frozen=True, kw_only=True)
class Data:
    """``train`` is None where the data has no split that the model was trained on."""

    name: str
    test: Split
    train: Split | None = None


def open_data(model: FourMBase, root: Path, samples: int, batch_size: int = 32) -> Data:
    """The first ``samples`` of each split of a token store or of raw shards that have all its modalities.

    ``root`` is a folder with ``train`` and ``validation`` or ``test`` in it, or one data set, which is taken as test
    data. Modalities that the model does not know are passed over, and those that the data lacks are not diagnosed, nor
    are the rarest where fewer than two samples have all.
    Raises :class:`Open4MError` if there is nothing that the model reads or nothing that it predicts.
    """
    if not root.is_dir():
        raise Open4MError(f"{root}: no such folder")
    test = next((root / name for name in TESTS if (root / name).is_dir()), root)
    train = root / TRAIN if (root / TRAIN).is_dir() else None
    if test == root and train is not None:
        raise Open4MError(f"{root}: has {TRAIN} but none of {', '.join(TESTS)}; name one data set, or add a test split")
    splits = [None if folder is None else _split(model, folder, samples, batch_size) for folder in (test, train)]
    return Data(name=str(root), test=splits[0], train=splits[1])


def encoded(model: FourMBase, samples: Sequence[Sample]) -> TokenRows:
    """The tokens, pixels and vectors of samples that hold values of the same modalities, by name or by key."""
    by_name = {name: modalities.get(name) for name in samples[0]}
    samples = [{name: modality.convert(sample[name]) for name, modality in by_name.items()} for sample in samples]
    samples = [positioned(sample, by_name, frame_of(sample, by_name, squares=by_name)) for sample in samples]
    rows = TokenRows({}, {}, {})
    for spec in model.config.modalities:
        if not (name := _given_as(spec, by_name)) or not model.can_decode(spec.key):
            continue
        values = [_derived(spec, name, sample[name]) for sample in samples]
        if spec.has_codebook:
            rows.ids[spec.key] = np.stack([ids.ravel() for ids in model.grids[spec.key].encode(values)]).astype(
                np.int64
            )
        elif spec.content == "pixels":
            rows.pixels[spec.key] = np.stack([model.encode_input(spec.key, value).numpy() for value in values])
        elif spec.is_causal:
            tokens = [model.encode(spec.key, value, cut=True) for value in values]
            rows.ids[spec.key], rows.lengths[spec.key] = _padded(tokens, spec.length)
        else:
            vectors = [model.encode_input(spec.key, value).numpy() for value in values]
            rows.vectors[spec.key], rows.lengths[spec.key] = _padded(vectors, spec.length)
    return rows


def size_of(rows: TokenRows) -> int:
    """The number of samples of a batch."""
    return len(next(iter({**rows.ids, **rows.pixels, **rows.vectors}.values())))


def even_batches(count: int, batch_size: int) -> list[np.ndarray]:
    """Indices of ``count`` samples in batches of nearly equal size: none holds a single sample, which could be swapped
    with no other. Raises :class:`Open4MError` for fewer than two samples."""
    if count < 2 or batch_size < 2:
        raise Open4MError(f"a diagnosis needs at least 2 samples, in batches of at least 2: got {count}, {batch_size}")
    return np.array_split(np.arange(count), max(1, count // batch_size))


def content_keys(rows: TokenRows) -> set[str]:
    """The modalities that a batch has."""
    return {*rows.ids, *rows.pixels, *rows.vectors}


def _split(model: FourMBase, root: Path, samples: int, batch_size: int) -> Split:
    present = [spec.key for spec in model.config.modalities if (folder_of(root, spec.key) / FILE).is_file()]
    known = [modalities.get(key) for key in model.config.keys if modalities.is_known(key)]
    names = dict.fromkeys(name for modality in known for name in (modality.name, modality.source) if name)
    names = [name for name in names if (folder_of(root, name) / FILE).is_file()]
    if present and not _is_raw(root, present[0]):
        store, whole = _complete(lambda kept: TokenStore(root, kept), present)
        read = _stored(model, store)
    elif names:
        data, whole = _complete(lambda kept: RawDataset(root, kept), names)
        read = _raw(model, data)
    else:
        raise Open4MError(f"{root}: holds no modality of the model ({', '.join(model.config.keys)})")
    batches = [whole[rows] for rows in even_batches(min(samples, len(whole)), batch_size)]
    split = Split(batches=[read(rows) for rows in track(batches, f"read {root.name}", unit="batches")], labels={})
    _check_keys(model, root, content_keys(split.batches[0]))
    return split


def _complete(opened: Callable[[Sequence[str]], T], names: Sequence[str]) -> tuple[T, np.ndarray]:
    """The data and the samples that have all of its modalities, without the rarest of these where fewer than two do."""
    data, names = opened(names), list(names)
    rows = data.rows_with(*names)
    while len(rows) < 2 and len(names) > 1:
        rarest = max(names, key=data.missing)
        names.remove(rarest)
        logger.warning("%s is not diagnosed: fewer than 2 samples have it and all else", rarest)
        data = opened(names)
        rows = data.rows_with(*names)
    return data, data.central(rows) if isinstance(data, TokenStore) else rows


def _stored(model: FourMBase, store: TokenStore) -> Callable[[np.ndarray], TokenRows]:
    _check_keys(model, store.root, {*store.modalities})
    specs = [model.config.spec(key) for key in store.modalities]
    text = {spec.key: model.text for spec in specs if spec.is_causal and model.text is not None}
    unused = {"directions": (), "modalities": tuple(specs)}
    check_store(dataclasses.replace(model.config, **unused), store, {**model.grids, **text})
    read = RowReader(store, specs)
    return lambda rows: read(rows).normalized()


def _raw(model: FourMBase, data: RawDataset) -> Callable[[np.ndarray], TokenRows]:
    return lambda rows: encoded(model, [data[int(i)] for i in rows])


def _is_raw(root: Path, name: str) -> bool:
    return open_manifest(root, name).header == HEADER


def _check_keys(model: FourMBase, root: Path, keys: set[str]) -> None:
    if not keys & {*model.config.inputs} or not keys & {*model.config.targets}:
        raise Open4MError(f"{root}: expected something the model reads and something it predicts, got {sorted(keys)}")


def _given_as(spec: ModalitySpec, given: dict[str, Modality]) -> str | None:
    """The name under which samples hold what a modality of the model is made from."""
    if not modalities.is_known(spec.key):
        return None
    modality = modalities.get(spec.key)
    return next((name for name in (spec.key, modality.name, modality.source) if name in given), None)


def _derived(spec: ModalitySpec, name: str, value):
    modality = modalities.get(spec.key)
    return value if name in (spec.key, modality.name) else modality.derive(value)


def _padded(rows: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequences (n, ...) as one array (B, length, ...), zeros after the end, and their lengths (B,)."""
    first = np.asarray(rows[0])
    padded = np.zeros((len(rows), length, *first.shape[1:]), dtype=first.dtype)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded, np.array([len(values) for values in rows], dtype=np.int64)
