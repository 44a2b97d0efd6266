"""Standard output and error of the command line: what cannot be printed stops no work.

Whoever reads them may leave (``open4m info scenes | head -1``), a terminal may lack characters, and both may be closed.
A command goes on and writes its files all the same.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _Forgiving(io.RawIOBase):
    """What is written to a descriptor, as long as somebody reads it."""

    def __init__(self, descriptor: int):
        self._descriptor, self._is_read = descriptor, True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data) -> int:
        if self._is_read:
            try:
                return os.write(self._descriptor, data)
            except BrokenPipeError:
                self._is_read = False
            except OSError:  # such as a full disk: said once, not again when the process ends
                self._is_read = False
                raise
        return len(data)


def forgive() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` streams that forgive."""
    sys.stdout, sys.stderr = _forgiving(sys.stdout), _forgiving(sys.stderr)


def _forgiving(stream: TextIO | None) -> TextIO:
    """The stream, with question marks for characters that it does not have."""
    try:
        descriptor = stream.fileno() if stream is not None else -1
    except (OSError, ValueError):  # of a notebook, a test
        return stream
    if descriptor < 0:  # Python has no stream where the descriptor is closed
        return open(os.devnull, "w")
    stream.flush()
    raw = _Forgiving(descriptor)
    lines = stream.line_buffering or stream.write_through or raw.isatty()  # the second: PYTHONUNBUFFERED
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors="replace", line_buffering=lines)
