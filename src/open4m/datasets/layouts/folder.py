"""Images in folders of any depth, with captions, maps and boxes in files beside them, in other folders, or in tables.

A file's modality is said by its folder (``depth/a.png``), by the end of its name (``a_depth.png``, ``a.depth.npy``)
or, for images and captions, by its kind (``a.jpg``, ``a.txt``). What remains of its path is its sample's name. Tables
(CSV, TSV, JSON Lines, JSON, Parquet) have a column of file names and one of captions.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from PIL import Image

from open4m import modalities
from open4m.datasets import tables
from open4m.datasets.layouts.base import (
    CAPTION_FIELDS,
    IMAGE_SUFFIXES,
    TEXT_SUFFIXES,
    Layout,
    Part,
    Wanted,
    called,
    caption_of,
    photo,
    split_among,
    split_of,
    suffix_of,
    takes,
    text,
    texts_of,
)
from open4m.datasets.source import Source, Unreachable
from open4m.modalities.families import Modality
from open4m.types import Open4MError, Value

HEADED = ("captions.txt", "results.txt")
"""Text files that may be tables with a first line of names, as Flickr's are."""

METADATA = "metadata"
"""What tables of images and captions are called on the Hugging Face hub."""

SIDE_FILES = (METADATA, "readme", "license", "requirements", "info", "classes", "labels", "dataset_info")
"""What texts and JSON files are called that describe a whole data set; some of them are tables of captions."""


MAP_SUFFIXES = (".png", ".tif", ".tiff")
MAP_MODES = {"P": "has a palette", "I": "has numbers of 16 bits"}
"""What Pillow calls the pixels of pictures that are rather maps than photos, and what they have."""

MAX_FOLDERS = 64
"""Folders of which a first file is remembered."""

MAX_TABLES = 3
"""Tables that are named if they are not read."""

CAMERA_SUFFIXES = (".heic", ".heif", ".dng", ".cr2", ".nef", ".arw")
"""Of pictures that Pillow does not read."""


@dataclass(frozen=True)
class _Seen:
    """The first file of each modality in each folder, of a few folders; and a few of the ``tables`` that are not
    read."""

    places: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)

    def add(self, modality: str, path: str) -> None:
        folders, folder = self.places.setdefault(modality, {}), path.rpartition("/")[0]
        if len(folders) < MAX_FOLDERS:
            folders.setdefault(folder, path)

    def add_unread(self, path: str) -> None:
        if suffix_of(path) in tables.SUFFIXES and len(self.tables) < MAX_TABLES:
            self.tables.append(path)

    def clear(self) -> None:
        self.places.clear()
        self.tables.clear()


@dataclass(frozen=True)
class Rule:
    """Where the user says that a modality is: in paths that begin with ``folder`` or have it among their folders, and
    end with ``ending``."""

    modality: str
    folder: str
    ending: str

    def stem(self, path: str) -> str | None:
        """The sample's name of a path that this rule is about, else None."""
        if self.ending and not path.endswith(self.ending):
            return None
        stem = path[: len(path) - len(self.ending)] if self.ending else path[: len(path) - len(suffix_of(path))]
        if not self.ending and not takes(modalities.get(self.modality), suffix_of(path)):
            return None
        return _without(stem, self.folder) if self.folder else stem


class Folder(Layout):
    name = "folder"
    general = True

    @classmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        kinds = {suffix_of(entry.path) for entry in source.some()}
        return bool(kinds & {*IMAGE_SUFFIXES, *tables.SUFFIXES, ".npy", ".txt"}) or bool(wanted.where)

    def parts(self) -> Iterator[Part]:
        self.ignored().clear()
        self._seen.clear()
        listed = {file for file, _ in self._tables.values()}
        for file, caption in self._tables.values():
            yield from self._of_table(file, caption)
        for entry in self.source.walk():
            if entry.path in listed:
                continue
            if (found := self._part(entry.path)) is not None:
                name, stem = found
                self._seen.add(name, entry.path)
                yield Part(stem, name, entry.path, 0, entry.size, split_among(entry.path))
            elif self._is_table(entry.path):
                yield from self._of_table(entry.path, "")
            else:
                self.ignored()[suffix_of(entry.path) or "no ending"] += 1
                self._seen.add_unread(entry.path)

    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        return {name: self._read(modalities.get(name), places[name]) if name in places else None for name in names}

    def ignored(self) -> Counter:
        return self._ignored

    def hints(self) -> list[str]:
        found = []
        for folder, path in self._seen.places.get(photo().name, {}).items():
            if suffix_of(path) in MAP_SUFFIXES and (kind := self._kind_of_map(path)):
                found.append(
                    f"{path} {kind}, as maps do, and is taken for a photo: if it is a map, name the modality and the "
                    f"place, --where MODALITY={folder or 'PLACE'}"
                )
        if text().name not in self.wanted.where:
            found += [self._why_unread(path) for path in self._seen.tables]
        if unread := [ending for ending in CAMERA_SUFFIXES if ending in self.ignored()]:
            found.append(f"pictures of {', '.join(unread)} are not read: make JPEG or PNG files of them first")
        folders = [f for f in self._seen.places.get(photo().name, {}) if f and not split_of(f.rpartition("/")[2])]
        if len(folders) > 1 and text().name not in self._seen.places:
            found.append("no captions found: if folders are classes, --layout classes makes captions of their names")
        return found

    def _kind_of_map(self, path: str) -> str:
        """Why a picture may be a map, "" for photos."""
        try:
            with Image.open(io.BytesIO(self.source.read(path))) as image:
                return MAP_MODES.get(image.mode.partition(";")[0], "")
        except (Open4MError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return ""  # it is found to be broken when it is imported

    def _why_unread(self, path: str) -> str:
        try:
            first = next(iter(self._rows(path)), {})
        except Open4MError as error:
            return f"a table is not read: {error}"
        return (
            f"{path} is not read: captions have a column of file names with their endings ("
            f"{', '.join(tables.FILE_COLUMNS[:4])}, ...) and one of texts ({', '.join(CAPTION_FIELDS[:4])}, ...), got "
            f"{', '.join(map(str, first)) or 'nothing'}: if one holds the texts, --where {text().name}={path}:COLUMN"
        )

    @cached_property
    def _seen(self) -> _Seen:
        return _Seen()

    @cached_property
    def _ignored(self) -> Counter:
        return Counter()

    # ---- which file is what
    @cached_property
    def _rules(self) -> tuple[Rule, ...]:
        found = []
        for name, place in self.wanted.where.items():
            if ":" in place or suffix_of(place) in tables.SUFFIXES:
                continue
            folder, star, ending = place.partition("*")
            if star and folder and not folder.endswith("/"):
                raise Open4MError(f"{name}: place {place!r}: expected a folder, FOLDER/*ENDING or *ENDING")
            found.append(Rule(name, folder.strip("/"), ending))
        return tuple(found)

    @cached_property
    def _tables(self) -> dict[str, tuple[str, str]]:
        """The file and the column of captions, of the modalities whose place is a column."""
        found = {}
        for name, place in self.wanted.where.items():
            file, _, column = place.rpartition(":") if ":" in place else (place, "", "")
            if file and (column or suffix_of(place) in tables.SUFFIXES):
                if not modalities.get(name).is_text:
                    raise Open4MError(f"{name}: place {place!r}: columns of tables beside images hold captions only")
                if not self.source.exists(file):
                    raise Open4MError(f"{name}: {self.source.named(file)}: no such file")
                found[name] = (file, column)
        return found

    def _part(self, path: str) -> tuple[str, str] | None:
        """The modality and the sample's name of a file; None for other files."""
        for rule in self._rules:
            if (stem := rule.stem(path)) is not None:
                return rule.modality, stem if rule.folder else _without_modality(stem)
        suffix = suffix_of(path)
        stem = path[: len(path) - len(suffix)]
        *folders, name = stem.split("/")
        short, ending = _ending(name)
        if name.lower() in SIDE_FILES and suffix in TEXT_SUFFIXES:
            return None
        in_folder = next((found for folder in reversed(folders) if (found := called(folder))), None)
        plain = photo() if suffix in IMAGE_SUFFIXES else text() if suffix in TEXT_SUFFIXES else None
        for kind in (None if ending is photo() else ending, in_folder, ending, plain):
            if (modality := self._free(kind, suffix)) is not None:
                if modality is text() and self._is_table(path):
                    return None
                stem = "/".join([*folders, short if modality is ending else name])
                return modality.name, _without_modality(stem)
        return None

    def _free(self, modality: Modality | None, suffix: str) -> Modality | None:
        """The modality, if the user says no other place of it and files of this ending hold it."""
        if modality is None or modality.name in self.wanted.where or not takes(modality, suffix):
            return None
        return modality

    # ---- tables
    def _is_table(self, path: str) -> bool:
        name = path.rpartition("/")[2].lower()
        likely = suffix_of(path) in tables.SUFFIXES or name in HEADED
        likely |= suffix_of(path) == ".json" and name.removesuffix(".json") in (*text().aliases, *SIDE_FILES)
        return likely and text().name not in self.wanted.where and self._has_captions(path)

    def _has_captions(self, path: str) -> bool:
        """Whether a table has columns of file names and of captions. Raises :class:`Open4MError` for one that cannot be
        read, though it is called as those of captions are."""
        try:
            first = next(iter(self._rows(path)), {})
        except Unreachable:
            raise
        except Open4MError:
            stem = path.rpartition("/")[2].removesuffix(suffix_of(path)).lower()
            if suffix_of(path) in tables.SUFFIXES and (called(stem) is text() or stem == METADATA):
                raise
            return False
        file, caption = tables.column(first, tables.FILE_COLUMNS), tables.column(first, CAPTION_FIELDS)
        return file is not None and caption is not None and bool(suffix_of(str(first[file])))

    def _of_table(self, path: str, wanted: str) -> Iterator[Part]:
        where, folder, columns = self.source.named(path), path.rpartition("/")[0], None
        for number, row in enumerate(self._rows(path)):
            if columns is None:
                caption = tables.column(row, [wanted] if wanted else CAPTION_FIELDS)
                columns = tables.column(row, tables.FILE_COLUMNS), caption
                if None in columns:
                    looked = wanted or f"{', '.join(CAPTION_FIELDS[:4])}, ..."
                    raise Open4MError(
                        f"{where}: expected a column of file names ({', '.join(tables.FILE_COLUMNS[:4])}, ...) and one "
                        f"of captions ({looked}), got {', '.join(map(str, row))}"
                    )
            file, captions = (row.get(column) for column in columns)
            if not isinstance(file, str) or not file:
                raise Open4MError(f"{where}: row {number + 1}: expected a file's name, got {file!r}")
            if "/" not in file:
                file = file.replace("\\", "/")  # as Windows writes paths
            image = "/".join(filter(None, [folder, file.removeprefix("./")]))
            stem = (self._part(image) or ("", image.removesuffix(suffix_of(image))))[1]
            self._seen.add(text().name, path)
            for i, caption in enumerate(texts_of(captions)):
                yield Part(stem, text().name, {"text": caption}, number * 1000 + i)

    def _rows(self, path: str) -> Iterator[Mapping[str, Any]]:
        """The rows of a table, or those of a JSON object of captions by file name."""
        if suffix_of(path) == ".json":
            for name, item in tables.items(self.source, path):
                yield item if isinstance(item, Mapping) else {tables.FILE_COLUMNS[0]: name, CAPTION_FIELDS[0]: item}
        else:
            yield from tables.rows(self.source, path)

    # ---- reading
    def _read(self, modality: Modality, places: Sequence[Any]) -> bytes | Value | None:
        if not modality.is_text:
            return self.source.read(places[0])
        found = []
        for place in places:
            if isinstance(place, Mapping):
                found.append(place["text"])
            else:
                where = self.source.named(place)
                found += texts_of(caption_of(self.source.read(place), suffix_of(place), where))
        return self.wanted.text(found, self.source.named(str(places[0])))


def _ending(name: str) -> tuple[str, Modality | None]:
    """The stem and the modality of a file's name that ends in one: ``a_surface_normals`` → ``a`` and the normals. Of
    photos only their own name counts: a picture may well be called ``my_photo``."""
    for mark in re.finditer(r"[._-]", name):
        stem, word = name[: mark.start()], name[mark.end() :]
        if stem and (found := called(word)) is not None and (found is not photo() or word.lower() == found.name):
            return stem, found
    return name, None


def _without_modality(stem: str) -> str:
    """A path without the last of its folders that is called like a modality."""
    *folders, name = stem.split("/")
    for i in reversed(range(len(folders))):
        if called(folders[i]) is not None:
            return "/".join([*folders[:i], *folders[i + 1 :], name])
    return stem


def _without(stem: str, folder: str) -> str | None:
    """A path without the last place in it of a folder, or of a run of folders. None: they are not in it."""
    wrapped, inner = f"/{stem}", f"/{folder}/"
    place = wrapped.rfind(inner)
    return (wrapped[:place] + wrapped[place + len(inner) - 1 :]).lstrip("/") if place >= 0 else None


LAYOUT = Folder
