"""Raw shards of open4m with labels, ``<root>/<split>/<modality>/shard-00000.tar``, as an import writes them.

The photo's modality is the image. Boxes become ``instances`` without masks; maps of classes and all other maps have the
names of their modalities and their numbers. What pixels hold no measurement is ignored or NaN. Samples that lack one of
the targets are left out.

Manifests name the classes (:mod:`open4m.datasets.classes`). Where they do not, classes are what occurs in the training
data, in order of their names or numbers, for which all of these labels are read once.

Maps become as large as the image. Labels of networks show the central square of a photo: if one of them is a target,
examples are that square.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from open4m import modalities
from open4m.datasets.classes import of_data
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import IGNORED, Example, Instances, Labelled, NoSplit, check_split
from open4m.datasets.layouts.base import photo
from open4m.modalities.crops import Crop
from open4m.modalities.families import Modality
from open4m.modalities.frames import Frame
from open4m.progress import track
from open4m.store.manifest import FILE
from open4m.store.shards import RawDataset
from open4m.types import Boxes, Open4MError, Value

OBJECTS = "instances"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shards(Labelled):
    """``folder``: of the split. ``sources``: the modality of each target; ``class_names``: of each that has classes."""

    name = "shards"
    targets = (OBJECTS, "semseg", "depth", "normals")

    folder: Path
    data: RawDataset
    rows: np.ndarray
    sources: Mapping[str, str]
    class_names: Mapping[str, tuple[str, ...]]

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any((root / name / photo().name / FILE).is_file() for name in reading.folders_in(root))

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        if not (root / split / photo().name / FILE).is_file():
            there = [name for name in reading.folders_in(root) if (root / name / photo().name / FILE).is_file()]
            hint = "" if there else "; open4m data import makes such shards of folders of files"
            raise NoSplit(f"{root}: no {photo().name} for {split} (there is: {', '.join(there) or 'none'}){hint}")
        sources = {}
        for name in reading.folders_in(root / split):
            if (root / split / name / FILE).is_file() and modalities.is_known(name):
                target = _target(modalities.get(name))
                sources |= {target: name} if target else {}
        if not sources:
            raise NoSplit(f"{root / split}: no labels beside {photo().name}: boxes, or maps as of classes or depth")
        class_names = {
            target: _class_names(root, split, name) for target, name in sources.items() if _has_classes(name)
        }
        return cls._of(root / split, sources, class_names, tuple(sources))

    @classmethod
    def _of(
        cls,
        folder: Path,
        sources: Mapping[str, str],
        class_names: Mapping[str, tuple[str, ...]],
        targets: tuple[str, ...],
    ) -> Self:
        wanted = [photo().name, *(sources[target] for target in targets)]
        data = RawDataset(folder, wanted)
        found = cls(folder=folder, data=data, rows=data.rows_with(*wanted), sources=sources, class_names=class_names)
        if not len(found.rows):
            raise Open4MError(f"{folder}: no sample has all of {', '.join(wanted)}")
        object.__setattr__(found, "targets", targets)
        return found

    def only(self, targets: Collection[str]) -> Self:
        """Samples that lack other targets are there, too."""
        return self._of(self.folder, self.sources, self.class_names, super().only(targets).targets)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        values = self.data[int(self.rows[index])]
        known = {name: modalities.get(name) for name in values}
        size = values[photo().name].shape[:2]
        if size[0] != size[1] and self.data.squares & values.keys():
            frame, size = Frame(*size), (min(size), min(size))
            values = {name: self._squared(frame, known[name], value) for name, value in values.items()}
        where = f"{self.folder}: key {self.key(index)}"
        example = {"rgb": values[photo().name]}
        for target in self.targets:
            name = self.sources[target]
            names = self.class_names.get(target)
            if target == OBJECTS:
                example[target] = _instances(values[name], names, size, where)
            else:
                example[target] = _map(values[name], known[name], names, size, f"{where}, {name}")
        return example

    def key(self, index: int) -> str:
        return self.data.key(int(self.rows[index]))

    def classes(self, target: str) -> tuple[str, ...]:
        return self.class_names.get(target, ())

    def _squared(self, frame: Frame, modality: Modality, value: Value) -> Value:
        """What the central square of the picture shows of a value."""
        if modality.extent(value) is not None:
            return frame.squared(modality, value, min(frame.height, frame.width))
        return value if modality.name in self.data.squares else modality.crop(value, frame.region)


def _target(modality: Modality) -> str:
    """What a modality is called in examples; "" for one that is no label of a picture's places."""
    if modality.role == "objects":
        return OBJECTS
    is_map = modality.family.has_codebook and not (modality.image or modality.of_image)
    return modality.name if is_map and modality.extent(np.zeros((1, 1))) is not None else ""


def _has_classes(name: str) -> bool:
    modality = modalities.get(name)
    return modality.role == "objects" or getattr(modality, "categorical", False)


def _class_names(root: Path, split: str, name: str) -> tuple[str, ...]:
    """The classes of a modality: of all splits the same, and at most as many as one byte tells from IGNORED."""
    there = [each for each in ("train", split) if (root / each / name / FILE).is_file()]
    found = {each: of_data(root / each, name).names for each in there}
    named = {each: names for each, names in found.items() if names}
    if len(set(named.values())) > 1:
        raise Open4MError(f"{root}: {name} has other classes in {split} than in train")
    names = next(iter(named.values()), ()) or _occurring(root / there[0], name)
    if modalities.get(name).role != "objects" and len(names) > IGNORED:
        raise Open4MError(f"{root}: {name} has {len(names)} classes, at most {IGNORED} are read")
    return names


def _occurring(folder: Path, name: str) -> tuple[str, ...]:
    """The classes in all labels of a folder; of maps, the numbers up to the largest."""
    data, modality = RawDataset(folder, [name]), modalities.get(name)
    seen: set[Any] = set()
    for row in track(data.rows_with(name), f"classes of {folder / name}", unit="samples"):
        value = data[int(row)][name]
        seen |= {*value.labels} if modality.role == "objects" else {*np.unique(value[_valid(modality, value)]).tolist()}
    if not seen:
        raise Open4MError(f"{folder / name}: names no classes, and none occurs")
    return tuple(sorted(seen)) if modality.role == "objects" else tuple(str(number) for number in range(max(seen) + 1))


def _map(
    value: np.ndarray, modality: Modality, names: tuple[str, ...] | None, size: tuple[int, int], where: str
) -> np.ndarray:
    if modality.extent(value) != size:
        value = modality.crop(value, Crop(size=size))
    valid = _valid(modality, value)
    if names is None:
        return np.where(valid.reshape(*size, *[1] * (value.ndim - 2)), value.astype(np.float32), np.float32(np.nan))
    if valid.any() and (most := value[valid].max()) >= len(names):
        raise Open4MError(f"{where}: class {most}, but there are {len(names)} classes, from 0")
    return np.where(valid, value, IGNORED).astype(np.uint8)


def _valid(modality: Modality, value: np.ndarray) -> np.ndarray:
    valid = modality.valid(value)
    return np.ones(value.shape[:2], bool) if valid is None else valid


def _instances(boxes: Boxes, names: tuple[str, ...], size: tuple[int, int], where: str) -> Instances:
    if unknown := [label for label in boxes.labels if label not in names]:
        raise Open4MError(f"{where}: a box of the class {unknown[0]!r}, which is none of the {len(names)} known ones")
    corners = (boxes.corners * np.float32([size[1], size[0]] * 2)).reshape(-1, 4)
    extents = corners[:, 2:] - corners[:, :2]
    found = Instances(
        boxes=corners,
        classes=np.array([names.index(label) for label in boxes.labels], np.int64),
        masks=None,
        crowd=np.zeros(len(boxes), bool),
        area=extents.prod(1),
    )
    return found.chosen((extents > 0).all(1))


LABELLED = Shards
