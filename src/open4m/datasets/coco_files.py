"""COCO's annotation files: which of a source they are, where their images lie, and the masks that they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from open4m.datasets import tables
from open4m.datasets.labelled import run_lengths
from open4m.datasets.layouts.base import split_of, suffix_of
from open4m.datasets.source import Source, Unreachable
from open4m.types import Open4MError

KINDS = ("instances", "captions", "panoptic", "person_keypoints", "stuff", "image_info")
"""What a file's name begins with says what it holds."""
MALFORMED = (ValueError, TypeError, LookupError, OverflowError)
"""What annotations of any other content raise when they are converted: JSON holds numbers of any size."""
OUTLINE_STEPS = 5
"""Steps per pixel in which COCO's library follows an outline."""
LONGEST_OUTLINE = 1 << 25
"""Steps of one outline, at most: each takes some 60 bytes while it is followed."""
FARTHEST = 1e6
"""Pixels from the image's corner: points of outlines that are farther away are moved there."""


def annotation_files(source: Source) -> list[str]:
    """The annotation files of a source: JSON files that begin with an object in which images are listed."""
    return [path for path in json_files(source) if _lists_images(source, path)]


def json_files(source: Source) -> list[str]:
    """All JSON files where annotation files may lie, whatever they hold."""
    candidates = [e.path for folder in _folders(source) for e in source.entries(folder) if not e.is_folder]
    return sorted(path for path in candidates if suffix_of(path) == ".json")


def about(path: str) -> tuple[str, str]:
    """The kind of an annotation file and what it is about: ``instances_train2017.json`` → instances, train2017."""
    folder, _, name = path.removesuffix(".json").rpartition("/")
    own = folder.rpartition("/")[2]
    kind = next((kind for kind in KINDS if name.startswith(kind)), "instances")
    rest = re.sub(r"^[_-]+", "", name.removeprefix(kind))
    return kind, rest if split_of(rest) else own if split_of(own) else "images"


def image_folder(source: Source, path: str, image: Any) -> str:
    """The folder of the images of an annotation file, ``""`` or one that ends with ``/``; ``image``: the first item.

    Raises :class:`Open4MError` that names the folders which were looked into.
    """
    if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str):
        raise Open4MError(f"{source.named(path)}: lists no image with a 'file_name'")
    group, own = about(path)[1], path.rpartition("/")[0]
    above = own.rpartition("/")[0]
    inside = ["", "images/", f"{group}/", f"images/{group}/", f"{group}/images/"]
    candidates = [f"{base}{'/' * bool(base)}{folder}" for base in dict.fromkeys((own, above)) for folder in inside]
    for folder in candidates:
        if source.exists(folder + image["file_name"]):
            return folder
    raise Open4MError(
        f"{source.named(path)}: its image {image['file_name']} is in none of "
        f"{', '.join(source.named(folder) for folder in candidates)}"
    )


def unique(names: Iterable[str]) -> list[str]:
    """Names of classes, a number behind those that were there before."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def mask_of(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """The mask, bool (H, W), of outlines ``[[x0, y0, x1, y1, ...], ...]`` or of run lengths ``{"counts", "size"}``.

    It is the mask that COCO's library makes, to the pixel. Raises :data:`MALFORMED` errors or :class:`Open4MError` for
    what is neither.
    """
    if isinstance(shape, Mapping):
        if tuple(shape["size"]) != size:
            raise ValueError(f"a mask of {shape['size']} in an image of {list(size)}")
        return run_lengths.decode(shape["counts"], size)
    mask = np.zeros(size, bool)
    for outline in shape:
        points = np.array(outline, np.float64).reshape(-1, 2)
        if len(points) >= 3 and np.isfinite(points).all():
            mask |= _inside(points.clip(-FARTHEST, FARTHEST), size)
    return mask


def _inside(points: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which pixels, bool (H, W), an outline (n, 2) of x and y encloses, as COCO's library decides it.

    The outline is followed in whole steps of a fifth of a pixel. Where it crosses the middle of a column, what is below
    changes sides.
    """
    height, width = size
    start = (OUTLINE_STEPS * points + 0.5).astype(np.int64)  # toward zero
    end = np.roll(start, -1, 0)
    extent = np.abs(end - start)
    is_steep = extent[:, 1] > extent[:, 0]
    along, aside = is_steep.astype(int), 1 - is_steep  # an edge has one point per step along its longer axis
    rows = np.arange(len(start))
    is_back = start[rows, along] > end[rows, along]
    low, high = np.where(is_back[:, None], end, start), np.where(is_back[:, None], start, end)
    steps = extent[rows, along]
    if steps.sum() > LONGEST_OUTLINE:
        raise ValueError(f"an outline of {steps.sum()} steps, at most {LONGEST_OUTLINE} are followed")
    slope = (high - low)[rows, aside] / np.maximum(steps, 1)

    def walked(per_edge: np.ndarray) -> np.ndarray:
        """What belongs to each edge, for each of its points."""
        return np.repeat(per_edge, steps + 1)

    step = np.arange(int((steps + 1).sum())) - walked(np.cumsum(steps + 1) - (steps + 1))
    step = np.where(walked(is_back), walked(steps) - step, step)
    longer = walked(low[rows, along]) + step
    shorter = (walked(low[rows, aside]) + walked(slope) * step + 0.5).astype(np.int64)
    x = np.where(walked(is_steep), shorter, longer)
    y = np.where(walked(is_steep), longer, shorter)

    before = np.flatnonzero(x[1:] != x[:-1])
    column = (np.minimum(x[before], x[before + 1]) + 0.5) / OUTLINE_STEPS - 0.5
    crosses = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    before, column = before[crosses], column[crosses].astype(np.int64)
    mask = np.zeros(size, bool)
    if len(before):
        row = ((np.minimum(y[before], y[before + 1]) + 0.5) / OUTLINE_STEPS - 0.5).clip(0, height)
        left, right = column.min(), column.max() + 1
        changes = (column - left) * height + np.ceil(row).astype(np.int64)
        sides = np.bincount(changes, minlength=(right - left) * height + 1)[:-1].cumsum() % 2 == 1
        mask[:, left:right] = sides.reshape(right - left, height).T
    return mask


def _folders(source: Source) -> list[str]:
    folders = [entry.path for entry in source.entries() if entry.is_folder]
    return ["", *(folder for folder in folders if split_of(folder) or folder.lower().startswith("annotations"))]


def _lists_images(source: Source, path: str) -> bool:
    sections = set()
    try:
        for section, item in tables.items(source, path):
            sections.add(section)
            if not section or len(sections) > 16:
                return False
            if section in ("images", "annotations"):
                return isinstance(item, Mapping) and ("id" in item or "image_id" in item)
    except Unreachable:
        raise
    except Open4MError:
        return False
    return False
