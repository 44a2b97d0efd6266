"""Raw, aligned, labelled data: tar files in the WebDataset convention.

``<root>/<modality>/shard-00000.tar`` has members ``<key>.<extension>``, in the same order of keys in every
modality's folder; :mod:`open4m.store.manifest` describes ``manifest.json`` and how a shard is committed. Nothing is
ever extracted: members are found by their headers and read in place from memory-mapped files.
"""

from __future__ import annotations

import io
import tarfile
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from open4m import modalities
from open4m.store.manifest import (
    FILE,
    ShardEntry,
    align,
    check_key,
    commit,
    folder_of,
    keys_digest,
    open_manifest,
    shard_path,
)
from open4m.types import Open4MError, Value

MEMBER_LIMIT = 256 << 20  # bytes
HEADER = {"kind": "raw"}


class UnreadableSample(Open4MError):
    """The bytes of one sample hold no value of the modality: what a job may skip and count."""


def write_shard(root: str | Path, modality: str, index: int, items: Iterable[tuple[str, bytes]]) -> ShardEntry:
    """Write ``<root>/<modality>/shard-<index>.tar`` from (key, file content) pairs; the same pairs, the same bytes.

    ``items`` is consumed one by one. Writing a shard again replaces it. Raises :class:`Open4MError` for a key that
    is empty, repeated or has ``/`` or ``.``, and for content above 256 MiB; then nothing is written.
    """
    extension = modalities.get(modality).extension
    path = shard_path(root, modality, index, "tar")

    def write(file: BinaryIO) -> list[str]:
        keys: dict[str, None] = {}  # an ordered set
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for key, content in items:
                check_key(key, keys, path)
                if len(content) > MEMBER_LIMIT:
                    raise Open4MError(
                        f"{path}: key {key}, {modality}: {len(content)} bytes, at most {MEMBER_LIMIT} are stored"
                    )
                member = tarfile.TarInfo(f"{key}.{extension}")  # time, owner and group are 0
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
                keys[key] = None
        return list(keys)

    return commit(path, HEADER, write)


@dataclass(frozen=True)
class _Members:
    """Where the samples of one shard lie: keys, and int64 (rows,) offsets and sizes in bytes."""

    keys: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    content: pa.Buffer  # the memory-mapped file


class RawDataset:
    """Samples of several modalities, in step, by global index.

    A modality without a folder of its own that names a ``source`` is derived from the source's value. Opening
    reads only manifests; a shard's headers are scanned when it is first touched. Instances may be pickled and
    used from several threads. ``shards`` has the range of global indices of every shard, by shard index.

    Raises :class:`Open4MError` if a modality is missing, or if two hold different samples.
    """

    def __init__(self, root: str | Path, modalities: Sequence[str]) -> None:
        self.root = Path(root)
        self.modalities = tuple(modalities)
        if not self.modalities:
            raise Open4MError(f"{self.root}: name at least one modality to read")
        self._stored = tuple(dict.fromkeys(map(self._stored_name, self.modalities)))
        self._manifests = {name: open_manifest(self.root, name) for name in self._stored}
        for name, manifest in self._manifests.items():
            if manifest.header != HEADER:
                raise Open4MError(f"{self.root / name}: expected raw shards, got kind {manifest.header.get('kind')!r}")
        self._scanned: dict[tuple[str, int], _Members] = {}
        self.shards = align(self.root, self._manifests, lambda name, shard: self._scan(name, shard).keys)
        self._shard_indices = list(self.shards)
        self._starts = [rows.start for rows in self.shards.values()]

    def __len__(self) -> int:
        return sum(map(len, self.shards.values()))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_scanned": {}}

    @property
    def keys(self) -> list[str]:
        """All keys, in order. Scans every shard; :meth:`key` scans one."""
        return [key for shard in self.shards for key in self._members(self._stored[0], shard).keys]

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        shard, row = self._locate(i)
        return self._members(self._stored[0], shard).keys[row]

    def read(self, i: int, modality: str) -> bytes:
        """The stored file of sample ``i``; of a derived modality, its source's file."""
        shard, row = self._locate(i)
        members = self._members(self._stored_name(modality), shard)
        offset = members.offsets[row]
        return bytes(memoryview(members.content)[offset : offset + members.sizes[row]])

    def __getitem__(self, i: int) -> dict[str, Value]:
        """The values of sample ``i`` by modality. Raises :class:`UnreadableSample` if a file does not decode."""
        values: dict[str, Value] = {}
        for name in self.modalities:
            self._value(i, name, values)
        return {name: values[name] for name in self.modalities}

    def _value(self, i: int, name: str, values: dict[str, Value]) -> Value:
        """The value of a modality, kept in ``values`` so that a source is decoded once a sample."""
        if name not in values:
            modality = modalities.get(name)
            stored = self._stored_name(name)
            if stored == name:
                decode, content = modality.read, self.read(i, name)
            else:
                decode, content = modality.derive, self._value(i, modality.source, values)
            try:
                values[name] = decode(content)
            except Exception as error:  # decoders of user modalities raise anything
                shard, _ = self._locate(i)
                path = shard_path(self.root, stored, shard, "tar")
                raise UnreadableSample(
                    f"{path}: key {self.key(i)}, modality {name}: {error}; repair or leave out this sample"
                ) from error
        return values[name]

    def _stored_name(self, name: str) -> str:
        """The modality whose folder holds what ``name`` is made from."""
        modality = modalities.get(name)
        if modality.source is None or (folder_of(self.root, name) / FILE).exists():
            return name
        return self._stored_name(modality.source)

    def _locate(self, i: int) -> tuple[int, int]:
        """(shard index, row in the shard) of a global index."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.root}: sample {i} of {len(self)}")
        place = bisect_right(self._starts, i) - 1
        return self._shard_indices[place], i - self._starts[place]

    def _members(self, modality: str, shard: int) -> _Members:
        if (modality, shard) not in self._scanned:
            members = self._scan(modality, shard)
            entry = self._manifests[modality].shards[shard]
            if keys_digest(members.keys) != entry.keys_sha256:
                raise Open4MError(
                    f"{shard_path(self.root, modality, shard, 'tar')}: expected the {entry.rows} samples of "
                    f"{FILE}, got {len(members.keys)} or other keys: the shard is truncated or was changed; "
                    "restore it or write it again"
                )
            self._scanned[modality, shard] = members
        return self._scanned[modality, shard]

    def _scan(self, modality: str, shard: int) -> _Members:
        return scan(shard_path(self.root, modality, shard, "tar"), modalities.get(modality).extension)


def scan(path: Path, extension: str) -> _Members:
    """Find the members ``<key>.<extension>`` of a tar by reading its headers; others are passed over.

    Raises :class:`Open4MError` for a truncated file and for anything that a shard never has: links, absolute names,
    ``..``, repeated keys, members above 256 MiB.
    """
    places: dict[str, tuple[int, int]] = {}  # offset and size by key
    try:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()  # outlives the file, so that open shards hold no descriptors
        with tarfile.open(fileobj=pa.BufferReader(content), mode="r:") as archive:
            for member in archive:
                _check_member(path, member, content.size)
                key, _, rest = member.name.removeprefix("./").partition(".")
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse() and rest == extension:
                    check_key(key, places, path)
                    places[key] = (member.offset_data, member.size)
    except FileNotFoundError as error:
        raise Open4MError(f"{path}: listed in {FILE} but not there; restore it or write it again") from error
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise Open4MError(f"{path}: truncated or not a tar file ({error}); restore it or write it again") from error
    offsets, sizes = np.array(list(places.values()), dtype=np.int64).reshape(-1, 2).T
    return _Members(list(places), offsets, sizes, content)


def _check_member(path: Path, member: tarfile.TarInfo, file_size: int) -> None:
    if member.name.startswith("/") or ".." in member.name.split("/"):
        fault = "has a name that leaves the archive"
    elif member.issym() or member.islnk():
        fault = "is a link"
    elif not 0 <= member.size <= MEMBER_LIMIT:
        fault = f"has {member.size} bytes, at most {MEMBER_LIMIT} are read"
    elif member.isreg() and member.offset_data + member.size > file_size:
        raise Open4MError(
            f"{path}: truncated: member {member.name!r} ends at byte {member.offset_data + member.size}, the file has "
            f"{file_size}; restore it or write it again"
        )
    else:
        return
    raise Open4MError(f"{path}: member {member.name!r} {fault}; such an archive is refused as a whole")
