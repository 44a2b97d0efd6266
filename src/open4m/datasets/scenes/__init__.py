"""Unlimited tabletop scenes with exact labels, rendered on demand.

>>> scenes = Scenes(split="train")
>>> sample = scenes[0]
>>> sorted(sample)
['boxes', 'caption', 'depth', 'normals', 'rgb', 'semseg']
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from open4m.datasets.scenes.captions import describe, parse_caption
from open4m.datasets.scenes.render import Images, render_scene, visible_pixels
from open4m.datasets.scenes.sampling import sample_scene
from open4m.datasets.scenes.scene import ATTRIBUTES, CLASSES, OBJECT_CLASSES, Scene
from open4m.datasets.scenes.world import WORLDS, World, find_world
from open4m.rng import unmarked_stream
from open4m.types import Boxes, Open4MError, Value

__all__ = ["ATTRIBUTES", "CLASSES", "OBJECT_CLASSES", "SPLITS", "WORLDS", "Scenes", "instance_boxes", "parse_caption"]

SPLITS = ("train", "validation", "test")
_LAYOUT, _CAPTION = 1, 2  # what random numbers are for
_PROBE_RESOLUTION = 64


@dataclass(frozen=True)
class Scenes:
    """A data set without end: sample i is a function of (world, seed, split, i) alone, on every machine.

    A sample holds
      - ``rgb``: (H, W, 3) uint8, sRGB;
      - ``depth``: (H, W) float32, z-depth along the optical axis in meters, within about 1 to 12;
      - ``normals``: (H, W, 3) float32, unit, in the camera's frame: x right, y up, z toward the viewer;
      - ``semseg``: (H, W) uint8, index into :data:`CLASSES`;
      - ``boxes``: :class:`~open4m.types.Boxes` of the visible part of every object, named by its class;
      - ``caption``: str (``captions.py``).

    ``resolution`` is H = W, a multiple of 16; the scene is the same at all of them. Labels are taken at pixel
    centers, only ``rgb`` is anti-aliased. ``world``, one of :data:`WORLDS` or its name, holds the distributions that
    scenes are drawn from: "scenes", whose captions can be read from its pictures, or "scenes-hard".
    """

    split: str = "train"
    seed: int = 0
    resolution: int = 128
    device: str = "cpu"
    world: str | World = "scenes"

    def __post_init__(self) -> None:
        if not isinstance(self.world, World):
            object.__setattr__(self, "world", find_world(self.world))
        if self.split not in SPLITS:
            raise Open4MError(f"scenes: split must be one of {', '.join(SPLITS)}; got {self.split!r}")
        if self.seed < 0:
            raise Open4MError(f"scenes: seed must be 0 or more; got {self.seed}")
        if self.resolution < 16 or self.resolution % 16:
            raise Open4MError(f"scenes: resolution must be a positive multiple of 16; got {self.resolution}")

    def scene(self, index: int) -> Scene:
        """The parameters of scene ``index``: the first drawn layout in which every object can be seen.

        If no layout of the first few shows all its objects, the last one is taken without those that are not seen.
        """
        rng = self._rng(index, _LAYOUT)
        for _ in range(self.world.layout_tries):
            scene = sample_scene(self.world, rng)
            pixels = visible_pixels(scene, _PROBE_RESOLUTION)
            seen = pixels >= self.world.probe_pixels
            if seen.all():
                return scene
        seen |= pixels == pixels.max()  # a scene has at least one object
        return replace(scene, objects=tuple(o for o, is_seen in zip(scene.objects, seen, strict=True) if is_seen))

    def samples(self, indices: Iterable[int]) -> list[dict[str, Value]]:
        """The samples of ``indices``, in their order; each is the same whatever the others are."""
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> dict[str, Value]:
        scene = self.scene(index)
        images = render_scene(scene, self.resolution, self.device, self.world.subpixels)
        return {
            "rgb": images.rgb,
            "depth": images.depth,
            "normals": images.normals,
            "semseg": images.semseg,
            "boxes": instance_boxes(scene, images),
            "caption": describe(scene, self._rng(index, _CAPTION)),
        }

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        if index < 0:
            raise Open4MError(f"scenes: index must be 0 or more; got {index} (the data set has no end to count from)")
        return unmarked_stream(self.seed, SPLITS.index(self.split), int(index), purpose)


def instance_boxes(scene: Scene, images: Images) -> Boxes:
    """Boxes of the visible pixels of every object that is seen, in the order of the scene's objects."""
    height, width = images.instances.shape
    corners, labels = [], []
    for k, solid in enumerate(scene.objects):
        mask = images.instances == k
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            x_min, x_max, y_min, y_max = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
            corners.append((x_min / width, y_min / height, x_max / width, y_max / height))
            labels.append(solid.shape)
    return Boxes(np.array(corners, dtype=np.float32).reshape(-1, 4), tuple(labels))
