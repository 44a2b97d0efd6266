"""Rendered scenes with targets that pre-training on scenes has not seen; :func:`make` says which scenes they are.

``root`` holds ``scenes.json`` and, once they were asked for, the rendered examples, ``<split>/00000000.npz``: rendering
takes ten times as long as reading. Any number of processes may read and render at once.

=========  ======================================================================================================
target
=========  ======================================================================================================
label      one of: ``count``, how many objects are seen; ``floor``, the pattern of the floor; ``largest``, the
           shape of the object that covers most pixels
semseg     walls, floor and shapes of objects, by pixel
depth      meters along the optical axis
normals    in the camera's frame, x right, y up, z toward the viewer
instances  the objects that are seen, with masks and boxes of what is seen of them; classes are shapes
edges      (H, W), from 0 to 1: 1 where an object ends, else how far the depth jumps, see :func:`edges_of`
=========  ======================================================================================================
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from open4m import files
from open4m.datasets.labelled.base import Example, Instances, Labelled, NoSplit, check_label, check_split
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, SPLITS, Scenes
from open4m.datasets.scenes.render import render_scene
from open4m.types import Open4MError, shown

FILE = "scenes.json"
FORMAT = 1
STORED = {
    "rgb": ("u1", 3),
    "semseg": ("u1",),
    "depth": ("f4",),
    "normals": ("f2", 3),
    "instances": ("i2",),
    "shapes": ("i",),
    "count": ("i",),
    "floor": ("i",),
    "largest": ("i",),
}
"""The arrays of a rendered example: their types, of numbers that are not of pixels the kinds, and what they have per
pixel if it is not one number."""
NUMBERS = ("shapes", "count", "floor", "largest")
"""Those that are not of pixels."""
LARGEST_SIDE = 1 << 12
"""Pixels along the side of a scene, at most: a larger one would take gigabytes while it is rendered."""
LEAST_JUMP, LARGEST_JUMP = 0.05, 0.25
"""Relative differences of depth between neighbors that count as no edge, and as the strongest."""


def make(
    root: Path,
    *,
    world: str = "scenes",
    train: int = 2000,
    validation: int = 500,
    test: int = 500,
    image_size: int = 128,
    seed: int = 1,
) -> Path:
    """Say in ``root`` which scenes the data set has; they are rendered when they are read. Returns ``root``.

    ``seed``: other than 0, that of pre-training, so that no scene was seen. Raises :class:`Open4MError` for what no
    scene can be, and if the folder holds others, or rendered ones of which nothing says what they are.
    """
    settings = {"world": world, "seed": seed, "image_size": image_size}
    settings |= {"train": train, "validation": validation, "test": test}
    _check(settings, str(root))
    path, text = root / FILE, json.dumps({"format": FORMAT, **settings}, indent=1)
    if not path.is_file():
        files.make_folder(root)
        with files.locked(root / f".{FILE}.lock"):  # of two at once, one says which scenes they are
            if not path.is_file():
                if rendered := next((found for split in SPLITS for found in (root / split).glob("*.npz")), None):
                    raise Open4MError(
                        f"{rendered}: a rendered scene, but no {path} says of which scenes; name another folder, or "
                        f"remove {', '.join(SPLITS)} here"
                    )
                files.write_text(path, text)
    if (held := _settings(root)) != settings:
        raise Open4MError(f"{path}: says {held}, not {settings}; name another folder")
    return root


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledScenes(Labelled):
    """``count``: of examples; ``label``: which of ``labels`` is the label."""

    name = "scenes"
    targets = ("label", "semseg", "depth", "normals", "instances", "edges")
    labels = ("count", "floor", "largest")

    root: Path
    scenes: Scenes
    count: int
    label: str

    @classmethod
    def fits(cls, root: Path) -> bool:
        return (root / FILE).is_file()

    @classmethod
    def open(cls, root: Path, split: str, label: str = "") -> Self:
        check_split(split)
        label = check_label(label, cls)
        settings = _settings(root)
        if not settings[split]:
            raise NoSplit(f"{root / FILE}: has no scenes for {split}")
        scenes = Scenes(split=split, seed=settings["seed"], resolution=settings["image_size"], world=settings["world"])
        return cls(root=root, scenes=scenes, count=settings[split], label=label)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        stored = self._stored(range(self.count)[index])
        makes = {
            "label": lambda: int(stored[self.label]),
            "semseg": lambda: stored["semseg"],
            "depth": lambda: stored["depth"],
            "normals": lambda: stored["normals"].astype(np.float32),
            "instances": lambda: instances_of(stored["instances"], stored["shapes"]),
            "edges": lambda: edges_of(stored["instances"], stored["depth"]),
        }
        return {"rgb": stored["rgb"], **{target: makes[target]() for target in self.targets}}

    def key(self, index: int) -> str:
        return f"{self.scenes.split}/{range(self.count)[index]:08d}"

    def classes(self, target: str) -> tuple[str, ...]:
        world = self.scenes.world
        of_labels = {
            "count": tuple(str(number) for number in range(1, world.objects[1] + 1)),
            "floor": world.floor.patterns.names,
            "largest": OBJECT_CLASSES,
        }
        return {"label": of_labels[self.label], "semseg": CLASSES, "instances": OBJECT_CLASSES}.get(target, ())

    def _stored(self, index: int) -> dict[str, np.ndarray]:
        """What was rendered of a scene; it is rendered now if it was not yet."""
        path = self.root / f"{self.key(index)}.npz"
        if not path.is_file():
            rendered = self._rendered(index)
            files.make_folder(path.parent)
            files.write_file(path, lambda temporary: _save(temporary, rendered))
            return rendered
        try:
            files.check_regular(path)
            with np.load(path, allow_pickle=False) as archive:
                return self._checked({name: archive[name] for name in STORED})
        except Open4MError:
            raise
        except Exception as error:  # damaged archives raise almost anything
            raise Open4MError(f"{path}: not readable ({error}); delete it to have it rendered again") from error

    def _checked(self, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What was stored, if it is of the types and sizes that are rendered; ValueError if not."""
        side = self.scenes.resolution
        for name, (kind, *more) in STORED.items():
            array = stored[name]
            of_pixels = (side, side, *more) if name not in NUMBERS else array.shape[: name == "shapes"]
            is_kind = array.dtype.kind == kind if name in NUMBERS else array.dtype == np.dtype(kind)  # which is stacked
            if not is_kind or array.shape != of_pixels:
                raise ValueError(f"{name}: {array.dtype} {array.shape}")
        if not (stored["shapes"].size and stored["shapes"].min() >= 0 and stored["shapes"].max() < len(OBJECT_CLASSES)):
            raise ValueError("shapes: no such objects")
        if stored["instances"].max() >= len(stored["shapes"]) or stored["semseg"].max() >= len(CLASSES):
            raise ValueError("instances, semseg: no such objects")
        if not (
            stored["depth"].min() > 0 and np.isfinite(stored["depth"]).all() and np.isfinite(stored["normals"]).all()
        ):
            raise ValueError("depth, normals: not finite, or not in front of the camera")
        return stored

    def _rendered(self, index: int) -> dict[str, np.ndarray]:
        scene, world = self.scenes.scene(index), self.scenes.world
        images = render_scene(scene, self.scenes.resolution, self.scenes.device, world.subpixels)
        shapes = np.array([OBJECT_CLASSES.index(solid.shape) for solid in scene.objects], np.int16)
        pixels = np.bincount(images.instances[images.instances >= 0], minlength=len(shapes))
        return {
            "rgb": images.rgb,
            "semseg": images.semseg,
            "depth": images.depth,
            "normals": images.normals.astype(np.float16),
            "instances": images.instances,
            "shapes": shapes,
            "count": np.array((pixels > 0).sum() - 1),
            "floor": np.array(world.floor.patterns.names.index(scene.floor.pattern)),
            "largest": shapes[pixels.argmax()],
        }


def instances_of(objects: np.ndarray, shapes: np.ndarray) -> Instances:
    """The objects that are seen in a map of them, (H, W), -1 where there is none; ``shapes``: their classes."""
    seen = np.unique(objects[objects >= 0])
    masks = objects == seen[:, None, None]  # (n, H, W)
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=shapes[seen].astype(np.int64),
        masks=masks,
        crowd=np.zeros(len(seen), bool),
        area=masks.sum((1, 2)).astype(np.float32),
    )


def edges_of(objects: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """How strong an edge is at each pixel, (H, W) float32 from 0 to 1: the strongest one to its four neighbors.

    It is 1 between different objects, or an object and the room. Elsewhere it grows with the relative difference of
    depth, |ln z - ln z'|, from 0 at ``LEAST_JUMP``, above that of slanted floors, to 1 at ``LARGEST_JUMP``.
    """
    logarithm, edges = np.log(depth), np.zeros(depth.shape, np.float32)
    for axis in (0, 1):
        jump = (np.abs(np.diff(logarithm, axis=axis)) - LEAST_JUMP) / (LARGEST_JUMP - LEAST_JUMP)
        strength = np.where(np.diff(objects, axis=axis) != 0, 1, jump.clip(0, 1)).astype(np.float32)
        for side in (edges[:-1], edges[1:]) if axis == 0 else (edges[:, :-1], edges[:, 1:]):
            np.maximum(side, strength, out=side)
    return edges


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _settings(root: Path) -> dict[str, Any]:
    path = root / FILE
    found = files.read_json(path)
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise Open4MError(f"{path}: expected format {FORMAT}; make the data set anew with this version")
    _check(found, str(path))
    return found


def _check(settings: dict[str, Any], where: str) -> None:
    """Raise :class:`Open4MError` unless these are settings of scenes that pre-training has not seen."""
    expected = {"world", "seed", "image_size", *SPLITS}
    if settings.keys() != expected:
        raise Open4MError(f"{where}: expected {', '.join(sorted(expected))}, got {shown(settings)}")
    numbers = {name: value for name, value in settings.items() if name != "world"}
    if wrong := [name for name, value in numbers.items() if type(value) is not int or not 0 <= value < 1 << 32]:
        raise Open4MError(f"{where}: {wrong[0]}: expected a whole number from 0, got {shown(settings[wrong[0]])}")
    if settings["seed"] == 0:
        raise Open4MError(f"{where}: seed: expected another than 0, whose scenes pre-training sees")
    if settings["image_size"] > LARGEST_SIDE:
        raise Open4MError(f"{where}: image_size: expected {LARGEST_SIDE} pixels at most, got {settings['image_size']}")
    if not isinstance(settings["world"], str):
        raise Open4MError(f"{where}: world: expected a name, got {shown(settings['world'])}")
    try:
        Scenes(seed=settings["seed"], resolution=settings["image_size"], world=settings["world"])  # which checks them
    except Open4MError as error:
        raise Open4MError(f"{where}: {error}") from error


LABELLED = LabelledScenes
