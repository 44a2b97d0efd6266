"""One folder of images per class, as ImageNet has it and most users: ``train/<class>/*.jpg``, ``val/<class>/*.jpg``.

The classes are the folders of the training images, in order of their names; WordNet ids stay what they are. A folder
of a split only has to hold the word, as ``imagenet21k_train`` does in ImageNet-21K as it was processed for pre-training
(Ridnik et al., 2021). Where validation images lie in one folder, ImageNet's own files say their classes:
``LOC_val_solution.csv``, ``ILSVRC2012_validation_ground_truth.txt`` with ``meta.mat``, or Tiny ImageNet's
``val_annotations.txt``.

Of a tree without validation images, a tenth of the training images are for validation, chosen by a hash of the names.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from open4m import files
from open4m.datasets import tables
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import Example, Labelled, NoSplit, check_split
from open4m.datasets.layouts.base import IMAGE_SUFFIXES, split_in, suffix_of
from open4m.datasets.source import Source
from open4m.types import Open4MError

WITHIN = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
"""Where the folders of the splits may be in what was unpacked."""

BESIDE = ("", "ILSVRC2012_devkit_t12/data", "data")
"""Where ImageNet's files with the classes of validation images may be."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Folders(Labelled):
    """``files``: names of images; ``numbers``: (n,) int32, their classes; ``places``: the folder of each class, below
    ``root``; ``class_names``: by number."""

    name = "folders"
    targets = ("label",)
    general = True

    root: Path
    files: reading.Names
    numbers: np.ndarray
    places: tuple[str, ...]
    class_names: tuple[str, ...]

    @classmethod
    def fits(cls, root: Path) -> bool:
        base = _base(root)
        splits = _splits(base)
        folder = base / splits.get("train", next(iter(splits.values()), ""))
        classes = reading.folders_in(folder)
        return len(classes) > 1 and any(next(_images(folder / name), None) for name in classes[:16])

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        base = _base(root)
        splits = _splits(base)
        lent = split == "validation" and "validation" not in splits  # by the training images
        if not (split in splits or ((lent or split == "train") and ("train" in splits or not splits))):
            held = ", ".join(splits.values()) or "folders of classes alone"
            raise NoSplit(f"{base}: expected a folder {split} with one folder of images per class, got {held}")
        own, trained = splits.get(split, splits.get("train", "")), splits.get("train", splits.get(split, ""))
        flat = _flat(root, base, own) if split in splits else None
        names = sorted(set(flat.values())) if flat and own == trained else reading.folders_in(base / trained)
        _check_no_splits(base / trained, names)
        number_of = {name: number for number, name in enumerate(names)}
        found = reading.folders_in(base / own) if flat is None else flat.values()
        if unknown := sorted(set(found) - number_of.keys()):
            raise Open4MError(
                f"{base / own}: the class {unknown[0]} is not among the {len(names)} of {base / trained}"
                f"{f', and {len(unknown) - 1} more' if unknown[1:] else ''}: the splits need the same classes"
            )
        place, counts = (base / own).relative_to(root).as_posix(), []
        if flat is None:
            chosen = reading.lent(split) if "validation" not in splits and split != "test" else None
            listing = reading.Names(_listed(base / own, names, chosen, counts))
            numbers = np.repeat(np.arange(len(names), dtype=np.int32), counts)
            places = tuple(f"{place}/{name}".removeprefix("./") for name in names)
        else:
            images = _flat_images(base / own)
            if nameless := [name for name, stem in images if stem not in flat]:
                raise Open4MError(f"{base / own / nameless[0]}: no class is given for this image")
            listing = reading.Names(name for name, _ in images)
            numbers = np.array([number_of[flat[stem]] for _, stem in images], np.int32)
            places = (place,) * len(names)
        if not len(listing):
            share = (
                f" (of each image, the share for it is {reading.VALIDATION:g}: move some to {root / split})"
                if lent
                else ""
            )
            raise Open4MError(f"{base / own}: no images for {split}{share}")
        return cls(root=root, files=listing, numbers=numbers, places=places, class_names=tuple(map(_text_of, names)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        rgb = reading.photo(self.root / self.key(index))
        return {"rgb": rgb, "label": int(self.numbers[index])} if self.targets else {"rgb": rgb}

    def key(self, index: int) -> str:
        return f"{self.places[self.numbers[index]]}/{self.files[index]}"

    def classes(self, target: str) -> tuple[str, ...]:
        return self.class_names if target == "label" else ()


def _text_of(name: str) -> str:
    """The name of a folder as text, which a saved transfer holds: bytes that are no UTF-8 are written as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _base(root: Path) -> Path:
    """The folder in which the splits lie."""
    return next((root / inner for inner in WITHIN[::-1] if (root / inner).is_dir()), root)


def _splits(base: Path) -> dict[str, str]:
    """The folders of splits, by split. A folder that holds images alone may be a class that is called so."""
    found: dict[str, list[str]] = {}
    for name in reading.folders_in(base):
        split = split_in(name)
        is_flat = split == "validation" and _has_classes_of_flat(base, name)
        if split and (is_flat or reading.folders_in(base / name)):
            found.setdefault(split, []).append(name)
    for split, names in found.items():
        if len(names) > 1:
            raise Open4MError(f"{base}: the folders {' and '.join(names)} are both of the split {split}: move one away")
    return {split: name for split, (name,) in found.items()}


def _check_no_splits(folder: Path, names: Sequence[str]) -> None:
    """Raise :class:`Open4MError` if what should be a class holds the splits of a data set."""
    for name in names[:16]:
        inner = [each for each in reading.folders_in(folder / name) if split_in(each) == "train"]
        if inner and split_in(name) == "":
            raise Open4MError(
                f"{folder / name}: expected the images of a class, got a folder {inner[0]} of training data; "
                f"name the folder of one data set: --data {folder / name}"
            )


def _listed(
    folder: Path, names: Sequence[str], chosen: Callable[[str], bool] | None, counts: list[int]
) -> Iterator[str]:
    """The images of each class in turn, whose numbers are added to ``counts``."""
    for name in names:
        found = sorted(_images(folder / name)) if (folder / name).is_dir() else []
        if chosen is not None:
            found = [path for path in found if chosen(f"{name}/{path}")]
        counts.append(len(found))
        yield from found


def _images(folder: Path) -> Iterator[str]:
    """The paths of all images below a folder, in any order."""
    inner = [""]
    while inner:
        prefix = inner.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if suffix_of(entry.name) in IMAGE_SUFFIXES:  # asks nothing of the disk
                    yield prefix + entry.name
                elif entry.is_dir(follow_symlinks=False):
                    inner.append(f"{prefix}{entry.name}/")


# ---- ImageNet's validation images, which lie in one folder


def _flat_images(folder: Path) -> list[tuple[str, str]]:
    """The path and the stem of each image in a folder, or in the folder ``images`` in it."""
    inner = "images/" if (folder / "images").is_dir() else ""
    return [(inner + name, name.rpartition(".")[0]) for name in reading.images_in(folder / inner)]


def _has_classes_of_flat(base: Path, name: str) -> bool:
    return any((base / name).glob("*.JPEG")) or (base / name / "val_annotations.txt").is_file()


def _flat(root: Path, base: Path, folder: str) -> dict[str, str] | None:
    """The class of each image of a folder by its stem; None for one that has folders of classes."""
    inside = reading.folders_in(base / folder)
    if inside and inside != ["images"]:
        return None
    annotations = base / folder / "val_annotations.txt"
    if annotations.is_file():
        rows = [line.split("\t") for line in _text(annotations).splitlines() if line.strip()]
        if short := [row for row in rows if len(row) < 2]:
            raise Open4MError(f"{annotations}: expected a file and a class, with a tab between, got {short[0]}")
        return {row[0].rpartition(".")[0]: row[1] for row in rows}
    solution = next((path for place in (root, base) if (path := place / "LOC_val_solution.csv").is_file()), None)
    if solution is not None:
        rows = tables.rows(Source(str(solution)), solution.name)
        return {str(row.get("ImageId")): str(row.get("PredictionString")).partition(" ")[0] for row in rows}
    for place in (path / inner for path in (root, base) for inner in BESIDE):
        truth, meta = place / "ILSVRC2012_validation_ground_truth.txt", place / "meta.mat"
        if truth.is_file() and meta.is_file():
            return _by_number(truth, meta, base / folder)
    raise Open4MError(
        f"{base / folder}: holds images and no folders of classes; put LOC_val_solution.csv, or "
        f"ILSVRC2012_validation_ground_truth.txt and meta.mat, into {root}"
    )


def _by_number(truth: Path, meta: Path, folder: Path) -> dict[str, str]:
    """The classes of the images in order of their names, from ImageNet's own numbers, and the names of these."""
    synsets = reading.table(meta, "synsets").ravel()
    try:
        wordnet = {int(row["ILSVRC2012_ID"].item()): str(row["WNID"].item()) for row in synsets}
        classes = [wordnet[int(line)] for line in _text(truth).split()]
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise Open4MError(f"{truth}: expected the numbers of classes that {meta} names ({error!r})") from error
    images = _flat_images(folder)
    if len(images) != len(classes):
        raise Open4MError(f"{truth}: the classes of {len(classes)} images, but {folder} holds {len(images)}")
    return {stem: name for (_, stem), name in zip(images, classes, strict=True)}


def _text(path: Path) -> str:
    return files.read_bytes(path).decode("utf-8", "replace")


LABELLED = Folders
