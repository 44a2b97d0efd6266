"""COCO's annotations: JSON files with ``images`` and ``annotations``, and the images they name.

``instances_train2017.json`` gives boxes and a map of classes, ``captions_train2017.json`` captions,
``panoptic_train2017.json`` with its folder of PNG files a map of all classes, things and stuff, which is preferred. The
files of one ``train2017`` are about the same images. Regions of crowds (``iscrowd``) are in maps of classes, but no
boxes: they are not one object.

A map of instances has class 0 where no object is; objects are drawn over larger ones. In a panoptic map, 255 is what
nobody annotated (with more classes, 65535).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np

from open4m import modalities
from open4m.datasets import tables
from open4m.datasets.captions import FIELD
from open4m.datasets.classes import Classes
from open4m.datasets.coco_files import KINDS, MALFORMED, about, annotation_files, image_folder, mask_of, unique
from open4m.datasets.labelled.run_lengths import LARGEST_MASK
from open4m.datasets.layouts.base import Layout, Part, Wanted, photo, split_of, text
from open4m.datasets.source import Source
from open4m.modalities.codecs import decode_image
from open4m.types import Boxes, Open4MError, Value, shown

BACKGROUND = "background"
UNANNOTATED = ("captions", "panoptic", "stuff", "image_info")
"""Kinds of files of which an image without annotations was not looked at for objects."""


class Coco(Layout):
    name = "coco"

    @classmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        return bool(annotation_files(source))

    def parts(self) -> Iterator[Part]:
        for path in self._paths:
            kind, group = about(path)
            split, numbers = split_of(group), count()
            for section, item in tables.items(self.source, path):
                if section == "images":
                    yield self._image(path, kind, group, split, item)
                elif section == "annotations":
                    yield from self._annotation(path, kind, group, split, item, next(numbers))

    def _image(self, path: str, kind: str, group: str, split: str, item: Any) -> Part:
        folder = self._folders[path]
        try:
            file, size = folder + item["file_name"].removeprefix("./"), [item.get("height"), item.get("width")]
            place = {"file": file, "size": size, "annotated": kind not in UNANNOTATED}
            return Part(f"{group}/{item['id']}", photo().name, place, KINDS.index(kind), None, split)
        except (KeyError, TypeError, AttributeError) as error:
            raise Open4MError(
                f"{self.source.named(path)}: expected an image with 'id' and 'file_name', got {shown(item)}"
            ) from error

    def _annotation(self, path: str, kind: str, group: str, split: str, item: Any, number: int) -> Iterator[Part]:
        try:
            sample = f"{group}/{item['image_id']}"
            if FIELD in item:
                yield Part(sample, text().name, item[FIELD], number, None, split)
            elif "segments_info" in item:
                segments = {str(s["id"]): s["category_id"] for s in item["segments_info"]}
                file = f"{path.removesuffix('.json')}/{item['file_name']}"
                yield Part(sample, _map().name, {"file": file, "segments": segments}, -1, None, split)
            elif "bbox" in item or "segmentation" in item:
                place = {"category": item["category_id"], "crowd": bool(item.get("iscrowd", 0))}
                if "bbox" in item:
                    yield Part(sample, _boxes().name, {**place, "box": item["bbox"]}, number, None, split)
                if item.get("segmentation"):
                    yield Part(sample, _map().name, {**place, "shape": item["segmentation"]}, number, None, split)
        except (KeyError, TypeError) as error:
            raise Open4MError(f"{self.source.named(path)}: not an annotation: {shown(item)}") from error

    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        if photo().name not in places:
            raise Open4MError(f"{self.source.url}: annotations of an image that is not listed")
        image, found = places[photo().name][0], dict.fromkeys(names)
        annotated = any(
            place["annotated"] for place in places[photo().name]
        )  # so that nothing there is no object there
        for name in names:
            if name not in places and not (annotated and name in (_boxes().name, _map().name)):
                continue
            parts = places.get(name, ())
            if name == photo().name:
                found[name] = self.source.read(image["file"])
            elif name == text().name:
                found[name] = self.wanted.text(parts, image["file"])
            elif name == _boxes().name:
                found[name] = self._objects(parts, self._size(image), image["file"])
            elif name == _map().name:
                found[name] = self._classes_of(parts, image)
        return found

    def extent(self, places: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
        size = places[photo().name][0]["size"] if photo().name in places else [None]
        return None if None in size else tuple(size)

    def classes(self) -> Mapping[str, Classes]:
        named = list(self._categories.values())
        boxes = Classes(names=tuple(dict.fromkeys(name for name, thing in named if thing)))
        if self._is_panoptic:
            return {_boxes().name: boxes, _map().name: Classes(names=tuple(unique(name for name, _ in named)))}
        return {_boxes().name: boxes, _map().name: Classes(names=tuple(unique([BACKGROUND, *(n for n, _ in named)])))}

    # ---- what is there
    @cached_property
    def _paths(self) -> list[str]:
        if not (found := annotation_files(self.source)):
            raise Open4MError(f"{self.source.url}: no JSON file with 'images' and 'annotations' in it, as COCO's have")
        return found

    @cached_property
    def _is_panoptic(self) -> bool:
        return any(about(path)[0] == "panoptic" for path in self._paths)

    @cached_property
    def _categories(self) -> dict[int, tuple[str, bool]]:
        """Name and whether it is a thing, of each category, by id in ascending order."""
        found = {}
        for path in self._paths:
            for section, item in tables.items(self.source, path):
                if section == "categories":
                    try:
                        found[int(item["id"])] = (str(item["name"]), bool(item.get("isthing", 1)))
                    except (*MALFORMED, AttributeError) as error:
                        raise Open4MError(f"{self.source.named(path)}: not a category: {shown(item)}") from error
        return dict(sorted(found.items()))

    @cached_property
    def _ids(self) -> dict[int, int]:
        """Our class id of each category: in order of theirs, which have gaps; after the background without panoptic."""
        return {category: i for i, category in enumerate(self._categories, 0 if self._is_panoptic else 1)}

    @cached_property
    def _folders(self) -> dict[str, str]:
        """Where the images of each annotation file are."""
        found = {}
        for path in self._paths:
            first = next((i for section, i in tables.items(self.source, path) if section == "images"), None)
            found[path] = image_folder(self.source, path, first)
        return found

    # ---- values
    def _size(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of an image, from its file where the annotations do not say them."""
        if None not in image["size"]:
            height, width = image["size"]
            if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
                raise Open4MError(f"{image['file']}: expected a height and a width, got {shown(image['size'])}")
            if height * width > LARGEST_MASK:
                raise Open4MError(f"{image['file']}: {height}×{width} pixels, at most {LARGEST_MASK} are read")
            return height, width
        read = decode_image(self.source.read(image["file"]), photo().name)
        return read.height, read.width

    def _objects(self, parts: Sequence[Any], size: tuple[int, int], where: str) -> Boxes:
        corners, labels = [], []
        for part in parts:
            if part["crowd"]:
                continue
            try:
                x, y, width, height = map(float, part["box"])
                if not np.isfinite([x, y, width, height]).all():
                    raise ValueError("a box that is not finite")
                name = self._categories[part["category"]][0]
            except MALFORMED as error:
                raise Open4MError(f"{where}: not a box of a known category: {shown(part)}") from error
            corners.append([x / size[1], y / size[0], (x + width) / size[1], (y + height) / size[0]])
            labels.append(name)
        return Boxes(np.array(corners).reshape(-1, 4).clip(0, 1), tuple(labels))

    def _classes_of(self, parts: Sequence[Any], image: Mapping[str, Any]) -> np.ndarray | None:
        panoptic = next((part for part in parts if "segments" in part), None)
        if panoptic is not None:
            return self._of_panoptic(panoptic)
        return None if self._is_panoptic else self._of_shapes(parts, self._size(image), image["file"])

    def _of_panoptic(self, part: Mapping[str, Any]) -> np.ndarray:
        """Ids are red + 256 green + 65536 blue; 0 is nothing."""
        image = decode_image(self.source.read(part["file"]), _map().name).convert("RGB")
        ids = np.asarray(image).astype(np.int64) @ np.array([1, 256, 65536])
        unknown = 255 if len(self._ids) <= 255 else 65535
        found, places = np.unique(ids, return_inverse=True)
        try:
            known = {int(segment): self._ids[category] for segment, category in part["segments"].items()}
        except MALFORMED as error:
            raise Open4MError(f"{part['file']}: not segments of known categories ({error!r})") from error
        classes = np.array([known.get(int(i), unknown) for i in found], np.int32)
        return _map().convert(classes[places].reshape(ids.shape))

    def _of_shapes(self, parts: Sequence[Any], size: tuple[int, int], where: str) -> np.ndarray:
        masks = []
        for part in parts:
            try:
                masks.append((self._ids[part["category"]], mask_of(part["shape"], size)))
            except (*MALFORMED, Open4MError) as error:
                raise Open4MError(f"{where}: not a segmentation of a known category ({error})") from error
        classes = np.zeros(size, np.int32)
        for number, mask in sorted(masks, key=lambda found: -int(found[1].sum())):
            classes[mask] = number
        return _map().convert(classes)


def _boxes():
    return modalities.of_role("objects")


def _map():
    return modalities.of_role("classes")


LAYOUT = Coco
