"""DIODE (Vasiljevic et al., 2019): ``val/indoors/scene_*/scan_*/*.png`` and, beside each image, ``*_depth.npy`` in
meters, ``*_depth_mask.npy``, 1 where a depth was measured, and ``*_normal.npy``.

Normals are in the camera's frame, x right, y up, z toward the viewer, and of length 0 where they are not known. They
come in archives of their own, and may be missing. The test images are not public.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import Example, Labelled, NoSplit, check_example, check_split
from open4m.datasets.layouts.base import split_of
from open4m.types import Open4MError

PLACES = ("indoors", "outdoor")
IMAGES = "scene_*/scan_*/*.png"


@dataclass(frozen=True, kw_only=True, eq=False)
class Diode(Labelled):
    """``images``: their files below ``root``."""

    name = "diode"
    targets = ("depth", "normals")

    root: Path
    images: tuple[str, ...]

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any(next((root / folder).glob("*/scene_*/scan_*"), None) for folder in _splits(root).values())

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        folder = root / _splits(root).get(split, split)
        images = [p.relative_to(root).as_posix() for place in PLACES for p in (folder / place).glob(IMAGES)]
        if not images:
            raise NoSplit(f"{folder}: expected {' or '.join(PLACES)} with {IMAGES} in it, found no image")
        found = cls(root=root, images=tuple(sorted(images)))
        beside = {
            target: found._beside(0, ending).is_file() for target, ending in (("depth", "depth"), ("normals", "normal"))
        }
        if not any(beside.values()):
            raise Open4MError(f"{root / found.images[0]}: neither depth nor normals are beside this image")
        return found.only([target for target in cls.targets if beside[target]])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        example: dict[str, Any] = {"rgb": reading.photo(self.root / self.images[index])}
        if "depth" in self.targets:
            depth, mask = (reading.array(self._beside(index, part)) for part in ("depth", "depth_mask"))
            if mask.shape != depth.shape:
                raise Open4MError(f"{self._beside(index, 'depth_mask')}: is {mask.shape}, the depth {depth.shape}")
            example["depth"] = reading.meters(depth, mask > 0)
        if "normals" in self.targets:
            example["normals"] = reading.directions(reading.array(self._beside(index, "normal"), channels=3))
        check_example(example, str(self.root / self.images[index]))
        return example

    def key(self, index: int) -> str:
        return self.images[index].removesuffix(".png")

    def _beside(self, index: int, part: str) -> Path:
        path = self.root / self.images[index]
        return path.with_name(f"{path.stem}_{part}.npy")


def _splits(root: Path) -> dict[str, str]:
    """The folders of splits with places in them, by split."""
    folders = [name for name in reading.folders_in(root) if any((root / name / place).is_dir() for place in PLACES)]
    return {split: name for name in folders if (split := split_of(name))}


LABELLED = Diode
