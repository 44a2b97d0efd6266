"""Files that are read in place, through the memory of the system: one that is cut meanwhile is an error, no crash."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from open4m import files
from open4m.types import Open4MError


@dataclass(frozen=True)
class Mapped:
    """A memory-mapped file, which is not kept open."""

    path: Path
    content: pa.Buffer
    inode: int

    def check(self) -> None:
        """Raise :class:`Open4MError` if the file has become shorter: the system kills a process that reads bytes which
        are no longer there. A file that was removed or replaced stays as it was for those who have mapped it."""
        try:
            state = os.stat(self.path)
        except OSError:
            return
        if state.st_ino == self.inode and state.st_size < self.content.size:
            raise Open4MError(
                f"{self.path}: truncated to {state.st_size} bytes while it was read, expected {self.content.size}; "
                "restore it or write it again"
            )


def mapped(path: Path) -> Mapped:
    """Map a whole file. Raises what opening it raises."""
    files.check_regular(path)
    with pa.memory_map(str(path)) as file:
        return Mapped(path, file.read_buffer(), os.stat(path).st_ino)  # what is mapped outlives the file
