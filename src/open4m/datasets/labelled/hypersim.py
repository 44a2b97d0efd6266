"""Hypersim (Roberts et al., 2021): rendered rooms. Below ``ai_001_001/images``, the images are
``scene_cam_00_final_preview/frame.0000.tonemap.jpg``, their maps ``scene_cam_00_geometry_hdf5/frame.0000.*.hdf5``, of
the kinds ``depth_meters``, ``normal_cam`` and ``semantic``.

``metadata_images_split_scene_v1.csv`` beside the scenes says which images are for what. Kinds of maps that the first
image lacks are no targets.

- depth: the files hold distances to the camera's center, which become distances along the optical axis. The field of
  view is 60° across, but in scenes with a shifted or tilted lens: ``metadata_camera_parameters.csv``, if it is there,
  gives the rays of each scene (``M_cam_from_uv``).
- normals: in the camera's frame, x right, y up, z toward the viewer.
- semseg: the 40 classes of NYU Depth v2, numbered from 1 in the files; -1 is not labelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from open4m.datasets import tables
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import IGNORED, Example, Labelled, NoSplit, check_example, check_split
from open4m.datasets.source import Source
from open4m.types import Open4MError

SPLIT_FILE, CAMERA_FILE = "metadata_images_split_scene_v1.csv", "metadata_camera_parameters.csv"
COLUMNS = ("scene_name", "camera_name", "frame_id", "split_partition_name")
SPLITS = {"train": "train", "validation": "val", "test": "test"}
FIELD_OF_VIEW = math.pi / 3
"""Radians, across the width of the image."""
KINDS = {"depth": "depth_meters", "normals": "normal_cam", "semseg": "semantic"}
FORMS = {"depth": (2, "iuf"), "normals": (3, "f"), "semseg": (2, "iu")}
"""The dimensions of each map, and the kinds of its numbers."""
CLASSES = [
    "wall",
    "floor",
    "cabinet",
    "bed",
    "chair",
    "sofa",
    "table",
    "door",
    "window",
    "bookshelf",
    "picture",
    "counter",
    "blinds",
    "desk",
    "shelves",
    "curtain",
    "dresser",
    "pillow",
    "mirror",
    "floormat",
    "clothes",
    "ceiling",
    "books",
    "refrigerator",
    "television",
    "paper",
    "towel",
    "showercurtain",
    "box",
    "whiteboard",
    "person",
    "nightstand",
    "toilet",
    "sink",
    "lamp",
    "bathtub",
    "bag",
    "otherstructure",
    "otherfurniture",
    "otherprop",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hypersim(Labelled):
    """``frames``: scene, camera and number of each image. ``rays``: (3, 3) by scene, which make rays of the camera from
    (u, v, 1), both from -1 to 1 in the image, v upward."""

    name = "hypersim"
    targets = tuple(KINDS)

    root: Path
    frames: tuple[tuple[str, str, int], ...]
    rays: Mapping[str, np.ndarray]

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any((root / name / "images").is_dir() for name in reading.folders_in(root) if name.startswith("ai_"))

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        path = root / SPLIT_FILE
        if not path.is_file():
            raise Open4MError(f"{path}: no such file; it comes with the data's toolkit and says what images are for")
        frames = tuple(
            frame for frame, name in _listed(path) if name == SPLITS[split] and _photo(root, frame).is_file()
        )
        if not frames:
            raise NoSplit(f"{root}: no image that {SPLIT_FILE} names for {split} is there")
        found = cls(root=root, frames=frames, rays=_rays(root, {scene for scene, *_ in frames}))
        return found.only([target for target in cls.targets if found._path(0, target).is_file()])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Example:
        photo = _photo(self.root, self.frames[index])
        example: dict[str, Any] = {"rgb": reading.photo(photo)}
        for target in self.targets:
            path = self._path(index, target)
            with reading.hdf5(path) as file:
                values = reading.stored(file, "dataset", *FORMS[target])
            if values.shape[2:] not in ((), (3,)):
                raise Open4MError(f"{path}: expected a map, got {values.dtype} {values.shape}")
            example[target] = self._convert(target, values, self.frames[index][0], path)
        check_example(example, str(photo))
        return example

    def key(self, index: int) -> str:
        scene, camera, frame = self.frames[index]
        return f"{scene}/{camera}/{frame:04d}"

    def classes(self, target: str) -> tuple[str, ...]:
        return tuple(CLASSES) if target == "semseg" else ()

    def _path(self, index: int, target: str) -> Path:
        scene, camera, frame = self.frames[index]
        return (
            self.root / scene / "images" / f"scene_{camera}_geometry_hdf5" / f"frame.{frame:04d}.{KINDS[target]}.hdf5"
        )

    def _convert(self, target: str, values: np.ndarray, scene: str, path: Path) -> np.ndarray:
        if target == "depth":
            return reading.meters(values * along_axis(values.shape, self.rays.get(scene)))
        if target == "normals":
            return reading.directions(values)
        if values.max() > len(CLASSES):
            raise Open4MError(f"{path}: expected classes up to {len(CLASSES)}, got {values.max()}")
        return np.where(values < 1, IGNORED, values - 1).astype(np.uint8)


def along_axis(size: tuple[int, int], rays: np.ndarray | None = None) -> np.ndarray:
    """What distances to the camera's center are multiplied by to become depths along its optical axis, (H, W) float64.

    ``rays``: (3, 3), which make the ray of (u, v, 1), both from -1 to 1, v upward; None for a lens that is neither
    shifted nor tilted.
    """
    height, width = size
    if rays is None:
        half = math.tan(FIELD_OF_VIEW / 2)
        rays = np.diag([half, half * height / width, -1.0])
    u = (2 * np.arange(width) + 1) / width - 1
    v = 1 - (2 * np.arange(height) + 1) / height
    image = np.stack([*np.meshgrid(u, v), np.ones(size)], -1)  # (H, W, 3)
    directions = image @ rays.T
    return np.abs(directions[..., 2]) / np.linalg.norm(directions, axis=-1)


def _photo(root: Path, frame: tuple[str, str, int]) -> Path:
    scene, camera, number = frame
    return root / scene / "images" / f"scene_{camera}_final_preview" / f"frame.{number:04d}.tonemap.jpg"


def _listed(path: Path) -> Iterator[tuple[tuple[str, str, int], str]]:
    """Each published image of the table, and what it is for."""
    for row in tables.rows(Source(str(path)), path.name):
        try:
            scene, camera, number, split = (str(row[column]) for column in COLUMNS)
            if row.get("included_in_public_release", "True") == "True":
                yield (scene, camera, int(number)), split
        except (KeyError, ValueError) as error:
            raise Open4MError(f"{path}: expected the columns {', '.join(COLUMNS)} ({error!r})") from error


def _rays(root: Path, scenes: set[str]) -> dict[str, np.ndarray]:
    path, found = root / CAMERA_FILE, {}
    for row in tables.rows(Source(str(path)), path.name) if path.is_file() else ():
        if row.get("scene_name") in scenes:
            try:
                numbers = [float(row[f"M_cam_from_uv_{i}{j}"]) for i in range(3) for j in range(3)]
            except (KeyError, ValueError) as error:
                raise Open4MError(f"{path}: expected the columns M_cam_from_uv_00 to _22 ({error!r})") from error
            found[row["scene_name"]] = np.array(numbers).reshape(3, 3)
    return found


LABELLED = Hypersim
