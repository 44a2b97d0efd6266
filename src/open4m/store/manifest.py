"""The manifest of a modality's folder, and the one way in which a shard enters it.

A folder ``<root>/<modality>`` holds shard files and ``manifest.json``: a header that describes all shards, and one
entry a shard. A shard exists for readers when its entry does. It is committed in this order: temporary file, fsync,
atomic rename, entry. A writer that dies at any instant leaves the folder as it was, plus at most one temporary
file, which the next writer removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from open4m.types import Open4MError

FILE = "manifest.json"
FORMAT = 1

_MODALITY = re.compile(r"\w+(@\w+)?")
_SHARD = re.compile(r"shard-(\d{5,})\.(tar|arrow)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """The manifest's line about one committed shard; digests are SHA-256 in hexadecimal."""

    file: str
    rows: int
    sha256: str  # of the file
    keys_sha256: str  # of the key column

    def __post_init__(self) -> None:
        digests = (self.sha256, self.keys_sha256)
        if not (
            isinstance(self.file, str)
            and _SHARD.fullmatch(self.file)
            and isinstance(self.rows, int)
            and self.rows >= 0
            and all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in digests)
        ):
            raise Open4MError(f"not a shard entry: {asdict(self)}")

    @property
    def index(self) -> int:
        """The number in the file's name."""
        return int(_SHARD.fullmatch(self.file)[1])


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``manifest.json`` says: ``header`` is true of every shard, ``shards`` has the entries by shard index."""

    header: Mapping[str, Any]
    shards: Mapping[int, ShardEntry]

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """The manifest of a folder, None where there is none. Raises :class:`Open4MError` for a damaged one."""
        path = folder / FILE
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise Open4MError(f"{path}: not readable JSON ({error}); write the modality again") from error
        try:
            version, lines = content.pop("format"), content.pop("shards")
            entries = [ShardEntry(**line) for line in lines]
        except (AttributeError, KeyError, TypeError, Open4MError) as error:
            raise Open4MError(f"{path}: not a shard manifest ({error}); write the modality again") from error
        if version != FORMAT:
            raise Open4MError(f"{path}: expected format {FORMAT}, got {version!r}; use the open4m that wrote it")
        shards = {entry.index: entry for entry in sorted(entries, key=lambda entry: entry.index)}
        if len(shards) != len(entries):
            raise Open4MError(f"{path}: lists a shard twice; write the modality again")
        return Manifest(header=content, shards=shards)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest atomically. The caller holds the folder's lock."""
        lines = [asdict(entry) for _, entry in sorted(self.shards.items())]
        temporary = folder / f".{FILE}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **self.header, "shards": lines}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / FILE)
        sync_folder(folder)


def folder_of(root: str | Path, modality: str) -> Path:
    """``<root>/<modality>``; a modality is a name like ``rgb`` or, with a resolution, ``rgb@256``."""
    if not _MODALITY.fullmatch(modality):
        raise Open4MError(f"modality {modality!r}: expected a name like 'rgb' or 'rgb@256'")
    return Path(root) / modality


def shard_path(root: str | Path, modality: str, index: int, extension: str) -> Path:
    """``<root>/<modality>/shard-00000.<extension>``."""
    if index < 0:
        raise Open4MError(f"{modality}: a shard's index counts from 0, got {index}")
    return folder_of(root, modality) / f"shard-{index:05d}.{extension}"


def open_manifest(root: str | Path, modality: str) -> Manifest:
    """The manifest of a modality that must be there."""
    manifest = Manifest.read(folder_of(root, modality))
    if manifest is None:
        present = sorted(path.parent.name for path in Path(root).glob(f"*/{FILE}"))
        raise Open4MError(
            f"{Path(root)}: no data of modality {modality} (expected {modality}/{FILE}; there is: "
            f"{', '.join(present) or 'nothing'})"
        )
    return manifest


def committed(root: str | Path, modality: str) -> frozenset[int]:
    """Indices of the shards that are in the manifest and whose file exists: the ones a rerun need not write."""
    folder = folder_of(root, modality)
    manifest = Manifest.read(folder)
    if manifest is None:
        return frozenset()
    return frozenset(index for index, entry in manifest.shards.items() if (folder / entry.file).is_file())


def verify(root: str | Path, modality: str) -> int:
    """Hash every shard of a modality and compare with its manifest; the number of shards, if all are intact.

    Raises :class:`Open4MError` that lists each shard that is missing or differs.
    """
    folder, manifest = folder_of(root, modality), open_manifest(root, modality)
    faults = []
    for entry in manifest.shards.values():
        try:
            with (folder / entry.file).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            faults.append(f"{entry.file}: {error.strerror}")
            continue
        if digest != entry.sha256:
            faults.append(f"{entry.file}: expected sha256 {entry.sha256[:12]}…, got {digest[:12]}…")
    if faults:
        raise Open4MError(
            f"{folder}: {len(faults)} of {len(manifest.shards)} shards differ from the manifest; delete and write "
            f"them again: {'; '.join(faults)}"
        )
    return len(manifest.shards)


def check_key(key: str, others: Container[str], where: object) -> None:
    """Refuse a key that is empty, unprintable, has ``/`` or ``.``, or is among the shard's ``others``."""
    if not isinstance(key, str) or not key or not key.isprintable() or "/" in key or "." in key:
        raise Open4MError(f"{where}: key {key!r}: expected printable text that is not empty, without '/' and '.'")
    if key in others:
        raise Open4MError(f"{where}: key {key!r} is there twice; keys are unique in a shard")


def keys_digest(keys: Iterable[str]) -> str:
    """SHA-256 of a key column. Keys hold no line breaks (:func:`check_key`), so that joining them is unambiguous."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def commit(path: Path, header: Mapping[str, Any], write: Callable[[BinaryIO], Sequence[str]]) -> ShardEntry:
    """Write one shard and enter it in its folder's manifest; several processes may do so at once.

    ``write`` fills a file and returns the key column. If it fails, nothing of it stays. Raises
    :class:`Open4MError` if the folder's manifest has another ``header``, or if the disk is full.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    check_header(folder, Manifest.read(folder), header)  # before the work, and again below, under the lock
    try:
        with _temporary(path) as (temporary, file):
            keys = write(file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            entry = ShardEntry(
                file=path.name,
                rows=len(keys),
                sha256=hashlib.file_digest(file, "sha256").hexdigest(),
                keys_sha256=keys_digest(keys),
            )
            with _locked(folder):
                manifest = Manifest.read(folder)
                check_header(folder, manifest, header)
                shards = dict(manifest.shards) if manifest else {}
                if shards.get(entry.index, entry) != entry:  # so that no entry ever describes another file's content
                    del shards[entry.index]
                    Manifest(header=header, shards=shards).write(folder)
                temporary.replace(path)
                sync_folder(folder)
                Manifest(header=header, shards={**shards, entry.index: entry}).write(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Open4MError(f"{path}: not written, {error.strerror}; free some space and run again") from error
        raise
    return entry


def align(
    root: str | Path, manifests: Mapping[str, Manifest], keys: Callable[[str, int], Sequence[str]]
) -> dict[int, range]:
    """The range of rows of every shard, if all modalities hold the same samples in the same order.

    ``keys(modality, shard)`` reads a key column; it is called only to name the first difference in an error.
    """
    (first, reference), *others = manifests.items()
    for name, manifest in others:
        if lone := sorted(reference.shards.keys() ^ manifest.shards.keys()):
            has, lacks = (first, name) if lone[0] in reference.shards else (name, first)
            raise Open4MError(
                f"{Path(root)}: modalities {first} and {name} are misaligned: shard {lone[0]} is in {has} but not in "
                f"{lacks} ({len(lone)} such shards); write the missing shards of {lacks}"
            )
        for index, entry in reference.shards.items():
            other = manifest.shards[index]
            if (entry.rows, entry.keys_sha256) != (other.rows, other.keys_sha256):
                row, a, b = _first_difference(keys(first, index), keys(name, index))
                raise Open4MError(
                    f"{Path(root)}: modalities {first} and {name} are misaligned in shard {index}: {entry.rows} and "
                    f"{other.rows} rows; row {row} is key {a!r} in {first} and {b!r} in {name}; "
                    "write this shard again with the same keys in the same order"
                )
    ranges, start = {}, 0
    for index, entry in reference.shards.items():
        ranges[index] = range(start, start + entry.rows)
        start += entry.rows
    return ranges


def _first_difference(left: Iterable[str], right: Iterable[str]) -> tuple[int, str | None, str | None]:
    """(row, left key, right key) where two key columns first differ; None is a missing key."""
    pairs = enumerate(zip_longest(left, right))
    return next(((row, a, b) for row, (a, b) in pairs if a != b), (0, None, None))


def check_header(folder: Path, manifest: Manifest | None, header: Mapping[str, Any]) -> None:
    """Raise :class:`Open4MError` if the folder's shards were made with another header, say by another tokenizer."""
    if manifest is None:
        return
    old, new = dict(manifest.header), json.loads(json.dumps(header))
    if fields := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        raise Open4MError(
            f"{folder}: existing shards differ from the new one in "
            + ", ".join(f"{name} (existing {old.get(name)!r}, new {new.get(name)!r})" for name in fields)
            + "; write to another folder, or delete this one to start over"
        )


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``path``, gone afterwards unless it was renamed.

    It stays locked while its writer lives; that is how :func:`_remove_stale` tells the living from the dead, on any
    host that shares the file system.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _locked(path.parent):
        _remove_stale(path.parent)
        file = temporary.open("x+b")
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        with file:
            yield temporary, file
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Delete temporary files of dead writers. The caller holds the folder's lock."""
    for temporary in folder.glob(".*.tmp"):
        with temporary.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            temporary.unlink()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, among threads, processes and hosts."""
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
