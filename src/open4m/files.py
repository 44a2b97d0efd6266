"""Files on disk: written whole or not at all, read within bounds, locked among processes.

Everything that this package writes into a directory that it will read again goes through here: a temporary file or
folder, fsync, an atomic rename, fsync of the parent. A process that dies at any instant leaves what was there before.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from open4m.types import Open4MError, is_text, shown

LARGEST_INPUT = 1 << 28
"""Bytes: files of users that are larger are refused before they are read."""

LARGEST_CONFIG = 1 << 24
"""Bytes of the largest configuration that is read: of JSON, a hundred times as much memory may be needed."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk without space, of a quota that is used up, and of a file as large as it may be."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""The errors of file systems that have no locks."""

LOCK_SECONDS = 1.0
"""How long a lock is waited for that another process may hold for an instant."""

LONGEST_BEGINNING = 200
"""Bytes of a file's name that its temporary name begins with: file systems allow 255, and an ending comes."""

JSON_DEPTH = 64
"""How deep lists and objects of a JSON document may lie in each other. What open4m writes has less than 10 levels."""

JSON_DIGITS = 300
"""The most digits of a whole number in JSON: a float64 holds any such number."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically: readers see the old content or the new one, never a part."""
    write_file(path, lambda temporary: temporary.write_bytes(data))


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file atomically: ``write`` makes a temporary one, which is then renamed.

    Several processes may write the same file at once; the last one's content stays. Raises what ``write`` raises, after
    removing the temporary file, and :class:`Open4MError` if the file cannot be written (:func:`writing`).
    """
    begins = path.name.encode(errors="ignore")[:LONGEST_BEGINNING].decode(errors="ignore")
    temporary = path.with_name(f".{begins}.{secrets.token_hex(4)}.tmp")
    with writing(path, temporary):
        try:
            write(temporary)
            sync_file(temporary)
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Create a folder atomically: ``write`` fills a temporary one, which is then renamed.

    The folders above it are made, too; an empty folder of that name is replaced. Raises what ``write`` raises, after
    removing the temporary folder, so that a full disk gets its space back; :class:`Open4MError` if the folder cannot
    be written (:func:`writing`), something else is there already, or another process is writing it.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    make_folder(folder.parent)
    with _only_writer(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a writer that died
        try:
            with writing(folder, temporary):
                write(temporary)
                readable = stat.S_IMODE(temporary.stat().st_mode) & 0o666  # by whom folders are that users make
                for path in [temporary, *temporary.rglob("*")]:
                    if path.is_file():
                        path.chmod(path.stat().st_mode | readable)  # some libraries write files for their owner alone
                        sync_file(path)
                    elif path.is_dir():
                        sync_folder(path)
                rename(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def unlock(folder: Path) -> None:
    """Remove the lock that a process left which was killed while it wrote this folder; nothing if one writes now."""
    if _lock_of(folder).exists():
        with suppress(Open4MError), _only_writer(folder):
            pass


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Raise :class:`Open4MError` if someone else is writing this folder now: both would fill the same temporary one."""
    path = _lock_of(folder)
    with held(path, f"{folder}: another process is writing it; wait, or name another folder", folder):
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows keeps open files, and removes this one when it is released
                path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Raise :class:`Open4MError` for whatever the system refuses while a file or folder is written: a full disk, a
    folder that only others may write to, a file in the place of a folder. It names the path and says what to do. Errors
    of other files, which are read meanwhile, stay as they are.

    ``temporary``: the name under which ``path`` is written, which errors do not show.
    """
    try:
        yield
    except OSError as error:
        found = str(error.filename or path)
        if temporary is not None and found.startswith(str(temporary)):
            found = str(path) + found[len(str(temporary)) :]
        is_ours = Path(found) in (path, *path.parents) or path in Path(found).parents
        if error.errno is None or not is_ours:  # without a number, a message of ours
            raise
        advice = "free some space and run again" if error.errno in DISK_FULL else "name another place that you may use"
        raise Open4MError(f"{found}: cannot be written ({error.strerror}); {advice}") from error
    except Open4MError as error:
        if temporary is None or str(temporary) not in str(error):
            raise
        raise Open4MError(str(error).replace(str(temporary), str(path))) from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there. Raises :class:`Open4MError` if that cannot be."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def is_filled(folder: Path) -> bool:
    """Whether a folder is there and holds something: what was written whole."""
    return folder.is_dir() and any(folder.iterdir())


def check_new(folder: Path) -> None:
    """Raise :class:`Open4MError` if a folder that is to be written is a file, or is there and not empty."""
    try:
        taken = folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder])
    except OSError as error:
        raise Open4MError(f"{shown(str(folder))}: cannot be written ({error.strerror})") from error
    if taken:
        raise Open4MError(f"{folder}: exists and is not empty; name another directory")


def sync_file(path: Path) -> None:
    """Put the content of a finished file on disk."""
    with path.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def rename(temporary: Path, path: Path) -> None:
    """Give a synced file or folder its final name, in place of a file or an empty folder that has it already."""
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power failure. Windows has no such call, and renames there need none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, limit: int = LARGEST_INPUT) -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Raises :class:`Open4MError` if it cannot be read, is larger, or is not a regular file: opening a pipe may wait for
    ever.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise Open4MError(f"{path}: no such file") from None
    except OSError as error:
        raise Open4MError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise Open4MError(f"{shown(str(path))}: cannot be read ({error})") from error
    if len(data) > limit:
        raise Open4MError(f"{path}: larger than {limit} bytes, the most that is read")
    return data


def cache(name: str, variable: str) -> Path:
    """The folder that an environment variable names, or that of ``~/.cache/open4m``; of a user who has no home, one
    among temporary files."""
    if named := os.environ.get(variable):
        return Path(named)
    try:
        return Path.home() / ".cache" / "open4m" / name
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "open4m" / name


def check_regular(path: Path) -> None:
    """Raise :class:`Open4MError` for what is there and no regular file: opening a pipe may wait for ever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says so
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise Open4MError(f"{path}: cannot be read, it is {kind}")


def path_of(value: Any, name: str) -> Path:
    """The path that a user names. Raises :class:`Open4MError` for what is no path, and for names no file can have."""
    if not isinstance(value, str | os.PathLike) or not is_text(found := str(value)) or "\0" in found:
        raise Open4MError(f"{name}: expected the path of a file or folder, got {shown(value)}")
    return Path(found)


def read_json(path: Path, limit: int = LARGEST_INPUT) -> Any:
    """The value of a JSON file of at most ``limit`` bytes: :func:`read_bytes` and :func:`parse_json`."""
    return parse_json(read_bytes(path, limit), str(path))


def parse_json(text: bytes | str, where: str) -> Any:
    """The value of JSON in UTF-8 from anywhere; ``where`` names it in errors.

    Raises :class:`Open4MError` for what is no JSON, and for JSON that code after this could stumble over: lists in
    lists without end, numbers that float64 cannot hold, halves of characters ("\\ud800"), which no file can hold.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_int=_whole_number, parse_float=_float)
        if text.count("[") + text.count("{") > JSON_DEPTH or "\\u" in text:
            _check_json(value)
    except RecursionError:
        raise Open4MError(f"{where}: not readable as JSON (nested more than {JSON_DEPTH} levels deep)") from None
    except ValueError as error:
        raise Open4MError(f"{where}: not readable as JSON ({error})") from error
    return value


def _whole_number(digits: str) -> int:
    if len(digits) > JSON_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError("a number that 64 bits cannot hold")
    return number


def _check_json(value: Any) -> None:
    """Raise :class:`ValueError` for a document that is nested too deeply, or whose strings are no Unicode text."""
    level = [value]
    for depth in range(JSON_DEPTH + 1):
        for string in (item for item in level if isinstance(item, str)):
            try:
                string.encode()
            except UnicodeEncodeError:
                raise ValueError(f"half of a character in the string {string[:20]!r}") from None
        held = [item for item in level if isinstance(item, dict | list)]
        if held and depth == JSON_DEPTH:
            raise ValueError(f"nested more than {JSON_DEPTH} levels deep")
        level = [inner for item in held for inner in (item if isinstance(item, list) else [*item, *item.values()])]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove what :func:`write_file` left in a folder when its process was killed. Only while nobody writes there."""
    for path in folder.glob(".*.tmp"):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) and path.is_file():
            path.unlink(missing_ok=True)


@contextmanager
def held(path: Path, busy: str, folder: Path | None = None) -> Iterator[None]:
    """Hold an exclusive lock on the lock file ``path``; raises :class:`Open4MError` with the words ``busy`` if another
    process has it for longer than :data:`LOCK_SECONDS`: whether a lock is free is seen by taking it for an instant.

    The operating system releases it when the process ends. Some file systems have no locks; there nothing is held.
    ``folder``: what errors name if the lock file cannot be written, by default its own folder.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    make_folder(path.parent)
    with writing(folder or path.parent, path):
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise Open4MError(busy) from None
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the lock file ``path`` among threads, processes and, where the file system allows,
    hosts. The operating system releases the lock when its process ends."""
    from filelock import FileLock

    with writing(path.parent, path):
        held = FileLock(path).acquire()
    with held:
        yield
