"""The token store: every sample's tokens, memory-mapped, read in batches.

``<root>/<modality>/shard-00000.arrow`` is an uncompressed Arrow IPC file of one record batch, rows in the raw shard's
order, with the columns ``key`` and that of the modality's family (:mod:`open4m.store.columns`).
:mod:`open4m.store.manifest` describes ``manifest.json`` and how a shard is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa

from open4m import config as configs
from open4m.ranges import Range, Size, check_ranges
from open4m.store.columns import COLUMNS, Column, Views
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
from open4m.types import LARGEST_VOCABULARY, Open4MError

SIZES = ("vocab_size", "grid", "max_length", "channels")
"""The fields of :class:`TokenHeader` of which each family needs some."""


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """What is true of all tokens of a modality.

    ``kind`` is the name of its family. ``tokenizer`` is the fingerprint of what made them: tokens of two tokenizers
    never mix. Grids have ``grid``, sequences ``max_length``, both ``vocab_size`` (1 to 65536); vectors have
    ``channels`` and ``max_length``; pixels have none of them. ``placeless``: the cells of a grid are the parts of one
    vector, like a global feature, and no places in the image.

    Raises :class:`Open4MError` for an unknown kind, and for sizes that it does not have or that are impossible.
    """

    kind: str
    tokenizer: str = ""
    vocab_size: Annotated[int, Range(1, LARGEST_VOCABULARY)] | None = None
    grid: tuple[Size, Size] | None = None  # (h, w) in tokens
    max_length: Size | None = None  # tokens or vectors
    channels: Size | None = None  # of a vector
    placeless: bool = False

    def __post_init__(self) -> None:
        if self.kind not in COLUMNS:
            raise Open4MError(f"token header: kind {self.kind!r}, expected one of {', '.join(COLUMNS)}")
        if self.grid is not None:
            object.__setattr__(self, "grid", tuple(self.grid))
        elif self.placeless:
            raise Open4MError(f"token header: only the tokens of a grid are placeless, got kind {self.kind}")
        needed = self.column.sizes
        given = {name for name in SIZES if getattr(self, name) is not None}
        if given != needed:
            raise Open4MError(
                f"token header: kind {self.kind} takes {', '.join(sorted(needed)) or 'no sizes'}, "
                f"got {', '.join(sorted(given)) or 'none'}"
            )
        if self.grid is not None and len(self.grid) != 2:
            raise Open4MError(f"token header: grid {self.grid}, expected (h, w)")
        check_ranges(self, "token header")

    @property
    def column(self) -> Column:
        """How the tokens are stored."""
        return COLUMNS[self.kind]

    @property
    def schema(self) -> pa.Schema:
        """The columns of a shard."""
        return pa.schema([("key", pa.string()), (self.column.name, self.column.type(self))])


def write_token_shard(
    root: str | Path, modality: str, index: int, keys: Sequence[str], tokens: Sequence[Any], *, header: TokenHeader
) -> ShardEntry:
    """Write ``<root>/<modality>/shard-<index>.arrow``; writing a shard again replaces it.

    ``tokens`` has one row per key: for grids an integer array (n, h·w), for sequences n integer vectors of 0 to
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
        raise Open4MError(f"{path}: {modality}: expected one row of tokens per key, got {len(seen)} and {len(tokens)}")
    rows = list(seen)

    def error(row: int | None, message: str) -> Open4MError:
        what = modality if row is None else f"key {rows[row]}, modality {modality}"
        return Open4MError(f"{path}: {what}: {message}")

    columns = [pa.array(rows, pa.string()), header.column.encode(tokens, len(rows), header, error)]
    batch = pa.record_batch(columns, schema=header.schema)

    def write(file: BinaryIO) -> list[str]:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return rows

    return commit(path, asdict(header), write)


@dataclass(frozen=True)
class _Shard:
    """A memory-mapped file."""

    path: Path
    keys: pa.StringArray
    views: Views


class TokenStore:
    """Tokens of several modalities, in step, read in batches by global row.

    Opening reads only manifests; a shard is memory-mapped when it is first touched. Instances may be pickled and used
    from several threads. ``shards`` maps a shard's index to its range of rows. ``rows`` arguments are integer arrays
    (B,) in any order, with repetitions. Reading raises :class:`Open4MError` for a modality of another family, and for
    shards that are missing or damaged.

    Raises :class:`Open4MError` if a modality is missing, or if two hold different samples.
    """

    def __init__(self, root: str | Path, modalities: Sequence[str]) -> None:
        self.root = Path(root)
        self.modalities = tuple(modalities)
        if not self.modalities:
            raise Open4MError(f"{self.root}: name at least one modality to read")
        self._manifests = {name: open_manifest(self.root, name) for name in self.modalities}
        self._headers = {name: _header(self.root, name, manifest) for name, manifest in self._manifests.items()}
        self._opened: dict[str, dict[int, _Shard]] = {name: {} for name in self.modalities}
        self.shards = align(self.root, self._manifests, lambda name, shard: self._open(name, shard).keys.to_pylist())
        self._indices = np.array(list(self.shards), dtype=np.int64)
        self._starts = np.array([rows.start for rows in self.shards.values()], dtype=np.int64)
        self._length = sum(map(len, self.shards.values()))

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": {name: {} for name in self.modalities}}

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
        return self.read(modality, "grid", rows)[0]

    def sequence(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, int64 (B, max_length), zero after the end, and lengths, int64 (B,)."""
        return self.read(modality, "sequence", rows)

    def vectors(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, float32 (B, max_length, channels), zero after the end, and lengths, int64 (B,)."""
        return self.read(modality, "vectors", rows)

    def pixels(self, modality: str, rows: np.ndarray) -> list[bytes]:
        """JPEG files."""
        return self.read(modality, "pixels", rows)[0]

    def read(self, modality: str, family: str, rows: np.ndarray) -> tuple[Any, np.ndarray | None]:
        """What a modality of a family holds, as the method named like the family says; None for lengths if all rows
        are equally long."""
        header = self.header(modality)
        if header.kind != family:
            raise Open4MError(f"{self.root}: modality {modality} is stored as {header.kind}, asked for as {family}")

        def damaged(place: int | None, found: str) -> Open4MError:
            key = self.keys(np.asarray(rows)[[place]])[0]
            return Open4MError(
                f"{folder_of(self.root, modality)}: key {key}, modality {modality}: {found}; the shard was changed: "
                "write it again"
            )

        places = [(shard.views, row) for shard, row in self._locate(modality, rows)]
        return header.column.read(places, header, damaged)

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

    def _open(self, modality: str, index: int) -> _Shard:
        opened = self._opened[modality]
        if index not in opened:
            entry = self._manifests[modality].shards[index]
            shard = _open_shard(shard_path(self.root, modality, index, "arrow"), self._headers[modality])
            if len(shard.keys) != entry.rows or keys_digest(shard.keys.to_pylist()) != entry.keys_sha256:
                raise Open4MError(
                    f"{shard.path}: expected the {entry.rows} samples of {FILE}, got {len(shard.keys)} or other keys: "
                    "the shard was changed; write it again"
                )
            opened[index] = shard
        return opened[index]


def _header(root: Path, modality: str, manifest: Manifest) -> TokenHeader:
    try:
        return configs.from_dict(TokenHeader, dict(manifest.header), "header")
    except Open4MError as error:
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
        views = header.column.view(column, header)
    except FileNotFoundError as error:
        raise Open4MError(f"{path}: listed in {FILE} but not there; restore it or write it again") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Open4MError(f"{path}: truncated or not an Arrow file ({error}); restore it or write it again") from error
    if views.offsets is not None and (longest := np.diff(views.offsets).max(initial=0)) > header.max_length:
        raise Open4MError(f"{path}: a row of {longest} tokens, expected at most {header.max_length}; write it again")
    return _Shard(path, keys, views)
