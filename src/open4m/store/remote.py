"""Stores on object storage, at any fsspec URL: shards are fetched, when first read, into a local folder of bounded
size.

Local files are named by the checksum that the manifest lists, so that any number of stores and processes share them.
The least recently used make room for new ones. A process that has a shard mapped keeps it readable even if its file is
removed; what a process has mapped is bounded as well.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open4m import files
from open4m.store.manifest import FILE, Manifest, ShardEntry, folder_of, temporary
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

FOLDER_VARIABLE, BYTES_VARIABLE = "OPEN4M_CACHE", "OPEN4M_CACHE_BYTES"
"""The environment variables that say where the local folder is, and how many bytes it may hold."""

DEFAULT_BYTES = 64 << 30
CHUNK = 1 << 20
"""Bytes that are fetched at a time."""


def is_url(root: Any) -> bool:
    """Whether a store is somewhere else than in a local folder: ``s3://bucket/tokens``, ``memory://tokens``."""
    return "://" in str(root)


def joined(root: str | Path, name: str) -> str | Path:
    """A folder below a local one, or below a URL."""
    return f"{str(root).rstrip('/')}/{name}" if is_url(root) else Path(root) / name


@dataclass(frozen=True)
class Cache:
    """A local folder of fetched shards, of at most ``limit`` bytes."""

    folder: Path
    limit: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise Open4MError(f"{self.folder}: a cache has at least 1 byte, got {self.limit} ({BYTES_VARIABLE})")

    @staticmethod
    def default() -> Cache:
        """The one that the environment names, or ``~/.cache/open4m/tokens`` of 64 GB."""
        words = os.environ.get(BYTES_VARIABLE, str(DEFAULT_BYTES))
        if not words.isdecimal():
            raise Open4MError(f"{BYTES_VARIABLE}: expected a number of bytes, got {words!r}")
        return Cache(files.cache("tokens", FOLDER_VARIABLE), int(words))

    def fetch(self, url: str, entry: ShardEntry) -> Path:
        """The local file of a shard. Raises :class:`Open4MError` if it cannot be fetched, is larger than the cache, or
        is not the file that the manifest lists."""
        path = self._place(entry)
        files.make_folder(self.folder)
        with self._lock(entry):  # so that one process fetches it for all
            try:
                os.utime(path)  # it is the most recently used one
            except FileNotFoundError:
                self._download(url, entry, path)
        return path

    def drop_damaged(self, entry: ShardEntry) -> bool:
        """Remove a shard's local file, to be fetched again, if it is no longer what was fetched: whether it was."""
        path = self._place(entry)
        with self._lock(entry):
            if not path.exists() or files.sha256(path) == entry.sha256:
                return False
            logger.warning("%s: was damaged on this machine; it is fetched again", path)
            path.unlink()
        return True

    def _place(self, entry: ShardEntry) -> Path:
        return self.folder / f"{entry.sha256}{Path(entry.file).suffix}"

    def _lock(self, entry: ShardEntry) -> AbstractContextManager[None]:
        return files.locked(self.folder / f".{entry.sha256[:16]}.fetch")

    def _download(self, url: str, entry: ShardEntry, path: Path) -> None:
        digest, size = hashlib.sha256(), 0
        with temporary(path) as unfinished:
            with _opened(url) as source, unfinished.open("xb") as file:
                while part := _read(source, url, CHUNK):
                    size += len(part)
                    if size > self.limit:
                        raise Open4MError(
                            f"{url}: larger than the {self.limit} bytes of the cache {self.folder}: set "
                            f"{BYTES_VARIABLE}"
                        )
                    digest.update(part)
                    file.write(part)
            if digest.hexdigest() != entry.sha256:
                raise Open4MError(
                    f"{url}: expected sha256 {entry.sha256[:12]}…, as {FILE} lists it, got {digest.hexdigest()[:12]}…: "
                    "the shard was changed or is still being written; upload it again, manifests last"
                )
            with files.locked(self.folder / ".evict"):
                self._make_room(size)
                files.rename(unfinished, path)

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until ``size`` bytes fit."""
        found = []
        for path in self.folder.glob("[0-9a-f]*"):
            try:
                found.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        total = sum(bytes_ for _, bytes_, _ in found)
        for _, bytes_, path in sorted(found):
            if total + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= bytes_


def has_modality(root: str | Path, modality: str) -> bool:
    """Whether the store at a folder or a URL has a modality."""
    if is_url(root):
        return Remote(str(root)).manifest(modality) is not None
    return (folder_of(root, modality) / FILE).is_file()


@dataclass
class Remote:
    """A store at a URL."""

    root: str
    cache: Cache = field(default_factory=Cache.default)

    def manifest(self, modality: str) -> Manifest | None:
        """The manifest of a modality, None where there is none."""
        url = f"{joined(self.root, modality)}/{FILE}"
        try:
            with _opened(url) as file:
                content = _read(file, url, files.LARGEST_INPUT + 1)
        except FileNotFoundError:
            return None
        if len(content) > files.LARGEST_INPUT:
            raise Open4MError(f"{url}: above {files.LARGEST_INPUT} bytes")
        return Manifest.parse(files.parse_json(content, url), url)

    def path(self, modality: str, entry: ShardEntry) -> Path:
        """The local file of a shard."""
        url = f"{joined(self.root, modality)}/{entry.file}"
        try:
            return self.cache.fetch(url, entry)
        except FileNotFoundError as error:
            raise Open4MError(f"{url}: listed in {FILE} but not there; upload it again") from error


def _opened(url: str) -> Any:
    """A file to read. Raises :class:`FileNotFoundError`, and :class:`Open4MError` for all else that goes wrong."""
    try:
        import fsspec

        return fsspec.open(url, "rb").open()
    except FileNotFoundError:
        raise
    except Exception as error:  # file systems raise anything; of ImportError the text says what to install
        raise Open4MError(f"{url}: cannot be opened ({type(error).__name__}: {error})") from error


def _read(file: Any, url: str, size: int) -> bytes:
    try:
        return file.read(size)
    except Exception as error:  # file systems raise anything
        raise Open4MError(f"{url}: cannot be read ({type(error).__name__}: {error}); run again") from error
