"""Checksums: what is read is what was written.

A folder that open4m writes has a file, ``sha256.json``, with the SHA-256 of its files. Manifests of shards list those
of shards. Whoever reads such a file checks it first: once per process, as long as its size and its time stay the same.
Of shards, which are large and read by many processes, a check that succeeded is remembered on disk.

``OPEN4M_VERIFY=0``, or ``open4m --no-verify``, skips all of it. Checksums find damage. They do not find malice: who
changes a file on purpose can change its checksum as well.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from open4m import files
from open4m.types import Open4MError

FILE = "sha256.json"
"""The file with the SHA-256 of others of its folder, by name."""

VARIABLE = "OPEN4M_VERIFY"
"""The environment variable that is 0 where nothing is checked."""

SETTLED = 2.0
"""Seconds after its last change from which on a file's time tells one content from another: clocks of file systems are
coarse, so that of a younger file nothing is remembered."""

REMEMBERED = "OPEN4M_VERIFIED"
"""The environment variable for the folder that remembers which shards were checked."""


def are_checked() -> bool:
    """Whether checksums are read: unless :data:`VARIABLE` is 0."""
    return os.environ.get(VARIABLE) != "0"


def seal(folder: Path, names: Iterable[str]) -> None:
    """Record the SHA-256 of some files of a folder, beside those that are recorded already."""
    sums = _recorded(folder) or {}
    sums |= {name: files.sha256(folder / name) for name in sorted(names)}
    files.write_text(folder / FILE, json.dumps(dict(sorted(sums.items())), indent=1) + "\n")


def check(folder: Path, *names: str) -> None:
    """Raise :class:`Open4MError` if one of these files of a folder is not what was recorded of it, or if a recorded
    file is missing. Nothing is known of folders that were not sealed, such as those of other programs."""
    if not are_checked() or (sums := _recorded(folder)) is None:
        return
    if missing := [name for name in sums if not _is_file(folder / name)]:
        raise Open4MError(f"{folder}: {', '.join(missing)}: listed in {FILE}, but not there; {_restore()}")
    if wrong := [name for name in names if name in sums and _digest_of(folder / name) != sums[name]]:
        raise Open4MError(
            f"{folder}: {', '.join(wrong)}: the content is not what {FILE} recorded when it was written; {_restore()}, "
            f"or, if you changed it on purpose, accept it: open4m verify {folder} --accept"
        )


def recorded(folder: Path) -> dict[str, str]:
    """The SHA-256 by name of the files of a folder; empty if it was not sealed. Raises :class:`Open4MError` if the file
    that holds them is damaged."""
    return _recorded(folder) or {}


def changed(folder: Path) -> list[str]:
    """The recorded files of a folder that are missing, or not what was recorded."""
    return [name for name, digest in recorded(folder).items() if _digest(folder / name) != digest]


def check_shard(path: Path, digest: str) -> None:
    """Raise :class:`Open4MError` if a shard's content does not have the SHA-256 of its manifest.

    A file is read for this once, on this machine: as long as its path, size and time stay the same, it is known.
    """
    if not are_checked():
        return
    try:
        state = path.stat()
    except FileNotFoundError:  # whoever opens it says so
        return
    about = f"{path.resolve()} {state.st_size} {state.st_mtime_ns} {digest}"
    known = files.cache("verified", REMEMBERED) / hashlib.sha256(about.encode("utf-8", "surrogateescape")).hexdigest()
    if _is_file(known):
        return
    if (found := files.sha256(path)) != digest:
        raise Open4MError(
            f"{path}: expected sha256 {digest[:12]}…, as its manifest lists it, got {found[:12]}…: the shard was "
            "damaged or changed; restore it, or delete and write it again"
        )
    if not _is_settled(state):
        return
    with suppress(OSError):  # where nothing can be remembered, it is checked again
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _restore() -> str:
    return "the folder is damaged: copy or fetch it again"


def _recorded(folder: Path) -> dict[str, str] | None:
    path = folder / FILE
    if not path.exists():
        return None
    found: Any = files.read_json(path, files.LARGEST_CONFIG)
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise Open4MError(f"{path}: expected the SHA-256 of files by name; {_restore()}")
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _digest_of(path: Path) -> str:
    state = path.stat()
    read = _known_digest if _is_settled(state) else _known_digest.__wrapped__
    return read(path, state.st_ino, state.st_size, state.st_mtime_ns)


def _is_settled(state: os.stat_result) -> bool:
    return time.time() - state.st_mtime > SETTLED


@functools.lru_cache(maxsize=1024)
def _known_digest(path: Path, _inode: int, _size: int, _time: int) -> str:
    return files.sha256(path)


def _digest(path: Path) -> str | None:
    return files.sha256(path) if _is_file(path) else None
