"""Members of tar files: found by their headers, and read in place. Nothing is ever extracted."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from open4m.store.manifest import FILE, check_key
from open4m.store.mapped import Mapped, mapped
from open4m.types import Open4MError

MEMBER_LIMIT = 256 << 20
"""The most bytes that a stored file has."""

MISSING = "missing"
"""The extension of the empty member that stands for a sample without the modality."""


@dataclass(frozen=True)
class Members:
    """Where the samples of one modality lie in one shard."""

    keys: list[str]
    places: list[slice | None]  # of the content, one per key; None: the sample lacks the modality
    file: Mapped

    def read(self, row: int) -> bytes | None:
        """The file of a row, None if its sample lacks the modality."""
        place = self.places[row]
        if place is None:
            return None
        self.file.check()
        return bytes(memoryview(self.file.content)[place])


def scan(path: Path, extension: str) -> Members:
    """Find the members ``<key>.<extension>`` and ``<key>.missing`` of a tar by reading its headers; others are passed
    over.

    Raises :class:`Open4MError` for a truncated file and for anything that a shard never has: links, absolute names,
    ``..``, repeated keys, members above 256 MiB, missing ones with content.
    """
    places: dict[str, slice | None] = {}  # by key
    try:
        file = mapped(path)
        with tarfile.open(fileobj=pa.BufferReader(file.content), mode="r:") as archive:
            for member in archive:
                check_member(path, member, file.content.size)
                key, _, rest = member.name.removeprefix("./").partition(".")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    continue
                if rest in (extension, MISSING):
                    check_key(key, places, path)
                    place = slice(member.offset_data, member.offset_data + member.size)
                    places[key] = place if rest == extension else None
    except FileNotFoundError as error:
        raise Open4MError(f"{path}: listed in {FILE} but not there; restore it or write it again") from error
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise Open4MError(f"{path}: truncated or not a tar file ({error}); restore it or write it again") from error
    return Members(list(places), list(places.values()), file)


def check_member(path: Path, member: tarfile.TarInfo, file_size: int) -> None:
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
    elif member.size and member.name.removeprefix("./").partition(".")[2] == MISSING:
        fault = f"has {member.size} bytes, though it stands for a sample without the modality"
    else:
        return
    raise Open4MError(f"{path}: member {member.name!r} {fault}; such an archive is refused as a whole")
