"""Where data of others lies: a local folder, or any URL that fsspec opens. Only read, never written."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from open4m.store.members import MEMBER_LIMIT
from open4m.types import Open4MError, is_text, shown

SKIPPED = ("__MACOSX", "Thumbs.db", "desktop.ini")
"""What operating systems leave in folders, besides names that begin with a dot."""


class Unreachable(Open4MError):
    """A source elsewhere does not answer: nothing is known of the file, which a job must not take for a broken one."""


class Entry(NamedTuple):
    """A file or a folder: its path below the source, with ``/`` between names; ``size`` in bytes, None if unknown."""

    path: str
    is_folder: bool
    size: int | None


@dataclass(frozen=True)
class Source:
    """Files below a local folder or a URL; a single file is its own only entry.

    Paths are relative, with ``/`` between names. Raises :class:`Open4MError` for a source that does not exist.
    """

    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.url, str) or not is_text(self.url) or "\0" in self.url:
            raise Open4MError(f"source: expected a folder, a file or a URL, got {shown(self.url)}")
        if not (self._is_file or self._is_folder):
            raise Open4MError(f"{self.url}: no such file or folder")

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}  # connections are each process's own

    # ---- what is there
    def entries(self, folder: str = "") -> Iterator[Entry]:
        """What is directly in a folder, in any order, one by one; hidden files are passed over."""
        if self._is_file:
            yield Entry(self._name, False, self._size_of(self._root))
            return
        for entry in self._scan(folder) if self.local else self._list(folder):
            name = entry.path.rpartition("/")[2]
            if not name.startswith(".") and name not in SKIPPED:
                yield entry

    def walk(self, folder: str = "") -> Iterator[Entry]:
        """All files below a folder. Only folders that are still to be read are held in memory."""
        folders = [folder]
        while folders:
            for entry in self.entries(folders.pop()):
                if entry.is_folder:
                    folders.append(entry.path)
                else:
                    yield entry

    def some(self, count: int = 2000) -> list[Entry]:
        """The first files of :meth:`walk`, for a look at what they are."""
        return list(itertools.islice(self.walk(), count))

    def exists(self, path: str) -> bool:
        """Whether there is a file of this path."""
        try:
            place = self._place(path)
        except Open4MError:
            return False
        return os.path.isfile(place) if self.local else self._fs.isfile(place)

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of this path."""
        place = self._place(path)
        return os.path.isdir(place) if self.local else self._fs.isdir(place)

    # ---- what is in it
    def read(self, path: str, limit: int = MEMBER_LIMIT) -> bytes:
        """The bytes of a file. Raises :class:`Open4MError` if it is missing, unreadable or above ``limit`` bytes."""
        with self.open(path) as file:
            data = self.read_open(file, path, limit + 1)
        if len(data) > limit:
            raise Open4MError(f"{self.named(path)}: larger than {limit} bytes, the most that is read")
        return data

    def read_open(self, file: BinaryIO, path: str, size: int) -> bytes:
        """At most ``size`` bytes more of the file of a path, which :meth:`open` opened."""
        try:
            return file.read(size)
        except Exception as error:  # file systems of fsspec raise anything
            if self.local and not isinstance(error, OSError):
                raise
            raise self._unreadable(path, error) from error

    def open(self, path: str) -> BinaryIO:
        """A file, open for reading at any place. Raises :class:`Open4MError` if it is missing or no regular file."""
        place = self._place(path)
        try:
            if not self.local:
                return self._fs.open(place, "rb")
            if not stat.S_ISREG(os.stat(place).st_mode):  # opening a pipe may wait for ever
                raise Open4MError(f"{self.named(path)}: cannot be read, it is no regular file")
            return open(place, "rb")
        except FileNotFoundError:
            raise Open4MError(f"{self.named(path)}: no such file") from None
        except Open4MError:
            raise
        except Exception as error:  # file systems of fsspec raise anything
            if self.local and not isinstance(error, OSError | ValueError):
                raise
            raise self._unreadable(path, error) from error

    def local_path(self, path: str) -> Path | None:
        """The path of a file on this machine; None elsewhere."""
        return Path(self._place(path)) if self.local else None

    def named(self, path: str) -> str:
        """The whole path or URL of a file, for messages."""
        return self.url if self._is_file else f"{self.url.rstrip('/')}/{path}"

    # ---- how
    @property
    def local(self) -> bool:
        """Whether it is on this machine: files are then found and opened without fsspec."""
        return self._opened[0] is None

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The fsspec file system, None for this machine's own, and the root in it."""
        if "://" not in self.url and "::" not in self.url:
            return None, self.url
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        try:
            system, root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # a library for the protocol is not installed, or there is no such
            raise Open4MError(f"{self.url}: cannot be opened ({error})") from error
        return (None if isinstance(system, LocalFileSystem) else system), root

    @cached_property
    def _is_file(self) -> bool:
        return os.path.isfile(self._root) if self.local else self._asked(self._fs.isfile)

    @cached_property
    def _is_folder(self) -> bool:
        return os.path.isdir(self._root) if self.local else self._asked(self._fs.isdir)

    def _asked(self, question) -> bool:
        try:
            return question(self._root)
        except Exception as error:  # libraries of clouds raise anything: no login, no network
            raise Open4MError(f"{self.url}: cannot be opened ({type(error).__name__}: {error})") from error

    @property
    def _name(self) -> str:
        return self._root.rstrip("/").rpartition("/")[2]

    def _place(self, path: str) -> str:
        """Where a path is. Raises :class:`Open4MError` for one that leaves the source, as those of hostile lists do."""
        if self._is_file:
            return self._root
        parts = path.split("/") if path else []
        if path.startswith("/") or "\\" in path or "\0" in path or ".." in parts or (parts and ":" in parts[0]):
            raise Open4MError(f"{self.url}: the path {shown(path)} leaves this folder")
        return "/".join([self._root.rstrip("/") or "/", *parts]) if parts else self._root

    def _size_of(self, place: str) -> int | None:
        return os.path.getsize(place) if self.local else self._fs.size(place)

    def _scan(self, folder: str) -> Iterator[Entry]:
        prefix = f"{folder}/" if folder else ""
        try:
            with os.scandir(self._place(folder)) as found:
                for entry in found:
                    is_folder = entry.is_dir() and not (entry.is_symlink() and self._is_loop(entry.path))
                    if not (is_folder or entry.is_file()):
                        continue
                    try:
                        size = None if is_folder else entry.stat().st_size
                    except FileNotFoundError:  # a temporary file of a process that writes here, gone since the listing
                        continue
                    yield Entry(prefix + entry.name, is_folder, size)
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def _is_loop(self, link: str) -> bool:
        """Whether a link leads to a folder that it is in itself, or to one that the way to it went through: folders may
        lead to each other."""
        target, folder = os.path.realpath(link), os.path.dirname(link)
        while len(folder) >= len(self._root.rstrip("/")):
            if Path(os.path.realpath(folder)).is_relative_to(target):
                return True
            folder, below = os.path.dirname(folder), folder
            if folder == below:
                break
        return False

    def _list(self, folder: str) -> Iterator[Entry]:
        place = self._place(folder)
        try:
            found = self._fs.ls(place, detail=True)
        except Exception as error:  # file systems of fsspec raise anything
            raise self._unreadable(folder, error) from error
        for entry in found:
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if name and entry["name"].rstrip("/") != place.rstrip("/"):
                path = f"{folder}/{name}" if folder else name
                yield Entry(path, entry["type"] == "directory", entry.get("size"))

    def _unreadable(self, path: str, error: Exception) -> Open4MError:
        reason = getattr(error, "strerror", None) or (error if isinstance(error, OSError) else repr(error))
        if self.local or isinstance(error, PermissionError | FileNotFoundError):
            return Open4MError(f"{self.named(path)}: cannot be read ({reason})")
        return Unreachable(f"{self.named(path)}: cannot be read ({reason}); run the same command again to go on")
