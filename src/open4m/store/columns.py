"""How the tokens of each family lie in Arrow: their column's type, how it is written, and how rows of it are read.

=========  =========== ===================================================
family     column      Arrow type
=========  =========== ===================================================
grid       ``tokens``  fixed_size_list<uint16>[h·w], raster order
sequence   ``tokens``  list<uint16>
vectors    ``vectors`` list<fixed_size_list<float16>[channels]>
pixels     ``bytes``   large_binary, one JPEG file per row
=========  =========== ===================================================

A sample that lacks the modality is a null. A new family is one class and one row of :data:`COLUMNS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from open4m.modalities.codecs import narrowed
from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.store.tokens import TokenHeader

LARGEST = float(np.finfo(np.float16).max)
"""The largest entry of a vector: they are stored as float16."""

RowError = Callable[[int | None, str], Open4MError]
"""Makes the error about a row, given its place, or about all rows (None), from what is wrong."""


class Views(NamedTuple):
    """Zero-copy views of a column. ``offsets`` (rows + 1,) are the bounds of rows whose lengths differ."""

    values: Any
    offsets: np.ndarray | None = None


class Column(ABC):
    """The column of one family. Methods take the header of the modality, which has its sizes.

    What is read of a sample that lacks the modality is :meth:`blank`; the store says which samples do.
    """

    name: ClassVar[str] = "tokens"
    sizes: ClassVar[frozenset[str]] = frozenset()  # the fields of the header that the family needs

    @abstractmethod
    def type(self, header: TokenHeader) -> pa.DataType: ...

    @abstractmethod
    def blank(self, header: TokenHeader) -> Any:
        """The tokens that stand under a null."""

    @abstractmethod
    def blanks(self, rows: int, header: TokenHeader) -> tuple[Any, np.ndarray | None]:
        """What :meth:`read` gives of rows that are all missing."""

    def write(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        """The column of ``rows`` rows, null where ``tokens`` has None. Raises :class:`Open4MError` for tokens that do
        not fit the header."""
        missing = np.array([row is None for row in tokens], dtype=bool)
        if not missing.any():
            return self.encode(tokens, rows, header, error)
        blank = self.blank(header)
        array = self.encode([blank if row is None else row for row in tokens], rows, header, error)
        bitmap = pa.py_buffer(np.packbits(~missing, bitorder="little"))
        own = [bitmap, *array.buffers()[1 : array.type.num_buffers]]  # those after are of what the lists hold
        return pa.Array.from_buffers(
            array.type, len(array), own, children=[array.values] if array.type.num_fields else None
        )

    @abstractmethod
    def encode(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        """The column of rows none of which is missing."""

    @abstractmethod
    def view(self, array: pa.Array, header: TokenHeader) -> Views: ...

    def content(self, views: Views, row: int) -> bytes:
        """The bytes of a row, whatever they mean."""
        own = row if views.offsets is None else slice(views.offsets[row], views.offsets[row + 1])
        return views.values[own].tobytes()

    @abstractmethod
    def read(
        self, rows: Sequence[tuple[Views, int]], header: TokenHeader, error: RowError
    ) -> tuple[Any, np.ndarray | None]:
        """What the rows hold, each given as a shard's views and a place in them; lengths (B,) where they differ.

        Raises :class:`Open4MError` for what was not there when it was written.
        """


class GridColumn(Column):
    sizes = frozenset({"vocab_size", "grid"})

    def type(self, header: TokenHeader) -> pa.DataType:
        return pa.list_(pa.uint16(), header.grid[0] * header.grid[1])

    def blank(self, header: TokenHeader) -> np.ndarray:
        return np.zeros(header.grid[0] * header.grid[1], dtype=np.uint16)

    def blanks(self, rows: int, header: TokenHeader) -> tuple[np.ndarray, None]:
        return np.zeros((rows, header.grid[0] * header.grid[1]), dtype=np.int64), None

    def encode(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        length = header.grid[0] * header.grid[1]
        ids = np.asarray(tokens) if len(tokens) else np.empty((0, length), np.uint16)
        if ids.shape != (rows, length) or ids.dtype.kind not in "iu":
            raise error(
                None,
                f"expected integers of shape {(rows, length)} for a grid of {header.grid[0]}x{header.grid[1]} tokens, "
                f"got {ids.dtype} {ids.shape}",
            )
        wrong = (ids < 0) | (ids >= header.vocab_size)
        if wrong.any():
            row, cell = np.argwhere(wrong)[0]
            raise error(row, f"token id {ids[row, cell]} at cell {cell}, expected 0 to {header.vocab_size - 1}")
        return pa.FixedSizeListArray.from_arrays(pa.array(ids.astype(np.uint16).reshape(-1)), length)

    def view(self, array: pa.Array, header: TokenHeader) -> Views:
        return Views(_numbers(array.values).reshape(len(array), -1))

    def read(self, rows: Sequence[tuple[Views, int]], header: TokenHeader, error: RowError) -> tuple[np.ndarray, None]:
        """int64 (B, h·w)."""
        length = header.grid[0] * header.grid[1]
        parts = [views.values[row] for views, row in rows]
        ids = np.concatenate([np.empty(0, np.uint16), *parts])
        _check_ids(ids, np.full(len(parts), length), header, error)
        return ids.reshape(-1, length).astype(np.int64), None


class SequenceColumn(Column):
    sizes = frozenset({"vocab_size", "max_length"})

    def type(self, header: TokenHeader) -> pa.DataType:
        return pa.list_(pa.uint16())

    def blank(self, header: TokenHeader) -> tuple[int, ...]:
        return ()

    def blanks(self, rows: int, header: TokenHeader) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((rows, header.max_length), dtype=np.int64), np.zeros(rows, dtype=np.int64)

    def encode(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        vectors = [np.asarray(vector) if len(vector) else np.empty(0, np.int64) for vector in tokens]
        for row, vector in enumerate(vectors):
            if vector.ndim != 1 or vector.dtype.kind not in "iu":
                raise error(row, f"expected a vector of integers, got {vector.dtype} {vector.shape}")
            if len(vector) > header.max_length:
                raise error(row, f"{len(vector)} tokens, expected at most {header.max_length}")
        lengths = np.array(list(map(len, vectors)), dtype=np.int64)
        ids = np.concatenate([np.empty(0, np.int64), *(vector.astype(np.int64) for vector in vectors)])
        _check_ids(ids, lengths, header, error)
        return pa.ListArray.from_arrays(_offsets(lengths), pa.array(ids.astype(np.uint16)))

    def view(self, array: pa.Array, header: TokenHeader) -> Views:
        return Views(_numbers(array.values), _numbers(array.offsets))

    def read(
        self, rows: Sequence[tuple[Views, int]], header: TokenHeader, error: RowError
    ) -> tuple[np.ndarray, np.ndarray]:
        """int64 (B, max_length), zero after the end."""
        parts = _ragged(rows)
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        ids = np.concatenate([np.empty(0, np.uint16), *parts])
        _check_ids(ids, lengths, header, error)
        padded = np.zeros((len(parts), header.max_length), dtype=np.int64)  # (B, L)
        padded[np.arange(header.max_length) < lengths[:, None]] = ids
        return padded, lengths


class VectorsColumn(Column):
    name = "vectors"
    sizes = frozenset({"channels", "max_length"})

    def type(self, header: TokenHeader) -> pa.DataType:
        return pa.list_(pa.list_(pa.float16(), header.channels))

    def blank(self, header: TokenHeader) -> np.ndarray:
        return np.zeros((0, header.channels), dtype=np.float16)

    def blanks(self, rows: int, header: TokenHeader) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((rows, header.max_length, header.channels), np.float32), np.zeros(rows, dtype=np.int64)

    def encode(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        parts = []
        for row, vectors in enumerate(tokens):
            part = np.asarray(vectors) if len(vectors) else np.empty((0, header.channels), np.float16)
            if part.ndim != 2 or part.shape[1] != header.channels or part.dtype.kind != "f":
                raise error(row, f"expected floats of shape (n, {header.channels}), got {part.dtype} {part.shape}")
            if len(part) > header.max_length:
                raise error(row, f"{len(part)} vectors, expected at most {header.max_length}")
            if not (np.abs(part) <= LARGEST).all():  # which nan is not either
                raise error(row, f"a vector is not finite or has a value beyond ±{LARGEST} (float16)")
            if (half := narrowed(part, np.abs(part).max(-1, keepdims=True))).dtype != np.float16:
                raise error(row, "a vector is too small for float16, in which it would lose its digits: scale it up")
            parts.append(half)
        values = np.concatenate([np.empty((0, header.channels), np.float16), *parts])
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), header.channels)
        return pa.ListArray.from_arrays(_offsets(list(map(len, parts))), vectors)

    def view(self, array: pa.Array, header: TokenHeader) -> Views:
        return Views(_numbers(array.values.values).reshape(-1, header.channels), _numbers(array.offsets))

    def read(
        self, rows: Sequence[tuple[Views, int]], header: TokenHeader, error: RowError
    ) -> tuple[np.ndarray, np.ndarray]:
        """float32 (B, max_length, channels), zero after the end."""
        parts = _ragged(rows)
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        padded = np.zeros((len(parts), header.max_length, header.channels), dtype=np.float32)  # (B, L, C)
        for place, part in enumerate(parts):
            padded[place, : len(part)] = part
            if not np.isfinite(padded[place]).all():
                raise error(place, "a vector that is not finite")
        return padded, lengths


class PixelsColumn(Column):
    name = "bytes"

    def type(self, header: TokenHeader) -> pa.DataType:
        return pa.large_binary()

    def blank(self, header: TokenHeader) -> bytes:
        return b"\0"  # the least that is no empty file

    def blanks(self, rows: int, header: TokenHeader) -> tuple[list[None], None]:
        return [None] * rows, None

    def encode(self, tokens: Sequence[Any], rows: int, header: TokenHeader, error: RowError) -> pa.Array:
        for row, content in enumerate(tokens):
            if not isinstance(content, bytes) or not content:
                raise error(row, f"expected the bytes of a JPEG file, got {type(content).__name__} {content!r:.40}")
        return pa.array(tokens, pa.large_binary())

    def view(self, array: pa.Array, header: TokenHeader) -> Views:
        return Views(array)

    def content(self, views: Views, row: int) -> bytes:
        return views.values[row].as_py()

    def read(
        self, rows: Sequence[tuple[Views, int]], header: TokenHeader, error: RowError
    ) -> tuple[list[bytes | None], None]:
        """Files, None for a null."""
        return [views.values[row].as_py() for views, row in rows], None


COLUMNS: dict[str, Column] = {
    "pixels": PixelsColumn(),
    "grid": GridColumn(),
    "sequence": SequenceColumn(),
    "vectors": VectorsColumn(),
}
"""By family."""


def _check_ids(ids: np.ndarray, lengths: np.ndarray, header: TokenHeader, error: RowError) -> None:
    """Raise for an id outside the vocabulary. ``ids``: those of all rows, one after another; ``lengths`` (B,)."""
    wrong = (ids < 0) | (ids >= header.vocab_size) if ids.dtype.kind == "i" else ids >= header.vocab_size
    if wrong.any():
        place = int(wrong.argmax())
        row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        raise error(row, f"token id {ids[place]}, expected 0 to {header.vocab_size - 1}")


def _offsets(lengths: Sequence[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())


def _ragged(rows: Sequence[tuple[Views, int]]) -> list[np.ndarray]:
    """The rows of columns whose rows differ in length."""
    return [views.values[views.offsets[row] : views.offsets[row + 1]] for views, row in rows]


def _numbers(array: pa.Array) -> np.ndarray:
    """A view of an Arrow array of numbers."""
    return array.to_numpy(zero_copy_only=True)
