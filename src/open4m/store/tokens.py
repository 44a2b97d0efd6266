"""The token store: every sample's tokens, memory-mapped, and the order in which training visits them.

``<root>/<modality>/shard-00000.arrow`` is an uncompressed Arrow IPC file of one record batch, rows in the raw shard's
order, with the columns ``key`` and

=========  =========== ===================================================
kind       column      Arrow type
=========  =========== ===================================================
grid       ``tokens``  fixed_size_list<uint16>[h·w], raster order
sequence   ``tokens``  list<uint16>
vectors    ``vectors`` list<fixed_size_list<float16>[channels]>
pixels     ``bytes``   large_binary, one JPEG file a row
=========  =========== ===================================================

:mod:`open4m.store.manifest` describes ``manifest.json`` and how a shard is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from open4m.store.manifest import (
    FILE,
    Manifest,
    ShardEntry,
    align,
    check_key,
    commit,
    folder_of,
    keys_digest,
    open_manifest,
    shard_path,
)
from open4m.types import Open4MError

MAX_VOCAB = 1 << 16  # ids are stored as uint16

LARGEST = float(np.finfo(np.float16).max)  # vectors are stored as float16


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """What is true of all tokens of a modality.

    ``tokenizer`` is the fingerprint of what made them: tokens of two tokenizers never mix. Grids have ``grid``,
    sequences ``max_length``, both ``vocab_size`` (1 to 65536); vectors have ``channels`` and ``max_length``; pixels
    have none of them. ``placeless``: of a grid whose tokens are the parts of one vector, like a global feature.
    """

    kind: str  # "grid", "sequence", "vectors" or "pixels"
    tokenizer: str = ""
    vocab_size: int | None = None
    grid: tuple[int, int] | None = None  # (h, w) in tokens
    max_length: int | None = None  # tokens or vectors
    channels: int | None = None  # of a vector
    placeless: bool = False

    def __post_init__(self) -> None:
        needed = {
            "grid": {"vocab_size", "grid"},
            "sequence": {"vocab_size", "max_length"},
            "vectors": {"channels", "max_length"},
            "pixels": set(),
        }
        if self.kind not in needed:
            raise Open4MError(f"token header: kind {self.kind!r}, expected one of {', '.join(needed)}")
        if self.placeless and self.kind != "grid":
            raise Open4MError(f"token header: only the tokens of a grid are placeless, got kind {self.kind}")
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
        sizes = ("vocab_size", "grid", "max_length", "channels")
        given = {name for name in sizes if getattr(self, name) is not None}
        if given != needed[self.kind]:
            raise Open4MError(
                f"token header: kind {self.kind} takes {', '.join(sorted(needed[self.kind])) or 'no sizes'}, "
                f"got {', '.join(sorted(given)) or 'none'}"
            )
        if self.vocab_size is not None and not 1 <= self.vocab_size <= MAX_VOCAB:
            raise Open4MError(f"token header: vocab_size {self.vocab_size}, expected 1 to {MAX_VOCAB} (uint16 ids)")
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            raise Open4MError(f"token header: grid {self.grid}, expected (h, w) of at least 1 token each")
        for name in ("max_length", "channels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise Open4MError(f"token header: {name} {value}, expected at least 1")

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        if self.kind == "pixels":
            column = ("bytes", pa.large_binary())
        elif self.kind == "grid":
            column = ("tokens", pa.list_(pa.uint16(), self.grid[0] * self.grid[1]))
        elif self.kind == "vectors":
            column = ("vectors", pa.list_(pa.list_(pa.float16(), self.channels)))
        else:
            column = ("tokens", pa.list_(pa.uint16()))
        return pa.schema([("key", pa.string()), column])


def write_token_shard(
    root: str | Path, modality: str, index: int, keys: Sequence[str], tokens: Sequence[Any], *, header: TokenHeader
) -> ShardEntry:
    """Write ``<root>/<modality>/shard-<index>.arrow``; writing a shard again replaces it.

    ``tokens`` has one row a key: for grids an integer array (n, h·w), for sequences n integer vectors of 0 to
    ``max_length`` ids, for vectors n float arrays (0 to ``max_length``, channels), which are rounded to float16, for
    pixels n JPEG files as bytes. Raises :class:`Open4MError`, before anything is written, for rows of another number or
    shape, for ids outside [0, vocab_size), for vectors that float16 cannot hold, and if the modality's other shards
    have another header.
    """
    path = shard_path(root, modality, index, "arrow")
    seen: dict[str, None] = {}
    for key in keys:
        check_key(key, seen, path)
        seen[key] = None
    if len(tokens) != len(seen):
        raise Open4MError(f"{path}: {modality}: expected one row of tokens a key, got {len(seen)} and {len(tokens)}")
    rows = _Rows(path, modality, list(seen))
    encode = {
        "grid": _grid_column,
        "sequence": _sequence_column,
        "vectors": _vectors_column,
        "pixels": _pixels_column,
    }[header.kind]
    columns = [pa.array(rows.keys, pa.string()), encode(rows, tokens, header)]
    batch = pa.record_batch(columns, schema=header.schema)

    def write(file: BinaryIO) -> list[str]:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return rows.keys

    return commit(path, asdict(header), write)


@dataclass(frozen=True)
class _Rows:
    """Rows of a shard, for errors that name them."""

    path: Path
    modality: str
    keys: list[str]

    def error(self, row: int, message: str) -> Open4MError:
        return Open4MError(f"{self.path}: key {self.keys[row]}, modality {self.modality}: {message}")


def _grid_column(rows: _Rows, tokens: Sequence[Any], header: TokenHeader) -> pa.Array:
    length = header.grid[0] * header.grid[1]
    ids = np.asarray(tokens) if len(tokens) else np.empty((0, length), np.uint16)
    if ids.shape != (len(rows.keys), length) or ids.dtype.kind not in "iu":
        raise Open4MError(
            f"{rows.path}: {rows.modality}: expected integers of shape {(len(rows.keys), length)} for a grid of "
            f"{header.grid[0]}x{header.grid[1]} tokens, got {ids.dtype} {ids.shape}"
        )
    wrong = (ids < 0) | (ids >= header.vocab_size)
    if wrong.any():
        row, cell = np.argwhere(wrong)[0]
        raise rows.error(row, f"token id {ids[row, cell]} at cell {cell}, expected 0 to {header.vocab_size - 1}")
    values = pa.array(ids.astype(np.uint16).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, length)


def _sequence_column(rows: _Rows, tokens: Sequence[Any], header: TokenHeader) -> pa.Array:
    vectors = [np.asarray(vector) if len(vector) else np.empty(0, np.int64) for vector in tokens]
    for row, vector in enumerate(vectors):
        if vector.ndim != 1 or vector.dtype.kind not in "iu":
            raise rows.error(row, f"expected a vector of integers, got {vector.dtype} {vector.shape}")
        if len(vector) > header.max_length:
            raise rows.error(row, f"{len(vector)} tokens, expected at most {header.max_length}")
    offsets = np.cumsum([0, *map(len, vectors)])
    ids = np.concatenate([np.empty(0, np.int64), *(vector.astype(np.int64) for vector in vectors)])
    wrong = (ids < 0) | (ids >= header.vocab_size)
    if wrong.any():
        place = int(wrong.argmax())
        row = int(np.searchsorted(offsets, place, side="right")) - 1
        raise rows.error(row, f"token id {ids[place]}, expected 0 to {header.vocab_size - 1}")
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids.astype(np.uint16)))


def _vectors_column(rows: _Rows, tokens: Sequence[Any], header: TokenHeader) -> pa.Array:
    parts = []
    for row, vectors in enumerate(tokens):
        part = np.asarray(vectors) if len(vectors) else np.empty((0, header.channels), np.float16)
        if part.ndim != 2 or part.shape[1] != header.channels or part.dtype.kind != "f":
            raise rows.error(row, f"expected floats of shape (n, {header.channels}), got {part.dtype} {part.shape}")
        if len(part) > header.max_length:
            raise rows.error(row, f"{len(part)} vectors, expected at most {header.max_length}")
        if not (np.abs(part) <= LARGEST).all():  # which nan is not either
            raise rows.error(row, f"a vector is not finite or has a value beyond ±{LARGEST} (float16)")
        parts.append(part.astype(np.float16))
    offsets = np.cumsum([0, *map(len, parts)])
    values = np.concatenate([np.empty((0, header.channels), np.float16), *parts])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), header.channels)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), vectors)


def _pixels_column(rows: _Rows, tokens: Sequence[Any], header: TokenHeader) -> pa.Array:
    for row, content in enumerate(tokens):
        if not isinstance(content, bytes) or not content:
            raise rows.error(row, f"expected the bytes of a JPEG file, got {type(content).__name__} {content!r:.40}")
    return pa.array(tokens, pa.large_binary())


@dataclass(frozen=True)
class _Shard:
    """Zero-copy views of a memory-mapped file.

    ``values``: grids uint16 (rows, L); sequences uint16 (all tokens,); vectors float16 (all vectors, C); pixels an
    Arrow array of bytes. ``offsets``: of sequences and vectors, int32 (rows + 1,).
    """

    path: Path
    keys: pa.StringArray
    values: Any
    offsets: np.ndarray | None

    def row(self, row: int) -> np.ndarray:
        """The tokens (n,) or vectors (n, C) of a row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]


class TokenStore:
    """Tokens of several modalities, in step, read in batches by global row.

    Opening reads only manifests; a shard is memory-mapped when it is first touched. Instances may be pickled and used
    from several threads. ``shards`` has the range of rows of every shard, by shard index. ``rows`` arguments are
    integer arrays (B,) in any order, with repetitions.

    Raises :class:`Open4MError` if a modality is missing, or if two hold different samples.
    """

    def __init__(self, root: str | Path, modalities: Sequence[str]) -> None:
        self.root = Path(root)
        self.modalities = tuple(modalities)
        if not self.modalities:
            raise Open4MError(f"{self.root}: name at least one modality to read")
        self._manifests = {name: open_manifest(self.root, name) for name in self.modalities}
        self._headers = {name: _header(self.root, name, manifest) for name, manifest in self._manifests.items()}
        self._opened: dict[tuple[str, int], _Shard] = {}
        self.shards = align(self.root, self._manifests, lambda name, shard: self._open(name, shard).keys.to_pylist())
        self._indices = np.array(list(self.shards), dtype=np.int64)
        self._starts = np.array([rows.start for rows in self.shards.values()], dtype=np.int64)
        self._length = sum(map(len, self.shards.values()))

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": {}}

    def header(self, modality: str) -> TokenHeader:
        """The modality's header."""
        if modality not in self._headers:
            raise Open4MError(f"{self.root}: opened with {', '.join(self.modalities)}, not with modality {modality}")
        return self._headers[modality]

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows."""
        return [shard.keys[row].as_py() for shard, row in self._locate(self.modalities[0], rows)]

    def grid(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """Token ids of a grid in raster order, int64 (B, L)."""
        header = self._expect(modality, "grid")
        length = header.grid[0] * header.grid[1]
        parts = [shard.values[row] for shard, row in self._locate(modality, rows)]
        ids = np.concatenate([np.empty(0, np.uint16), *parts])
        self._check_ids(modality, rows, ids, np.full(len(parts), length))
        return ids.reshape(-1, length).astype(np.int64)

    def sequence(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, int64 (B, max_length), zero after the end, and lengths, int64 (B,)."""
        header = self._expect(modality, "sequence")
        parts = [shard.row(row) for shard, row in self._locate(modality, rows)]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        ids = np.concatenate([np.empty(0, np.uint16), *parts])
        self._check_ids(modality, rows, ids, lengths)
        padded = np.zeros((len(parts), header.max_length), dtype=np.int64)  # (B, L)
        padded[np.arange(header.max_length) < lengths[:, None]] = ids
        return padded, lengths

    def vectors(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, float32 (B, max_length, channels), zero after the end, and lengths, int64 (B,)."""
        header = self._expect(modality, "vectors")
        parts = [shard.row(row) for shard, row in self._locate(modality, rows)]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        padded = np.zeros((len(parts), header.max_length, header.channels), dtype=np.float32)  # (B, L, C)
        for place, part in enumerate(parts):
            padded[place, : len(part)] = part
            if not np.isfinite(padded[place]).all():
                raise self._damaged(modality, rows, place, "a vector that is not finite")
        return padded, lengths

    def pixels(self, modality: str, rows: np.ndarray) -> list[bytes]:
        """JPEG files."""
        self._expect(modality, "pixels")
        return [shard.values[row].as_py() for shard, row in self._locate(modality, rows)]

    def _expect(self, modality: str, kind: str) -> TokenHeader:
        header = self.header(modality)
        if header.kind != kind:
            raise Open4MError(f"{self.root}: modality {modality} is stored as {header.kind}, asked for as {kind}")
        return header

    def _locate(self, modality: str, rows: np.ndarray) -> list[tuple[_Shard, int]]:
        """The shard of every row, and its row in there.

        One row after another, since the rows of a batch are spread over as many shards where the data is large.
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise TypeError(f"rows: expected integers (B,), got {rows.dtype} {rows.shape}")
        if rows.size == 0:
            return []
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"{self.root}: rows {rows.min()} to {rows.max()} of {len(self)}")
        shards = np.searchsorted(self._starts, rows, side="right") - 1  # the last that starts at or before the row
        local = (rows - self._starts[shards]).tolist()
        indices = self._indices[shards].tolist()
        return [(self._open(modality, index), row) for index, row in zip(indices, local, strict=True)]

    def _check_ids(self, modality: str, rows: np.ndarray, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Ids were checked when they were written; this finds damage before it reaches an embedding.

        ``ids``: those of all rows, ``lengths`` (B,) of each, one after another.
        """
        vocab_size = self._headers[modality].vocab_size
        if ids.max(initial=0) >= vocab_size:
            place = int((ids >= vocab_size).argmax())
            row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
            raise self._damaged(modality, rows, row, f"token id {ids[place]}, expected 0 to {vocab_size - 1}")

    def _damaged(self, modality: str, rows: np.ndarray, place: int, found: str) -> Open4MError:
        key = self.keys(np.asarray(rows)[[place]])[0]
        return Open4MError(
            f"{folder_of(self.root, modality)}: key {key}, modality {modality}: {found}; the shard was changed: "
            "write it again"
        )

    def _open(self, modality: str, index: int) -> _Shard:
        if (modality, index) not in self._opened:
            entry = self._manifests[modality].shards[index]
            shard = _open_shard(shard_path(self.root, modality, index, "arrow"), self._headers[modality])
            if keys_digest(shard.keys.to_pylist()) != entry.keys_sha256:
                raise Open4MError(
                    f"{shard.path}: expected the {entry.rows} samples of {FILE}, got {len(shard.keys)} or other keys: "
                    "the shard was changed; write it again"
                )
            self._opened[modality, index] = shard
        return self._opened[modality, index]


def _header(root: Path, modality: str, manifest: Manifest) -> TokenHeader:
    try:
        return TokenHeader(**manifest.header)
    except (TypeError, Open4MError) as error:
        raise Open4MError(f"{root / modality / FILE}: not a manifest of tokens ({error}); tokenize first") from error


def _open_shard(path: Path, header: TokenHeader) -> _Shard:
    """Map a shard and check its structure: columns, types, buffer sizes, offsets."""
    try:
        with pa.memory_map(str(path)) as file:
            content = file.read_buffer()  # outlives the file, so that open shards hold no descriptors
        reader = pa.ipc.open_file(content)
        if reader.schema != header.schema or reader.num_record_batches != 1:
            raise Open4MError(
                f"{path}: expected one batch of {header.schema.types}, got {reader.num_record_batches} of "
                f"{reader.schema.types}; write the shard again"
            )
        batch = reader.get_batch(0)
        batch.validate(full=True)
        keys, column = batch.columns
        if keys.null_count or column.null_count:
            raise Open4MError(f"{path}: expected no nulls; write the shard again")
        if header.kind == "pixels":
            return _Shard(path, keys, column, None)
        if header.kind == "grid":
            return _Shard(path, keys, _numbers(column.values).reshape(len(keys), -1), None)
        if header.kind == "vectors":
            values = _numbers(column.values.values).reshape(-1, header.channels)
        else:
            values = _numbers(column.values)
        offsets = _numbers(column.offsets)
    except FileNotFoundError as error:
        raise Open4MError(f"{path}: listed in {FILE} but not there; restore it or write it again") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Open4MError(f"{path}: truncated or not an Arrow file ({error}); restore it or write it again") from error
    longest = np.diff(offsets).max(initial=0)
    if longest > header.max_length:
        raise Open4MError(f"{path}: a row of {longest} tokens, expected at most {header.max_length}; write it again")
    return _Shard(path, keys, values, offsets)


def _numbers(array: pa.Array) -> np.ndarray:
    """A view of an Arrow array of numbers."""
    return array.to_numpy(zero_copy_only=True)
