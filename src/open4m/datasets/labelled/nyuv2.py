"""NYU Depth v2 (Silberman et al., 2012), in any of the three forms that it is found in.

- ``nyu_depth_v2_labeled.mat`` and ``splits.mat``: the 1,449 images with labels. MATLAB stores arrays with their axes in
  reverse. With ``classMapping40.mat`` beside them, which maps the 894 classes to 40, there are maps of classes too.
- ``train/<scene>/*.h5`` and ``val/<scene>/*.h5``, with ``rgb`` (3, H, W) and ``depth`` (H, W) in each.
- ``train/rgb/*.png`` and ``train/depth/*.png``, or ``train/<scene>/rgb_*.jpg`` with ``sync_depth_*.png`` beside them,
  and the same for ``test`` or ``val``: 16-bit depth in millimeters.

Validation images are the test images: there are no others, and the literature reports figures on them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from open4m.datasets.coco_files import unique
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import IGNORED, Example, Labelled, NoSplit, check_example, check_split
from open4m.datasets.layouts.base import called, photo, split_of
from open4m.types import Open4MError

LABELLED_FILE, SPLITS_FILE, MAPPING_FILE = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
INSIDE = ("", "nyudepthv2", "nyu_depth_v2", "official_splits")
BESIDE = ("rgb_", "sync_depth_")
"""What the names of photos and of depth begin with where both lie in one folder."""
MILLIMETERS = 1000
MAPPED = 40
"""Classes that the 894 are mapped to (Gupta et al., 2013)."""
MOST = 1 << 31
"""Images of a file, at most."""


class NYUv2(Labelled):
    """What the three forms share."""

    name = "nyuv2"
    targets = ("depth", "semseg")

    @classmethod
    def fits(cls, root: Path) -> bool:
        return _form(root) is not None

    @classmethod
    def open(cls, root: Path, split: str) -> Labelled:
        check_split(split)
        found = _form(root)
        if found is None:
            raise Open4MError(
                f"{root}: expected {LABELLED_FILE}, folders train and val of .h5 files, or train/rgb and train/depth"
            )
        kind, base = found
        return kind.of(base, "train" if split == "train" else "test")

    @classmethod
    @abstractmethod
    def of(cls, base: Path, split: str) -> Self:
        """The split of a folder that has this form."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Matlab(NYUv2):
    """``rows``: places in the file, from 0; ``mapped``: class from 0, or IGNORED, of each of its labels."""

    root: Path
    rows: np.ndarray
    mapped: np.ndarray | None
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, base: Path, split: str) -> Self:
        path = base / SPLITS_FILE
        if not path.is_file():
            raise Open4MError(f"{path}: no such file; it says which of the images are for training")
        rows = reading.numbered(path, f"{split}Ndxs", MOST) - 1
        mapping = base / MAPPING_FILE
        found = cls(root=base, rows=rows, **_mapping(mapping))
        return found if mapping.is_file() else found.only(("depth",))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row, path = int(self.rows[index]), self.root / LABELLED_FILE
        with reading.hdf5(path) as file:
            rgb = _photo(reading.stored(file, "images", 3, "u", row))
            example: dict[str, Any] = {"rgb": np.ascontiguousarray(rgb.transpose(2, 1, 0))}
            if "depth" in self.targets:
                example["depth"] = reading.meters(reading.stored(file, "depths", 2, "iuf", row).T)
            if "semseg" in self.targets:
                labels = reading.stored(file, "labels", 2, "u", row).T
                if labels.max() >= len(self.mapped):
                    raise Open4MError(
                        f"{path}: image {row + 1}: label {labels.max()}, {len(self.mapped) - 1} are known"
                    )
                example["semseg"] = self.mapped[labels]
        check_example(example, f"{path}: image {row + 1}")
        return example

    def key(self, index: int) -> str:
        return f"{int(self.rows[index]) + 1:04d}"

    def classes(self, target: str) -> tuple[str, ...]:
        return self.class_names if target == "semseg" else ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trees(NYUv2):
    """One file per image, HDF5 or a pair of PNG; ``names``: of them, below ``root``."""

    targets = ("depth",)

    root: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, base: Path, split: str) -> Self:
        folder = _split_folder(base, split)
        names = cls.listed(base / folder) if folder else ()
        if not names:
            raise NoSplit(f"{base / (folder or split)}: no images for the split {split}")
        return cls(root=base, names=tuple(f"{folder}/{name}" for name in names))

    @staticmethod
    @abstractmethod
    def listed(folder: Path) -> list[str]:
        """The files of a split's folder, sorted."""

    def __len__(self) -> int:
        return len(self.names)

    def key(self, index: int) -> str:
        return self.names[index].rpartition(".")[0]


class _Hdf5(_Trees):
    @staticmethod
    def listed(folder: Path) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*.h5"))

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.names[index]
        with reading.hdf5(path) as file:
            rgb = _photo(reading.stored(file, "rgb", 3, "u"))
            example = {"rgb": np.ascontiguousarray(rgb.transpose(1, 2, 0))}
            if self.targets:
                example["depth"] = reading.meters(reading.stored(file, "depth", 2, "iuf"))
        check_example(example, str(path))
        return example


class _Pictures(_Trees):
    @staticmethod
    def listed(folder: Path) -> list[str]:
        if kinds := _kinds(folder):
            return [f"{kinds[0]}/{name}" for name in reading.images_in(folder / kinds[0])]
        return sorted(path.relative_to(folder).as_posix() for path in folder.glob(f"**/{BESIDE[0]}*"))

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.names[index]
        if not self.targets:
            return {"rgb": reading.photo(path)}
        folder, name = path.parent, f"{path.stem}.png"
        if kinds := _kinds(folder.parent):
            folder = folder.parent / kinds[1]
        else:
            name = name.replace(*BESIDE, 1)
        depth = reading.meters(reading.plane(folder / name) / np.float32(MILLIMETERS))
        example = {"rgb": reading.photo(path, depth.shape), "depth": depth}
        check_example(example, str(folder / name))
        return example


def _form(root: Path) -> tuple[type[NYUv2], Path] | None:
    """The form of what lies in a folder, and the folder in it that has this form."""
    for base in filter(Path.is_dir, (root / inner for inner in INSIDE)):
        if (base / LABELLED_FILE).is_file():
            return _Matlab, base
        train = _split_folder(base, "train")
        if not train:
            continue
        for scene in [train, *(f"{train}/{name}" for name in reading.folders_in(base / train)[:4])]:
            if next((base / scene).glob("*.h5"), None):
                return _Hdf5, base
            if next((base / scene).glob(f"{BESIDE[1]}*.png"), None):
                return _Pictures, base
        if _kinds(base / train):
            return _Pictures, base
    return None


def _split_folder(base: Path, split: str) -> str:
    """The folder of a split, "" if there is none; where none is for tests, that for validation."""
    found = {known: name for name in reading.folders_in(base) if (known := split_of(name))}
    return found.get(split) or (found.get("validation", "") if split == "test" else "")


def _kinds(folder: Path) -> tuple[str, str] | None:
    """The folders of photos and of their depth, if a folder has both and both hold images."""
    names = {known.name: name for name in reading.folders_in(folder) if (known := called(name))}
    found = names.get(photo().name), names.get("depth")
    return found if all(found) and all(reading.images_in(folder / name) for name in found) else None


def _photo(stored: np.ndarray) -> np.ndarray:
    """The picture (3, ...) of a file, if it is one; ValueError if not."""
    if stored.dtype != np.uint8 or len(stored) != 3:
        raise ValueError(f"expected a picture of three colors, got {stored.dtype} {stored.shape}")
    return stored


def _mapping(path: Path) -> dict[str, Any]:
    """Names of the mapped classes, and the class of each label of the file."""
    if not path.is_file():
        return {"mapped": None, "class_names": ()}
    mapped = reading.numbered(path, "mapClass", MAPPED)
    names = [str(name.item()) for name in reading.table(path, "className").ravel() if np.size(name) == 1]
    if len(names) != MAPPED:
        raise Open4MError(f"{path}: expected {MAPPED} classes, got {len(names)} names")
    return {"mapped": np.append(IGNORED, mapped - 1).astype(np.uint8), "class_names": tuple(unique(names))}


LABELLED = NYUv2
