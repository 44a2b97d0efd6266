"""The manifest of a modality's folder, and the one way in which a shard enters it.

A folder ``<root>/<modality>`` holds shard files and ``manifest.json``: a header that describes all shards, and one
entry per shard. A shard exists for readers when its entry does. It is committed in this order: temporary file, fsync,
atomic rename, entry. A writer that dies at any instant leaves the folder as it was, plus at most one temporary file
and its lock file, which the next writer removes.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from open4m import files, modalities
from open4m.types import Open4MError

FILE = "manifest.json"

FORMAT = 2
"""The newest version of the manifest's format. In version 1 no sample of a modality's shards was missing."""

_SHARD = re.compile(r"shard-(\d{5,})\.(tar|arrow)")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """The manifest's line about one committed shard; digests are SHA-256 in hexadecimal."""

    file: str
    rows: int
    sha256: str  # of the file
    keys_sha256: str  # of the key column
    missing: int = 0  # of the rows: samples that lack the modality

    def __post_init__(self) -> None:
        digests = (self.sha256, self.keys_sha256)
        if not (
            isinstance(self.file, str)
            and _SHARD.fullmatch(self.file)
            and type(self.rows) is type(self.missing) is int  # True is an int too
            and 0 <= self.missing <= self.rows
            and all(isinstance(d, str) and _DIGEST.fullmatch(d) for d in digests)
        ):
            raise Open4MError(f"not a shard entry: {asdict(self)}")

    @property
    def index(self) -> int:
        """The number in the file's name."""
        return int(_SHARD.fullmatch(self.file)[1])


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of ``manifest.json``: ``header`` holds for every shard, ``shards`` has the entries by shard index."""

    header: Mapping[str, Any]
    shards: Mapping[int, ShardEntry]

    @staticmethod
    def read(folder: Path) -> Manifest | None:
        """The manifest of a folder, None where there is none. Raises :class:`Open4MError` for a damaged one."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            content = files.read_json(path)
        except Open4MError as error:
            raise Open4MError(f"{error}; write the modality again") from error
        return Manifest.parse(content, str(path))

    @staticmethod
    def parse(content: Any, path: str) -> Manifest:
        """The manifest in the JSON of a file, which ``path`` names. Raises :class:`Open4MError` for a damaged one."""
        version = content.pop("format", None) if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT:
            raise Open4MError(f"{path}: has format {version}, this open4m reads up to {FORMAT}: update open4m")
        if type(version) is not int or version < 1:
            raise Open4MError(f"{path}: expected a format up to {FORMAT}, got {version!r}; write the modality again")
        try:
            entries = [ShardEntry(**line) for line in content.pop("shards")]
        except (KeyError, TypeError, Open4MError) as error:
            raise Open4MError(f"{path}: not a shard manifest ({error}); write the modality again") from error
        shards = {entry.index: entry for entry in sorted(entries, key=lambda entry: entry.index)}
        if len(shards) != len(entries):
            raise Open4MError(f"{path}: lists a shard twice; write the modality again")
        return Manifest(header=content, shards=shards)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest atomically. The caller holds the folder's lock."""
        lines = [asdict(entry) for _, entry in sorted(self.shards.items())]
        files.write_text(folder / FILE, json.dumps({"format": FORMAT, **self.header, "shards": lines}, indent=1))

    @property
    def missing(self) -> int:
        """How many samples lack the modality."""
        return sum(entry.missing for entry in self.shards.values())


class KeyColumn(NamedTuple):
    """The key column of a shard that was written, and how many of its samples lack the modality."""

    keys: Sequence[str]
    missing: int = 0


def folder_of(root: str | Path, modality: str) -> Path:
    """``<root>/<modality>``; a modality is a name like ``rgb`` or, with a resolution, ``rgb@256``."""
    modalities.check_key(modality)
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
        splits = sorted(str(path.parent.parent) for path in Path(root).glob(f"*/{modality}/{FILE}"))
        hint = f"; name one data set: {' or '.join(splits)}" if splits else ""
        if (above := Path(root).parent / modality / FILE).is_file() and not Path(root).exists():
            hint = f"; {above.parent.parent} is one data set: name the folder that it is in"
        raise Open4MError(
            f"{Path(root)}: no data of modality {modality} (expected {modality}/{FILE}; there is: "
            f"{', '.join(present) or 'nothing'}){hint}"
        )
    return manifest


def committed(root: str | Path, modality: str) -> frozenset[int]:
    """Indices of the shards that are in the manifest and whose file exists: the ones a rerun need not write."""
    folder = folder_of(root, modality)
    manifest = Manifest.read(folder)
    if manifest is None:
        return frozenset()
    return frozenset(index for index, entry in manifest.shards.items() if (folder / entry.file).is_file())


def is_committed(root: str | Path, modality: str, index: int) -> bool:
    """Whether a shard is in the manifest and its file exists. The manifest is parsed again only after it changed."""
    return entry_of(root, modality, index) is not None


def entry_of(root: str | Path, modality: str, index: int) -> ShardEntry | None:
    """The entry of a shard that is committed; None for others. The manifest is parsed again only after it changed."""
    folder = folder_of(root, modality)
    try:
        state = (folder / FILE).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Open4MError(f"{folder}: cannot be read ({error.strerror})") from error
    entry = _listed(folder, (state.st_ino, state.st_mtime_ns, state.st_size)).get(index)
    return entry if entry is not None and (folder / entry.file).is_file() else None


@lru_cache(maxsize=64)
def _listed(folder: Path, state: tuple[int, int, int]) -> Mapping[int, ShardEntry]:
    """The shards in the manifest that has this inode, time and size: every commit makes a new file."""
    manifest = Manifest.read(folder)
    return manifest.shards if manifest else {}


def verify(root: str | Path, modality: str) -> int:
    """Hash every shard of a modality and compare with its manifest; the number of shards, if all are intact.

    Raises :class:`Open4MError` that lists each shard that is missing or differs.
    """
    folder, manifest = folder_of(root, modality), open_manifest(root, modality)
    faults = []
    for entry in manifest.shards.values():
        try:
            digest = files.sha256(folder / entry.file)
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


def commit(path: Path, header: Mapping[str, Any], write: Callable[[BinaryIO], KeyColumn]) -> ShardEntry:
    """Write one shard and enter it in its folder's manifest; several processes may do so at once.

    ``write`` fills a file and returns its key column. If it fails, the folder stays as it was. Raises
    :class:`Open4MError` if the folder's manifest has another ``header``, or the shard cannot be written.
    """
    folder = path.parent
    files.make_folder(folder)
    check_header(folder, Manifest.read(folder), header)  # before the work, and again below, under the lock
    with temporary(path) as unfinished:
        with unfinished.open("xb") as file:
            keys, missing = write(file)
        files.sync_file(unfinished)
        entry = ShardEntry(
            file=path.name,
            rows=len(keys),
            sha256=files.sha256(unfinished),
            keys_sha256=keys_digest(keys),
            missing=missing,
        )
        _enter(folder, header, entry, lambda: files.rename(unfinished, path))
    return entry


def link(path: Path, target: Path, header: Mapping[str, Any], entry: ShardEntry) -> ShardEntry:
    """Enter a file of others as a shard of its folder, by a symbolic link to it.

    Raises :class:`Open4MError` if the folder's manifest has another ``header``.
    """
    files.make_folder(path.parent)
    with temporary(path) as unfinished:
        unfinished.symlink_to(target)
        _enter(path.parent, header, entry, lambda: files.rename(unfinished, path))
    return entry


def _enter(folder: Path, header: Mapping[str, Any], entry: ShardEntry, place: Callable[[], None]) -> None:
    """Put a shard's file in its place and its entry into the manifest, as one writer at a time does."""
    with _locked(folder):
        manifest = Manifest.read(folder)
        check_header(folder, manifest, header)
        shards = dict(manifest.shards) if manifest else {}
        if shards.get(entry.index, entry) != entry:  # so that no entry ever describes another file's content
            del shards[entry.index]
            Manifest(header=header, shards=shards).write(folder)
        place()
        Manifest(header=header, shards={**shards, entry.index: entry}).write(folder)


def align(
    root: str | Path, manifests: Mapping[str, Manifest], keys: Callable[[str, int], Sequence[str]]
) -> dict[int, range]:
    """The range of rows of every shard, if all modalities hold the same samples in the same order.

    Manifests are compared by the digests of their key columns. ``keys(modality, shard)`` reads a key column; it is
    called only to name the first difference. Raises :class:`Open4MError` with that difference.
    """
    (first, reference), *others = manifests.items()
    for name, manifest in others:
        if lone := sorted(reference.shards.keys() ^ manifest.shards.keys()):
            has, lacks = (first, name) if lone[0] in reference.shards else (name, first)
            raise Open4MError(
                f"{root}: modalities {first} and {name} are misaligned: shard {lone[0]} is in {has} but not in "
                f"{lacks} ({len(lone)} such shards); write the missing shards of {lacks}"
            )
        for index, entry in reference.shards.items():
            other = manifest.shards[index]
            if (entry.rows, entry.keys_sha256) != (other.rows, other.keys_sha256):
                row, a, b = _first_difference(keys(first, index), keys(name, index))
                raise Open4MError(
                    f"{root}: modalities {first} and {name} are misaligned in shard {index}: {entry.rows} and "
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
def temporary(path: Path) -> Iterator[Path]:
    """The path of a new file beside ``path``; the file is removed afterwards unless it was renamed.

    Its writer holds a lock file of the same name, which the operating system releases when the writer dies. That is how
    :func:`_remove_stale` tells the files of living writers from those of dead ones, among hosts as well if their file
    system shares locks. Raises :class:`Open4MError` for what the system refuses meanwhile (:func:`files.writing`).
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    lock = FileLock(_lock_of(unfinished))
    with files.writing(path, unfinished), _locked(path.parent):
        _remove_stale(path.parent)
        lock.acquire()
    with files.writing(path, unfinished):
        try:
            yield unfinished
        finally:
            unfinished.unlink(missing_ok=True)
            lock.release()
            _lock_of(unfinished).unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Delete the temporary files of dead writers, if the folder is there. Writing a shard does so too."""
    if folder.is_dir():
        with files.writing(folder), _locked(folder):
            _remove_stale(folder)


def discard(folder: Path) -> None:
    """Delete the shards of a folder and their manifest, the manifest first: it names no shard that is gone."""
    with files.writing(folder), _locked(folder):
        (folder / FILE).unlink(missing_ok=True)
        for path in folder.glob("shard-*"):
            if _SHARD.fullmatch(path.name):
                path.unlink()


def _lock_of(temporary: Path) -> Path:
    return temporary.with_suffix(".lock")


def _remove_stale(folder: Path) -> None:
    """Delete temporary files of dead writers, and their locks. The caller holds the folder's lock."""
    found = {temporary.stem for pattern in (".*.tmp", ".shard-*.lock") for temporary in folder.glob(pattern)}
    for stem in found:
        temporary = folder / f"{stem}.tmp"
        try:
            with FileLock(_lock_of(temporary), timeout=0):
                temporary.unlink(missing_ok=True)
        except Timeout:
            continue  # its writer lives
        _lock_of(temporary).unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, among threads, processes and hosts."""
    with files.locked(folder / ".lock"):
        yield
