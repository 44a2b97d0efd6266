"""Taskonomy (Zamir et al., 2018): rooms of scanned buildings, with many maps of each view (paper E.1).

A file is ``point_<p>_view_<v>_domain_<domain>.png`` in a folder ``<building>/<domain>``, ``<domain>/<building>``,
``<domain>/taskonomy/<building>`` or ``<building>_<domain>``; domains that the first view lacks are no targets. Tables
with the columns id, train, val and test say which buildings are for what (``train_val_test_tiny.csv`` and larger
ones); without one, it is the split Tiny, which the paper uses.

====================  =======================================================================================
target                of the domain of the same name, but depth (``depth_zbuffer``) and normals (``normal``)
====================  =======================================================================================
depth                 (H, W), meters along the optical axis: 16 bits of 1/512 m, the largest is no measurement
normals               (H, W, 3), x right, y up, z toward the viewer
principal_curvature   (H, W, 2), from -1 to 1, where 8 bits hold 0 as 127
reshading             (H, W), from 0 to 1
edge_texture          (H, W), from 0 to 1, of 16 bits; so are edge_occlusion, keypoints2d and keypoints3d
====================  =======================================================================================

Maps of the scanned surface are NaN where there is none, where the depth says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from open4m.datasets import tables
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import Example, Labelled, NoSplit, check_example, check_split
from open4m.datasets.source import Source
from open4m.types import Open4MError

UNIT, UNMEASURED = 512, 65535
PLACES = (
    "{building}_{domain}/{domain}",
    "{building}/{domain}",
    "{domain}/{building}",
    "{domain}/taskonomy/{building}",
    "{building}_{domain}",
)
PHOTOS, DEPTHS = "rgb", "depth_zbuffer"
VIEW = "point_{}_view_{}_domain_"
TINY = {
    "train": [
        "allensville",
        "beechwood",
        "benevolence",
        "coffeen",
        "cosmos",
        "forkland",
        "hanson",
        "hiteman",
        "klickitat",
        "lakeville",
        "leonardo",
        "lindenwood",
        "marstons",
        "merom",
        "mifflinburg",
        "newfields",
        "onaga",
        "pinesdale",
        "pomaria",
        "ranchester",
        "shelbyville",
        "stockman",
        "tolstoy",
        "wainscott",
        "woodbine",
    ],
    "validation": ["collierville", "corozal", "darden", "markleeville", "wiconisco"],
    "test": ["ihlen", "mcdade", "muleshoe", "noxapater", "uvalda"],
}
COLUMNS = {"train": "train", "validation": "val", "test": "test"}


def _of_16_bits(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) / np.float32(65535)


def _of_gray(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:2], -1)[..., 0].astype(np.float32) / np.float32(255)


def _curvature(values: np.ndarray) -> np.ndarray:
    return (values[..., :2].astype(np.float32) - 127) / np.float32(128)


def _normals(values: np.ndarray) -> np.ndarray:
    """Tools have written z toward the viewer and away from it: surfaces that are seen face the viewer."""
    vectors = reading.directions(values[..., :3] / np.float32(127.5) - 1) * np.float32([1, -1, 1])
    away = np.nansum(vectors[..., 2]) < 0
    return vectors * np.float32([1, 1, -1]) if away else vectors


@dataclass(frozen=True)
class _Domain:
    """Where a target comes from. ``channels``: numbers per pixel of a file, any of these. ``of_surface``: it is unknown
    where no surface was scanned."""

    name: str
    convert: Callable[[np.ndarray], np.ndarray]
    channels: tuple[int, ...] = (1,)
    of_surface: bool = False


DOMAINS = {
    "depth": _Domain(DEPTHS, lambda values: values / np.float32(UNIT), of_surface=True),
    "normals": _Domain("normal", _normals, (3, 4), of_surface=True),
    "principal_curvature": _Domain("principal_curvature", _curvature, (3, 4), of_surface=True),
    "reshading": _Domain("reshading", _of_gray, (1, 3, 4), of_surface=True),
    "edge_texture": _Domain("edge_texture", _of_16_bits),
    "edge_occlusion": _Domain("edge_occlusion", _of_16_bits, of_surface=True),
    "keypoints2d": _Domain("keypoints2d", _of_16_bits),
    "keypoints3d": _Domain("keypoints3d", _of_16_bits, of_surface=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Taskonomy(Labelled):
    """``place``: one of ``PLACES``; ``views``: what the names of the files of each view begin with; ``of``: (n,) int32,
    their buildings. ``has_depth``: whether there are depths, which say where there is a surface."""

    name = "taskonomy"
    targets = tuple(DOMAINS)

    root: Path
    place: str
    buildings: tuple[str, ...]
    views: reading.Names
    of: np.ndarray
    has_depth: bool

    @classmethod
    def fits(cls, root: Path) -> bool:
        return next(_found(root), None) is not None

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        place, buildings = next(_found(root), (None, []))
        if place is None:
            raise Open4MError(f"{root}: expected {VIEW.format(0, 0)}{PHOTOS}.png in a folder like {', '.join(PLACES)}")
        wanted = _split(root, split)
        own = [building for building in buildings if building.lower() in wanted]
        counts: list[int] = []
        views = reading.Names(_views(root, place, own, counts))
        if not len(views):
            raise NoSplit(
                f"{root}: none of its {len(buildings)} buildings is for {split}: put the table that says which are, "
                "such as train_val_test_fullplus.csv, into this folder"
            )
        found = cls(
            root=root,
            place=place,
            buildings=tuple(own),
            views=views,
            of=np.repeat(np.arange(len(own), dtype=np.int32), counts),
            has_depth=(root / place.format(building=own[0], domain=DEPTHS)).is_dir(),
        )
        return found.only([target for target, domain in DOMAINS.items() if found._path(0, domain.name).is_file()])

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Example:
        photo = self._path(index, PHOTOS)
        example = {"rgb": reading.photo(photo)}
        domains = {target: DOMAINS[target] for target in self.targets}
        known = None
        if self.has_depth and any(domain.of_surface for domain in domains.values()):
            path = self._path(index, DEPTHS)
            known = reading.plane(path)
            known = (known > 0) & (known < UNMEASURED)
        for target, domain in domains.items():
            path = self._path(index, domain.name)
            values = reading.numbers(path)
            if (channels := values.shape[2] if values.ndim > 2 else 1) not in domain.channels:
                expected = " or ".join(map(str, domain.channels))
                raise Open4MError(f"{path}: expected {expected} numbers per pixel, got {channels}")
            value = domain.convert(values)
            if known is not None and domain.of_surface and known.shape == value.shape[:2]:
                value = np.where(known.reshape(*known.shape, *[1] * (value.ndim - 2)), value, np.float32(np.nan))
            example[target] = value
        check_example(example, str(photo))
        return example

    def key(self, index: int) -> str:
        return f"{self.buildings[self.of[index]]}/{self.views[index]}"

    def _path(self, index: int, domain: str) -> Path:
        folder = self.place.format(building=self.buildings[self.of[index]], domain=domain)
        return self.root / folder / f"{self.views[index]}_domain_{domain}.png"


def _found(root: Path) -> Iterator[tuple[str, list[str]]]:
    """How folders are called in the tree, and the buildings that are there."""
    ending = f"_{PHOTOS}"
    inside = reading.folders_in(root)
    joint = [name.removesuffix(ending) for name in inside if name.endswith(ending)]
    below = [reading.folders_in(root / PHOTOS / folder) for folder in ("", "taskonomy")]
    candidates = (joint, inside, *below, joint)
    for place, names in zip(PLACES, candidates, strict=True):
        folders = {name: root / place.format(building=name, domain=PHOTOS) for name in names}
        found = [name for name, folder in folders.items() if next(folder.glob(f"{VIEW.format('*', '*')}*.png"), None)]
        if found:
            yield place, found


def _views(root: Path, place: str, buildings: list[str], counts: list[int]) -> Iterator[str]:
    """The views of each building in turn, whose numbers are added to ``counts``."""
    ending = f"_domain_{PHOTOS}.png"
    for building in buildings:
        files = reading.images_in(root / place.format(building=building, domain=PHOTOS))
        found = [name.removesuffix(ending) for name in files if name.endswith(ending)]
        counts.append(len(found))
        yield from found


def _split(root: Path, split: str) -> set[str]:
    """The buildings of a split, in lower case: of the table of most buildings, which holds what smaller ones do."""
    found = sorted(path for folder in (root, root / "splits_taskonomy") for path in folder.glob("*train_val_test*.csv"))
    by_size = []
    for path in found:
        rows = list(tables.rows(Source(str(path)), path.name))
        if rows and not {"id", *COLUMNS.values()} <= rows[0].keys():
            raise Open4MError(
                f"{path}: expected the columns id, {', '.join(COLUMNS.values())}, got {', '.join(rows[0])}"
            )
        by_size.append((len(rows), {str(row["id"]).lower() for row in rows if str(row[COLUMNS[split]]).strip() == "1"}))
    return max(by_size, key=lambda each: each[0])[1] if by_size else set(TINY[split])


LABELLED = Taskonomy
