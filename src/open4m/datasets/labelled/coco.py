"""Objects with boxes and masks in COCO's JSON files, such as ``instances_train2017.json`` (Lin et al., 2014).

The files and their images are found as an import finds them (:mod:`open4m.datasets.coco_files`). Categories become
classes in ascending order of their ids, which have gaps. Images without annotations are kept: no object is in them.
Boxes without extent are left out. There are masks if every object has an outline or run lengths.

A tenth of the images are for validation if no file is about validation images.
"""

from __future__ import annotations

import json
import logging
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from open4m.datasets import tables
from open4m.datasets.coco_files import MALFORMED, about, annotation_files, image_folder, json_files, mask_of, unique
from open4m.datasets.labelled import reading
from open4m.datasets.labelled.base import Example, Instances, Labelled, NoSplit, check_split
from open4m.datasets.labelled.run_lengths import LARGEST_MASK
from open4m.datasets.layouts.base import split_in
from open4m.datasets.source import Source
from open4m.types import Open4MError, is_text, shown

logger = logging.getLogger("open4m")


@dataclass(frozen=True, kw_only=True, eq=False)
class Coco(Labelled):
    """``images``: their files below ``root``, in the order of the JSON file. ``sizes``: (n, 2) int32, their heights and
    widths, 0 where it does not say them. ``objects``: the JSON of all annotations, number j from ``ends[j]`` to
    ``ends[j + 1]``; those of image i have the numbers ``order[first[i]:first[i + 1]]``. ``class_of``: class by
    category."""

    name = "coco"
    targets = ("instances",)

    root: Path
    images: tuple[str, ...]
    sizes: np.ndarray
    objects: bytearray
    ends: np.ndarray
    order: np.ndarray
    first: np.ndarray
    class_of: Mapping[int, int]
    class_names: tuple[str, ...]
    has_masks: bool

    @classmethod
    def fits(cls, root: Path) -> bool:
        source = Source(str(root))
        return bool(_instance_files(source)) or any(map(_claims_objects, json_files(source)))

    @classmethod
    def open(cls, root: Path, split: str) -> Self:
        check_split(split)
        source = Source(str(root))
        by_split: dict[str, list[str]] = {}
        readable = _instance_files(source)
        for path in json_files(source):
            if path in readable:
                by_split.setdefault(_split_named(path), []).append(path)
            elif _claims_objects(path):  # images of another split would take the place of its images
                raise Open4MError(f"{source.named(path)}: not readable as JSON that lists images; mend it, or move it")
        own, lends = split, False
        if split not in by_split and split != "test":  # one file about all, or none about validation
            own, lends = "" if "" in by_split else "train", True
        if own == "train" and "validation" not in by_split:
            lends = True
        found = by_split.get(own, [])
        if len(found) != 1:
            held = ", ".join(path for paths in by_split.values() for path in paths) or "none"
            raise (Open4MError if found else NoSplit)(
                f"{root}: expected one JSON file with the objects of {split} images, such as "
                f"annotations/instances_{split}.json; got {len(found)} for it (there: {held})"
            )
        return _Reader(source, found[0]).read(cls, root, split if lends else "")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        height, width = map(int, self.sizes[index])
        path = self.root / self.key(index)
        rgb = reading.photo(path, (height, width) if height else None)
        if height and rgb.shape[:2] != (height, width):
            raise Open4MError(
                f"{path}: {rgb.shape[0]}×{rgb.shape[1]} pixels (height × width), {height}×{width} by its annotations"
            )
        if not self.targets:
            return {"rgb": rgb}
        try:
            return {"rgb": rgb, "instances": self._instances(index, rgb.shape[:2])}
        except (*MALFORMED, Open4MError) as error:
            raise Open4MError(f"{path}: its annotations are no boxes and masks ({error})") from error

    def key(self, index: int) -> str:
        return self.images[index]

    def classes(self, target: str) -> tuple[str, ...]:
        return self.class_names if target == "instances" else ()

    def _instances(self, index: int, size: tuple[int, int]) -> Instances:
        index = range(len(self))[index]
        rows = [
            json.loads(self.objects[self.ends[part] : self.ends[part + 1]])
            for part in self.order[self.first[index] : self.first[index + 1]]
        ]
        masks = [mask_of(row["segmentation"], size) if self.has_masks else None for row in rows]
        corners = [_corners(row.get("bbox"), mask) for row, mask in zip(rows, masks, strict=True)]
        boxes = np.array(corners, np.float64).reshape(-1, 4).clip(0, size[::-1] * 2).astype(np.float32)
        extents = boxes[:, 2:] - boxes[:, :2]
        areas = np.array(
            [
                extent.prod() if row.get("area") is None else float(row["area"])
                for row, extent in zip(rows, extents, strict=True)
            ],
            np.float64,
        )
        if not (np.isfinite(boxes).all() and (np.abs(areas) <= np.finfo(np.float32).max).all()):
            raise ValueError("a box or an area that is not finite")
        found = Instances(
            boxes=boxes,
            classes=np.array([self.class_of[_whole(row["category_id"])] for row in rows], np.int64),
            masks=np.array(masks, bool).reshape(-1, *size) if self.has_masks else None,
            crowd=np.array([_is_crowd(row) for row in rows], bool),
            area=areas.astype(np.float32),
        )
        return found.chosen((extents > 0).all(1))


class _Reader:
    """Goes through an annotation file once, and keeps the text of its objects: values would take five times as much."""

    def __init__(self, source: Source, path: str) -> None:
        self._source, self._path = source, path
        self._images: dict[Any, tuple[str, int, int]] = {}
        self._categories: dict[int, str] = {}
        self._objects, self._ends = bytearray(), array("q", [0])
        self._of_image: list[Any] = []
        self._used: set[int] = set()
        self._shapes = 0

    def read(self, kind: type[Coco], root: Path, lent_to: str) -> Coco:
        """``lent_to``: the split for which a part of the images is taken; "" for all of them."""
        takes = {"images": self._image, "annotations": self._object, "categories": self._category}
        for section, text, item in tables.texts(self._source, self._path):
            if section in takes:
                try:
                    takes[section](item, text)
                except (*MALFORMED, AttributeError) as error:
                    raise self._error(f"not one of the {section}: {shown(item)} ({error!r})") from error
        if 0 < self._shapes < len(self._of_image):
            logger.warning(
                "%s: %d of %d objects have no outline nor run lengths: no masks are read, boxes alone",
                self._source.named(self._path),
                len(self._of_image) - self._shapes,
                len(self._of_image),
            )
        chosen = reading.lent(lent_to) if lent_to else lambda name: True
        kept = {image: about for image, about in self._images.items() if chosen(about[0])}
        if not kept:
            share = (
                f" (of each, the share for it is {reading.VALIDATION:g}: list some in a file of their own, such as "
                f"annotations/instances_{lent_to}.json)"
                if lent_to
                else ""
            )
            raise self._error(f"lists {len(self._images)} images, none of them for {lent_to or 'its split'}{share}")
        if unknown := self._used - self._categories.keys():
            raise self._error(f"annotations of the category {shown(min(unknown))}, which it does not name")
        if unlisted := [image for image in self._of_image if image not in self._images]:
            raise self._error(f"annotations of the image {shown(unlisted[0])}, which it does not list")
        folder = image_folder(self._source, self._path, {"file_name": next(iter(kept.values()))[0]})
        place_of = {image: place for place, image in enumerate(kept)}
        places = np.array([place_of.get(image, len(kept)) for image in self._of_image], np.int64)
        return kind(
            root=root,
            images=tuple(folder + file for file, *_ in kept.values()),
            sizes=np.array([size for _, *size in kept.values()], np.int32),
            objects=self._objects,
            ends=np.array(self._ends),
            order=np.argsort(places, kind="stable"),
            first=np.searchsorted(np.sort(places), np.arange(len(kept) + 1)),
            class_of={category: number for number, category in enumerate(sorted(self._categories))},
            class_names=tuple(unique(self._categories[category] for category in sorted(self._categories))),
            has_masks=0 < self._shapes == len(self._of_image),
        )

    def _image(self, item: Mapping[str, Any], text: str) -> None:
        height, width = item.get("height") or 0, item.get("width") or 0
        if height and not (0 < height * width <= LARGEST_MASK and height < 1 << 26 and width < 1 << 26):
            raise ValueError(f"at most {LARGEST_MASK} pixels are read")
        file = item["file_name"].removeprefix("./")
        if not is_text(file) or "\0" in file or file.startswith("/") or ".." in file.split("/"):
            raise ValueError("its file is not below the folder of the images")
        if self._images.setdefault(item["id"], (file, int(height), int(width)))[0] != file:
            raise ValueError(f"{self._images[item['id']][0]} has the same id")

    def _object(self, item: Mapping[str, Any], text: str) -> None:
        image = item["image_id"]
        hash(image)  # of lists there is none
        self._of_image.append(image)
        self._used.add(_whole(item["category_id"]))
        _is_crowd(item)
        self._shapes += bool(item.get("segmentation"))
        self._objects += text.encode("utf-8", "replace")
        self._ends.append(len(self._objects))

    def _category(self, item: Mapping[str, Any], text: str) -> None:
        name = str(item["name"]) if isinstance(item["name"], int) else item["name"]
        if not is_text(name):
            raise ValueError("its name is no text")
        if (known := self._categories.setdefault(_whole(item["id"]), name)) != name:
            raise ValueError(f"{known} has the same id")

    def _error(self, message: str) -> Open4MError:
        return Open4MError(f"{self._source.named(self._path)}: {message}")


def _instance_files(source: Source) -> list[str]:
    return [path for path in annotation_files(source) if about(path)[0] == "instances"]


def _split_named(path: str) -> str:
    """The split that the name of a file says, or that of its folder; "" if neither does."""
    folder, _, name = path.rpartition("/")
    return split_in(name) or split_in(folder.rpartition("/")[2])


def _claims_objects(path: str) -> bool:
    """Whether a file is called as COCO's are, whatever it holds."""
    return bool(path.rpartition("/")[2].startswith("instances") and _split_named(path))


def _whole(value: Any) -> int:
    """A number of an id or a flag, as JSON has it or as text."""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"expected a whole number, got {value}")
    return int(value)


def _is_crowd(item: Mapping[str, Any]) -> bool:
    flag = item.get("iscrowd")
    return flag is not None and _whole(flag) != 0


def _corners(box: Any, mask: np.ndarray | None) -> list[float]:
    """x_min, y_min, x_max, y_max of COCO's x, y, width and height; where there are none, of what the mask spans."""
    if box is not None:
        x, y, width, height = map(float, box)
        return [x, y, x + width, y + height]
    if mask is None or not mask.any():
        raise ValueError("an object without a box")
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


LABELLED = Coco
