"""Raw, aligned, labelled data: tar files in the WebDataset convention.

``<root>/<modality>/shard-00000.tar`` has members ``<key>.<extension>``, in the same order of keys in every
modality's folder; :mod:`open4m.store.manifest` describes ``manifest.json`` and how a shard is committed. A sample that
lacks the modality has an empty member ``<key>.missing`` in its place. Nothing is ever extracted: members are found by
their headers and read in place from memory-mapped files (:mod:`open4m.store.members`).
"""

from __future__ import annotations

import io
import itertools
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from open4m import checksums, modalities
from open4m.modalities.families import Modality, Palette
from open4m.modalities.frames import frame_of
from open4m.modalities.given import decoded, of_bytes
from open4m.store.manifest import (
    FILE,
    KeyColumn,
    Manifest,
    ShardEntry,
    align,
    check_key,
    commit,
    folder_of,
    keys_digest,
    link,
    open_manifest,
    shard_path,
)
from open4m.store.members import MEMBER_LIMIT, MISSING, Members, scan
from open4m.types import Open4MError, Value, shown

HEADER = {"kind": "raw"}
"""The manifest's header of every raw modality; that of labels says more, see :mod:`open4m.data.label`."""

SQUARE = "square"
"""The frame of labels: they show the central square of what they were made from."""


class UnreadableSample(Open4MError):
    """The bytes of one sample hold no value of the modality; a job may skip and count such samples."""


class DamagedShard(Open4MError):
    """Nothing of a shard of ``modality`` can be read; a job may count its ``samples`` as lost and do the others."""

    def __init__(self, message: str, modality: str = "", samples: int = 0) -> None:
        super().__init__(message)
        self.modality, self.samples = modality, samples


def shows_square(root: str | Path, modality: str) -> bool:
    """Whether a raw modality shows the central square of an image, and not all of it."""
    manifest = Manifest.read(folder_of(root, modality))
    return manifest is not None and manifest.header.get("frame") == SQUARE


def write_shard(
    root: str | Path,
    modality: str,
    index: int,
    items: Iterable[tuple[str, bytes | None]],
    header: Mapping[str, Any] = HEADER,
    *,
    form: str = "",
    palette: Palette = (),
) -> ShardEntry:
    """Write ``<root>/<modality>/shard-<index>.tar`` from (key, file content) pairs; the same pairs, the same bytes.

    The content is None for a sample that lacks the modality, so that its key keeps its place among the others.

    ``form``: that of the files, if it is not the modality's own: 16-bit PNG files of depth in ``"millimeters"``. They
    are stored as they are, images or ``.npy`` arrays, all of one kind; the manifest says the form, and readers convert.
    ``palette``: the colors of classes, for files in the form of colors.

    >>> write_shard("raw", "depth", 0, [(path.stem, path.read_bytes()) for path in paths], form="millimeters")

    ``items`` is consumed one by one, so that they need not fit into memory. Writing a shard again replaces it. Raises
    :class:`Open4MError` for a key that is empty, repeated or has ``/`` or ``.``, and for content above 256 MiB; then
    nothing is written.
    """
    known = modalities.get(modality)
    extension, path = header.get("extension", known.extension), shard_path(root, modality, index, "tar")
    if form:
        extension, items = _first_kind(
            items, path, header, partial(kind_of, modality=known, form=form, palette=palette)
        )
        header = {**header, "form": form, "extension": extension}
        header |= {"palette": [list(color) for color in palette]} if palette else {}

    def write(file: BinaryIO) -> KeyColumn:
        missing = 0
        keys: dict[str, None] = {}  # an ordered set
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for item in items:
                key, content = _checked(item, path)
                check_key(key, keys, path)
                if content is not None and len(content) > MEMBER_LIMIT:
                    raise Open4MError(
                        f"{path}: key {key}, {modality}: {len(content)} bytes, at most {MEMBER_LIMIT} are stored"
                    )
                member = tarfile.TarInfo(f"{key}.{MISSING if content is None else extension}")  # time and owner are 0
                member.size = len(content or b"")
                archive.addfile(member, io.BytesIO(content or b""))
                keys[key] = None
                missing += content is None
        return KeyColumn(list(keys), missing)

    return commit(path, header, write)


def link_shard(
    root: str | Path, modality: str, index: int, target: Path, header: Mapping[str, Any], sha256: str
) -> ShardEntry:
    """Make a tar of others a shard, by a symbolic link: ``header`` says the ``extension`` of its members.

    ``sha256``: of the tar. Raises :class:`Open4MError` for a tar that :func:`scan` refuses.
    """
    path = shard_path(root, modality, index, "tar")
    keys = scan(target, header["extension"]).keys
    entry = ShardEntry(file=path.name, rows=len(keys), sha256=sha256, keys_sha256=keys_digest(keys))
    return link(path, target, header, entry)


def _first_kind(
    items: Iterable[Any], path: Path, header: Mapping[str, Any], kind: Callable[[bytes], str]
) -> tuple[str, Iterable[Any]]:
    """The extension of the first sample that has the modality, or that of the header or of the folder's other shards,
    and all of the items."""
    items, seen = iter(items), []
    for item in items:
        seen.append(item)
        if (content := _checked(item, path)[1]) is not None:
            return kind(content), itertools.chain(seen, items)
    manifest = Manifest.read(path.parent)
    known = header.get("extension") or (manifest and manifest.header.get("extension"))
    if not known:
        raise Open4MError(
            f"{path}: no sample has the modality, so that the kind of its files is not known; write a shard with some "
            "first, or give the header their 'extension'"
        )
    return known, seen


def _checked(item: Any, path: Path) -> tuple[str, bytes | None]:
    """A pair that may be stored. Raises :class:`Open4MError`: the bytes of an array in memory are no file."""
    match item:
        case (key, None):
            return key, None
        case (key, bytes() | bytearray() | memoryview() as content):
            return key, bytes(content)
        case (key, content):
            raise Open4MError(
                f"{path}: key {key}: expected the bytes of a file, as Path.read_bytes() or the modality's write() "
                f"gives them, got {type(content).__name__}"
            )
    raise Open4MError(f"{path}: expected pairs of a key and the bytes of a file, got {shown(item)}")


def kind_of(data: bytes, modality: Modality, form: str, palette: Palette = ()) -> str:
    """The extension of files like these bytes. Raises :class:`Open4MError` for bytes of no value in the form."""
    of_bytes(data, modality, form, palette)
    found = decoded(data, modality.name)
    return found.format.lower() if isinstance(found, Image.Image) else "npy"


@dataclass(frozen=True)
class _Source:
    """How the value of one modality is made."""

    name: str
    stored: int | None  # its folder's place among the stored ones; None: derived from another value
    origin: str | None  # the name of that other value
    decode: Callable[[Any], Value]  # of the file's bytes, or of the other value


class RawDataset:
    """Samples of several modalities, in step, by global index.

    A modality without a folder of its own that names a ``source`` is derived from the source's value. Opening
    reads only manifests; a shard's headers are scanned when it is first touched. Instances may be pickled and
    used from several threads. ``shards`` maps a shard's index to its range of global indices. ``squares`` names the
    modalities that show the central square of an image, since a labeller made them; all others show all of it.

    A sample is a dictionary by modality. Modalities that the sample lacks are not in it: see :meth:`rows_with`.

    Raises :class:`Open4MError` if a modality is missing, or if two hold different samples.
    """

    def __init__(self, root: str | Path, modalities: Sequence[str]) -> None:
        self.root = Path(root)
        self.modalities = tuple(modalities)
        if not self.modalities:
            raise Open4MError(f"{self.root}: name at least one modality to read")
        self._known: dict[str, Modality] = {}
        self._stored: list[str] = []
        self._sources: dict[str, _Source] = {}  # sources before what is derived from them
        for name in self.modalities:
            self._add(name)
        self._manifests = {name: open_manifest(self.root, name) for name in self._stored}
        for name, manifest in self._manifests.items():
            if manifest.header.get("kind") != HEADER["kind"]:
                raise Open4MError(f"{self.root / name}: expected raw shards, got kind {manifest.header.get('kind')!r}")
        self.squares = frozenset(name for name in self._stored if shows_square(self.root, name))
        self._opened: dict[int, list[Members]] = {}
        self.shards = align(self.root, self._manifests, lambda name, shard: self._scan(name, shard).keys)
        self._shard_indices = list(self.shards)
        self._starts = [rows.start for rows in self.shards.values()]
        self._length = sum(map(len, self.shards.values()))
        self._files = [(name, self._stored.index(self._stored_name(name))) for name in self.modalities]

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    @property
    def keys(self) -> list[str]:
        """All keys, in order. Scans every shard; :meth:`key` scans one."""
        return [key for shard in self.shards for key in self._members(shard)[0].keys]

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        members, row = self._locate(i)
        return members[0].keys[row]

    def files(self, i: int) -> dict[str, bytes]:
        """The stored files of sample ``i`` by modality; of a derived modality, its source's file. Modalities that the
        sample lacks are left out."""
        members, row = self._locate(i)
        found = {name: members[stored].read(row) for name, stored in self._files}
        return {name: file for name, file in found.items() if file is not None}

    def read(self, i: int, modality: str) -> bytes:
        """The stored file of sample ``i``; of a derived modality, its source's file. Raises :class:`Open4MError` if the
        sample lacks the modality."""
        if (file := self.files(i).get(modality)) is None:
            raise Open4MError(f"{self.root}: key {self.key(i)}: the sample has no {modality}; see rows_with")
        return file

    def missing(self, modality: str) -> int:
        """How many samples lack a modality, as the manifests say: no shard is read."""
        return self._manifests[self._stored_name(modality)].missing

    def rows_with(self, *modalities: str) -> np.ndarray:
        """The indices of the samples that have all of these modalities, int64 (n,) in order. Scans only shards in
        which some are missing."""
        stored = {self._stored_name(name) for name in modalities}
        present = np.ones(self._length, dtype=bool)
        for shard, rows in self.shards.items():
            for name in stored:
                if self._manifests[name].shards[shard].missing:
                    places = self._members(shard)[self._stored.index(name)].places
                    present[rows.start : rows.stop] &= [place is not None for place in places]
        return np.flatnonzero(present)

    def having(self, *modalities: str) -> Selection:
        """The samples that have all of these modalities."""
        return Selection(self, self.rows_with(*modalities))

    def __getitem__(self, i: int) -> dict[str, Value]:
        """The values of sample ``i`` by modality, without those that it lacks.

        Raises :class:`UnreadableSample` if a file does not decode, and if its maps do not show one picture.
        """
        members, row = self._locate(i)
        values: dict[str, Value] = {}
        for source in self._sources.values():
            content = values.get(source.origin) if source.stored is None else members[source.stored].read(row)
            if content is None:
                continue
            try:
                values[source.name] = source.decode(content)
            except Exception as error:  # decoders of user modalities raise anything
                raise self.unreadable(i, source.name, error) from error
        try:
            frame_of(values, self._known, squares=self.squares)
        except Open4MError as error:
            raise UnreadableSample(f"{self.root}: key {self.key(i)}: {error}") from error
        return {name: values[name] for name in self.modalities if name in values}

    def _add(self, name: str) -> None:
        """Resolve a modality, after its source if it is derived."""
        if name in self._sources:
            return
        modality = self._known[name] = modalities.get(name)
        if modality.source is None or (folder_of(self.root, name) / FILE).exists():
            self._sources[name] = _Source(name, len(self._stored), None, self._reader(modality))
            self._stored.append(name)
        else:
            self._add(modality.source)
            self._sources[name] = _Source(name, None, modality.source, modality.derive)

    def _reader(self, modality: Modality) -> Callable[[bytes], Value]:
        """How a stored file of a modality is read: in the form that its manifest says, or its own."""
        manifest = Manifest.read(folder_of(self.root, modality.name))
        form = manifest.header.get("form") if manifest else None
        if not form:
            return modality.read
        palette = tuple(map(tuple, manifest.header.get("palette", ())))
        return partial(of_bytes, modality=modality, form=form, palette=palette)

    def _stored_name(self, name: str) -> str:
        """The modality whose folder holds what ``name`` is made from."""
        source = self._sources[name]
        return name if source.origin is None else self._stored_name(source.origin)

    def unreadable(self, i: int, name: str, error: Exception) -> UnreadableSample:
        """The error of sample ``i``, whose value of a modality cannot be used: names shard, key and modality."""
        shard = self._shard_indices[bisect_right(self._starts, i) - 1]
        path = shard_path(self.root, self._stored_name(name), shard, "tar")
        return UnreadableSample(f"{path}: key {self.key(i)}, modality {name}: {error}; repair or leave out this sample")

    def _locate(self, i: int) -> tuple[list[Members], int]:
        """The members of a sample's shard, one per stored modality, and its row in the shard."""
        if not 0 <= i < self._length:
            raise IndexError(f"{self.root}: sample {i} of {self._length}")
        place = bisect_right(self._starts, i) - 1  # the last shard that starts at or before it: empty ones hold none
        return self._members(self._shard_indices[place]), i - self._starts[place]

    def close(self, shard: int) -> None:
        """Forget where the samples of a shard are, for those who go through shards once: memory stays flat. They are
        found again when they are asked for."""
        self._opened.pop(shard, None)

    def _members(self, shard: int) -> list[Members]:
        if (members := self._opened.get(shard)) is None:
            members = self._opened[shard] = [self._checked(name, shard) for name in self._stored]
        return members

    def _checked(self, name: str, shard: int) -> Members:
        entry = self._manifests[name].shards[shard]
        try:
            members = self._scan(name, shard)
            checksums.check_shard(shard_path(self.root, name, shard, "tar"), entry.sha256)
        except Open4MError as error:
            raise DamagedShard(str(error), name, entry.rows) from error
        missing = members.places.count(None)
        if (len(members.keys), missing) != (entry.rows, entry.missing) or keys_digest(
            members.keys
        ) != entry.keys_sha256:
            raise DamagedShard(
                f"{shard_path(self.root, name, shard, 'tar')}: expected the {entry.rows} samples of "
                f"{FILE}, {entry.missing} of them missing, got {len(members.keys)}, {missing} missing, or other keys: "
                "the shard is truncated or was changed; restore it or write it again",
                name,
                entry.rows,
            )
        return members

    def _scan(self, name: str, shard: int) -> Members:
        extension = self._manifests[name].header.get("extension", self._known[name].extension)
        return scan(shard_path(self.root, name, shard, "tar"), extension)


@dataclass(frozen=True)
class Selection:
    """Some samples of a data set, by their place among ``rows``, int64 (n,): indices of ``data``."""

    data: RawDataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Value]:
        return self.data[int(self.rows[place])]

    def key(self, place: int) -> str:
        return self.data.key(int(self.rows[place]))

    def unreadable(self, place: int, name: str, error: Exception) -> UnreadableSample:
        return self.data.unreadable(int(self.rows[place]), name, error)
