"""Rendered scenes for ``open4m diagnose``: their tokens, and the shape, color and place of every object."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from open4m import labellers
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, Scenes
from open4m.datasets.scenes.world import COLORS
from open4m.evaluate.diagnose.data import Data, Labels, Split, encoded, even_batches
from open4m.evaluate.suites.scene_images import CLIP
from open4m.fourm import FourMBase
from open4m.hub import locate
from open4m.modalities.crops import Crop, resample
from open4m.progress import track
from open4m.types import Open4MError, Sample

GRID = (8, 8)
"""Cells of the image, one of which is the place of an object, for a model whose inputs have no places."""


def scene_data(
    model: FourMBase, name: str | Path, samples: int, batch_size: int = 32, seed: int = 0, world: str = "scenes"
) -> Data:
    """The first ``samples`` scenes of the training and the test split of a world, as a model directory reads them.

    ``name``: of the model, whose folder may hold the CLIP that labels images.
    Raises :class:`Open4MError` for a model that reads or predicts nothing that scenes have, or has other classes.
    """
    sizes = [tokenizer.config.image_size for tokenizer in model.grids.values()]
    sizes += [s.grid[0] * s.patch_size for s in model.config.modalities if s.content == "pixels"]
    folder = locate.resolve(name)
    clip = None
    if CLIP in model.config.keys and (folder / CLIP).is_dir():
        clip = labellers.get(CLIP).load(folder / CLIP, str(model.device))
    size = 16 * -(-max(sizes, default=128) // 16)
    splits = {}
    for split in ("train", "test"):
        scenes = Scenes(split, seed=seed, resolution=size, world=world)
        splits[split] = _split(model, scenes, clip, samples, batch_size)
    return Data(name=world, **splits)


def _split(model: FourMBase, scenes: Scenes, clip, samples: int, batch_size: int) -> Split:
    batches, found = [], []
    grid = next((s.grid for s in model.config.modalities if s.is_input and s.has_places), GRID)
    for indices in track(even_batches(samples, batch_size), f"render {scenes.split} scenes", unit="batches"):
        rendered = scenes.samples([int(i) for i in indices])
        for i, sample in zip(indices, rendered, strict=True):
            found += [(int(i), *example) for example in objects(scenes, int(i), sample, grid)]
        if clip is not None:
            for sample, value in zip(rendered, clip.label([s[clip.source] for s in rendered]), strict=True):
                sample[clip.modality] = value
        known = {name for name in rendered[0] if name in model.modalities}
        if not known:
            raise Open4MError("scenes have no modality of this model: name data of yours with --data")
        try:
            batches.append(encoded(model, [{name: sample[name] for name in known} for sample in rendered]))
        except Open4MError as error:
            raise Open4MError(
                f"{error}; rendered scenes do not fit this model: name data of yours with --data"
            ) from error
    return Split(batches=batches, labels=_labels(found))


def objects(
    scenes: Scenes, index: int, sample: Sample, grid: tuple[int, int]
) -> list[tuple[tuple[float, float], str, str, tuple[float, float]]]:
    """For each object of a scene its place, shape, color, and the center of its box: row and column as fractions of the
    image. The place is the center of the cell of ``grid`` that shows most of the object."""
    boxes, solids = sample["boxes"], scenes.scene(index).objects
    if len(boxes.labels) != len(solids):
        return []  # an object without a visible pixel: boxes cannot be told apart by their order
    found = []
    for solid, (left, top, right, bottom) in zip(solids, boxes.corners.tolist(), strict=True):
        mask = (sample["semseg"] == CLASSES.index(solid.shape)).astype(np.float32)
        height, width = mask.shape
        outside = np.ones_like(mask, dtype=bool)
        outside[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = False
        mask[outside] = 0
        density = resample(mask, Crop(0, 0, 1, 1, grid), "linear")
        place = (np.array(np.unravel_index(density.argmax(), grid)) + 0.5) / grid
        box = ((top + bottom) / 2, (left + right) / 2)
        found.append((tuple(place), solid.shape, solid.color, box))
    return found


def _labels(found: list) -> dict[str, Labels]:
    if not found:
        return {}
    sample, place, shape, color, box = zip(*found, strict=True)
    where = {"sample": np.array(sample), "place": np.array(place)}
    colors = tuple(COLORS)
    return {
        "shape": Labels(
            **where, value=np.array([OBJECT_CLASSES.index(name) for name in shape]), classes=OBJECT_CLASSES
        ),
        "color": Labels(**where, value=np.array([colors.index(name) for name in color]), classes=colors),
        "center of the object": Labels(**where, value=np.array(box)),
    }
