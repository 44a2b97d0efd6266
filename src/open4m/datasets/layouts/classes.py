"""One folder of images per class, as ImageNet's: the class name is the caption.

``train/n01440764/*.JPEG`` with ``LOC_synset_mapping.txt`` or ``synset_words.txt`` beside it, which name the classes; or
``cats/*.jpg``, whose folders are called after their classes: that is taken for classes only on request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from open4m.datasets.layouts.base import (
    IMAGE_SUFFIXES,
    Layout,
    Part,
    Wanted,
    photo,
    split_among,
    split_of,
    suffix_of,
    text,
)
from open4m.datasets.source import Source
from open4m.types import Open4MError, Value

MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
WORDNET = re.compile(r"n\d{8}")


class ClassFolders(Layout):
    name = "classes"

    @classmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        images = [entry.path for entry in source.some() if suffix_of(entry.path) in IMAGE_SUFFIXES]
        return (
            bool(images)
            and all(_has_id(path) or _class_of(path) is None for path in images)
            and any(map(_has_id, images))
        )

    def parts(self) -> Iterator[Part]:
        counts: dict[str, int] = {}
        for entry in self.source.walk():
            if (suffix := suffix_of(entry.path)) not in IMAGE_SUFFIXES:
                continue
            stem, split = entry.path[: len(entry.path) - len(suffix)], split_among(entry.path)
            yield Part(stem, photo().name, entry.path, 0, entry.size, split)
            if (name := _class_of(entry.path)) is not None:
                counts[name] = counts.get(name, 0) + 1
                yield Part(stem, text().name, name, 0, None, split)
        if len(counts) == 1 and not WORDNET.fullmatch(next(iter(counts))):
            raise Open4MError(
                f"{self.source.url}: all images are in one folder, {next(iter(counts))}: no class folders"
            )

    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        read = {photo().name: self._image, text().name: self._caption}
        return {name: read[name](places[name][0]) if name in places else None for name in names}

    def _image(self, path: str) -> bytes:
        return self.source.read(path)

    def _caption(self, folder: str) -> str:
        if WORDNET.fullmatch(folder) and folder not in self._names:
            raise Open4MError(
                f"{self.source.named(folder)}: no name of this class; put one of {', '.join(MAPPINGS)} into "
                f"{self.source.url}, with lines like 'n01440764 tench, Tinca tinca'"
            )
        return self._names.get(folder, re.sub(r"[_\s]+", " ", folder).strip())

    @cached_property
    def _names(self) -> dict[str, str]:
        """The first name of each WordNet id, from the file that comes with ImageNet."""
        found = {}
        for file in filter(self.source.exists, MAPPINGS):
            for line in self.source.read(file).decode("utf-8", "replace").splitlines():
                number, _, words = line.strip().partition(" " if "\t" not in line else "\t")
                if WORDNET.fullmatch(number):
                    found[number] = words.split(",")[0].strip()
        return found


def _class_of(path: str) -> str | None:
    """The folder that an image is in, if it is no split's."""
    folders = path.split("/")[:-1]
    return folders[-1] if folders and not split_of(folders[-1]) else None


def _has_id(path: str) -> bool:
    return bool(WORDNET.fullmatch(_class_of(path) or ""))


LAYOUT = ClassFolders
