"""Tar files in the WebDataset convention: members of one sample follow each other and share all of their name but its
ending, ``000001.jpg``, ``000001.txt``, ``000001.depth.npy``.

Only headers are read to list them; members are read in place. A tar that already is what a raw shard is can be linked
instead of copied: see :meth:`WebDataset.link`.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, BinaryIO

from open4m import modalities
from open4m.datasets.layouts.base import (
    IMAGE_SUFFIXES,
    TEXT_SUFFIXES,
    Layout,
    Link,
    Part,
    Wanted,
    called,
    caption_of,
    photo,
    split_of,
    suffix_of,
    takes,
    text,
    texts_of,
)
from open4m.datasets.source import Source
from open4m.modalities.families import Modality
from open4m.store.members import check_member
from open4m.types import Open4MError, Value

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class WebDataset(Layout):
    name = "webdataset"
    packed = True

    @classmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        return any(entry.path.lower().endswith((".tar", *PACKED)) for entry in source.some())

    def parts(self) -> Iterator[Part]:
        self.ignored().clear()
        order = 0
        for path in self._tars:
            split = next((s for word in path.split("/") if (s := split_of(word))), "")
            for member in self._members(path):
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                stem, _, ending = name.partition(".")
                if (modality := self._modality(ending)) is None:
                    self.ignored()[f".{ending}"] += 1
                    continue
                sample = "/".join(filter(None, [path.removesuffix(".tar"), folder, stem]))
                place = [path, member.offset_data, member.size, ending]
                # A text beside the JSON of the same sample is what the JSON says too.
                rank = 1 if ending.endswith("json") and modality.is_text else 0
                yield Part(sample, modality.name, place, rank, member.size, split)
                order += 1
        if not order:
            raise Open4MError(f"{self.source.url}: no member of its tars is an image or a label")

    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        return {name: self._read(modalities.get(name), places[name][0]) if name in places else None for name in names}

    def ignored(self) -> Counter:
        return self._ignored

    def link(self, places: Mapping[str, Sequence[Any]], sample: str) -> Link | None:
        if any(
            modalities.get(name).is_text and suffix_of(f"x.{found[0][3]}") != ".txt" for name, found in places.items()
        ):
            return None  # captions are a part of such files
        path = next(iter(places.values()))[0][0]
        key = sample.removeprefix(path.removesuffix(".tar") + "/")
        return Link(path, key, {name: found[0][3] for name, found in places.items()})

    # ---- how
    @cached_property
    def _ignored(self) -> Counter:
        return Counter()

    @cached_property
    def _tars(self) -> list[str]:
        found = sorted(entry.path for entry in self.source.walk() if entry.path.lower().endswith((".tar", *PACKED)))
        if packed := next((path for path in found if path.lower().endswith(PACKED)), None):
            raise Open4MError(
                f"{self.source.named(packed)}: a compressed tar, whose members cannot be read in any order: make it "
                "a plain .tar first (gunzip, unxz, ...)"
            )
        if not found:
            raise Open4MError(f"{self.source.url}: holds no tar files")
        return found

    def _members(self, path: str) -> Iterator[tarfile.TarInfo]:
        """The files in a tar, in order. Raises :class:`Open4MError` for a damaged tar, and for anything that could
        leave it: links, absolute names, ``..``, members above 256 MiB."""
        where = self.source.named(path)
        with self.source.open(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            try:
                with tarfile.open(fileobj=file, mode="r:") as archive:
                    while (member := archive.next()) is not None:
                        archive.members = []  # else it keeps all of them
                        check_member(where, member, size)
                        if member.isreg() and not member.issparse():
                            yield member
            except (tarfile.TarError, OSError, ValueError, RecursionError, MemoryError) as error:  # headers of any size
                reason = str(error) or "a header larger than the memory"
                raise Open4MError(f"{where}: truncated or not a tar file ({reason})") from error

    @cached_property
    def _places(self) -> dict[str, str]:
        """The modality of each ending that the user names."""
        return {place.lstrip("*").lstrip("."): name for name, place in self.wanted.where.items()}

    def _modality(self, ending: str) -> Modality | None:
        """The modality of members with an ending: ``depth.npy``, ``seg.png``, ``jpg``."""
        if ending in self._places:
            return modalities.get(self._places[ending])
        word, _, _ = ending.rpartition(".")
        suffix = suffix_of("x." + ending)
        plain = photo() if suffix in IMAGE_SUFFIXES else text() if suffix in TEXT_SUFFIXES else None
        found = called(word) if word else plain
        return None if found is None or found.name in self.wanted.where or not takes(found, suffix) else found

    def _read(self, modality: Modality, place: Sequence[Any]) -> bytes | Value | None:
        path, offset, size, ending = place
        file = self._open(path)
        file.seek(offset)
        data = self.source.read_open(file, path, size)
        if len(data) != size:
            raise Open4MError(f"{self.source.named(path)}: truncated")
        if not modality.is_text:
            return data
        where = f"{self.source.named(path)}: a member .{ending}"
        strict = modality.name in self.wanted.where  # else JSON may be about something else
        caption = self.wanted.text(texts_of(caption_of(data, suffix_of("x." + ending), where, strict)), where)
        return data if caption is not None and data == caption.encode() else caption  # the file as it is, where it can

    def _open(self, path: str) -> BinaryIO:
        """The tar, which stays open until another one is read."""
        if self._opened.get("path") != path:
            if "file" in self._opened:
                self._opened["file"].close()
            self._opened.update(path=path, file=self.source.open(path))
        return self._opened["file"]

    @cached_property
    def _opened(self) -> dict[str, Any]:
        return {}


LAYOUT = WebDataset
