"""ADE20K's scene parsing data of 150 classes, ``ADEChallengeData2016`` (Zhou et al., 2017).

``images/training/*.jpg`` and ``annotations/training/*.png``, and both for ``validation``. In the maps, 0 is not
labelled, and the classes are 1 to 150.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from open4m import files
from open4m.datasets.coco_files import unique
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import IGNORED, Example, Labelled, NoSplit, check_example, check_split
from open4m.types import Open4MError

SPLITS = {"train": "training", "validation": "validation"}
CLASSES = 150
NAMES = "objectInfo150.txt"
INSIDE = "ADEChallengeData2016"
"""The folder that the archive has."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ADE20K(Labelled):
    """``folder``: of the split; ``images``: the files in it."""

    name = "ade20k"
    targets = ("semseg",)

    root: Path
    folder: str
    images: tuple[str, ...]
    class_names: tuple[str, ...]

    @classmethod
    def fits(cls, root: Path) -> bool:
        base = _base(root)
        return all((base / kind / folder).is_dir() for kind in ("images", "annotations") for folder in SPLITS.values())

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        if split not in SPLITS:
            raise NoSplit(f"{root}: the labels of ADE20K's split {split} are not public; take validation")
        base = _base(root)
        images = reading.images_in(base / "images" / SPLITS[split])
        if not images:
            raise NoSplit(f"{base / 'images' / SPLITS[split]}: no images")
        return cls(root=base, folder=SPLITS[split], images=tuple(images), class_names=_names(base))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        image = self.root / "images" / self.folder / self.images[index]
        if not self.targets:
            return {"rgb": reading.photo(image)}
        path = self.root / "annotations" / self.folder / f"{image.stem}.png"
        labels = reading.plane(path)
        if (most := int(labels.max())) > CLASSES:
            raise Open4MError(f"{path}: expected classes from 0 to {CLASSES}, got {most}")
        semseg = np.where(labels == 0, IGNORED, labels.astype(np.int16) - 1).astype(np.uint8)
        example = {"rgb": reading.photo(image, semseg.shape), "semseg": semseg}
        check_example(example, str(path))
        return example

    def key(self, index: int) -> str:
        return self.images[index].rpartition(".")[0]

    def classes(self, target: str) -> tuple[str, ...]:
        return self.class_names if target == "semseg" else ()


def _base(root: Path) -> Path:
    return root / INSIDE if (root / INSIDE).is_dir() else root


def _names(base: Path) -> tuple[str, ...]:
    """The last column of each line behind the first, whose columns tabs divide; in the version as CSV, commas, and
    semicolons divide the names of a class."""
    path = base / NAMES
    if not path.is_file():
        return tuple(str(number) for number in range(1, CLASSES + 1))
    rows = [line for line in files.read_bytes(path).decode("utf-8", "replace").splitlines()[1:] if line.strip()]
    names = [(row.split("\t") if "\t" in row else row.split(",", 5))[-1].replace(";", ",") for row in rows]
    found = unique(name.split(",")[0].strip() for name in names)
    if len(found) != CLASSES:
        raise Open4MError(f"{path}: expected a line of titles and {CLASSES} classes, got {len(found)}")
    return tuple(found)


LABELLED = ADE20K
