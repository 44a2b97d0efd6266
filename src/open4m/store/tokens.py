"""The token store: every sample's tokens, memory-mapped, read in batches.

``<root>/<modality>/shard-00000.arrow`` is an uncompressed Arrow IPC file of one record batch, rows in the raw shard's
order, with the columns ``key`` and that of the modality's family (:mod:`open4m.store.columns`), which is null for
samples that lack the modality.
:mod:`open4m.store.manifest` describes ``manifest.json`` and how a shard is committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import pyarrow as pa

from open4m import checksums
from open4m import config as configs
from open4m.ranges import Range, Size, check_ranges
from open4m.store.columns import COLUMNS, Column, Views
from open4m.store.manifest import (
    FILE,
    KeyColumn,
    Manifest,
    ShardEntry,
    align,
    check_key,
    commit,
    keys_digest,
    open_manifest,
    shard_path,
)
from open4m.store.mapped import Mapped, mapped
from open4m.store.remote import Cache, Remote, is_url, joined
from open4m.types import LARGEST_VOCABULARY, Open4MError

ATTEMPTS = 20
"""How often a shard is fetched that other processes remove from the cache before it is mapped."""

MOST_CROPS = 1000
"""Far more crops of a sample than anyone stores."""

SIZES = ("vocab_size", "grid", "max_length", "channels")
"""The fields of :class:`TokenHeader` of which each family needs some."""


@dataclass(frozen=True, kw_only=True)
class TokenHeader:
    """What is true of all tokens of a modality.

    ``kind`` is the name of its family. ``tokenizer`` is the fingerprint of what made them: tokens of two tokenizers
    never mix. ``parts``: that of the tokenizer of what is a part of a sequence, like the pose of each person; empty
    where there is none, and in stores that were made before it was recorded. Grids have ``grid``, sequences
    ``max_length``, both ``vocab_size`` (1 to 65536); vectors have ``channels`` and ``max_length``; pixels have none of
    them. ``placeless``: the cells of a grid are the parts of one vector, like a global feature, and no places in the
    image. ``crops``: how many rows each sample has, one after another: the first shows its central square, the others
    crops of it.

    Raises :class:`Open4MError` for an unknown kind, and for sizes that it does not have or that are impossible.
    """

    kind: str
    tokenizer: str = ""
    parts: str = ""
    vocab_size: Annotated[int, Range(1, LARGEST_VOCABULARY)] | None = None
    grid: tuple[Size, Size] | None = None  # (h, w) in tokens
    max_length: Size | None = None  # tokens or vectors
    channels: Size | None = None  # of a vector
    placeless: bool = False
    crops: Annotated[int, Range(1, MOST_CROPS)] = 1

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

    def to_dict(self) -> dict[str, Any]:
        """What the manifest holds. One crop and no parts go without saying, as in older stores."""
        plain = {"crops": 1, "parts": ""}
        return {name: value for name, value in asdict(self).items() if name not in plain or value != plain[name]}

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
    pixels n JPEG files as bytes; None for a sample that lacks the modality. Raises :class:`Open4MError`, before
    anything is written, for rows of another number or shape, for ids outside [0, vocab_size), for vectors that float16
    cannot hold, and if the modality's other shards have another header.
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

    columns = [pa.array(rows, pa.string()), header.column.write(tokens, len(rows), header, error)]
    batch = pa.record_batch(columns, schema=header.schema)

    def write(file: BinaryIO) -> KeyColumn:
        with pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        return KeyColumn(rows, batch.column(1).null_count)

    return commit(path, header.to_dict(), write)


@dataclass(frozen=True)
class _Shard:
    """A memory-mapped file."""

    file: Mapped
    keys: pa.StringArray
    views: Views
    present: np.ndarray | None  # bool (rows,); None: all are


class TokenStore:
    """Tokens of several modalities, in step, read in batches by global row.

    Opening reads only manifests; a shard is memory-mapped when it is first touched. ``root`` is a folder, or an fsspec
    URL, whose shards are fetched into ``cache`` first (:mod:`open4m.store.remote`). Instances may be pickled and used
    from several threads. ``shards`` maps a shard's index to its range of rows; ``crops`` is how many rows each sample
    has. ``rows`` arguments are integer arrays
    (B,) in any order, with repetitions. What is read of a sample that lacks the modality has length 0 or no meaning:
    see :meth:`present`. Reading raises :class:`Open4MError` for a modality of another family, and for shards that are
    missing or damaged.

    Raises :class:`Open4MError` if a modality is missing, or if two hold different samples.
    """

    def __init__(self, root: str | Path, modalities: Sequence[str], cache: Cache | None = None) -> None:
        self._remote = Remote(str(root), cache or Cache.default()) if is_url(root) else None
        self.root = str(root).rstrip("/") if self._remote else Path(root)
        self.modalities = tuple(modalities)
        if not self.modalities:
            raise Open4MError(f"{self.root}: name at least one modality to read")
        self._manifests = {name: self._manifest(name) for name in self.modalities}
        self._headers = {name: _header(self.root, name, manifest) for name, manifest in self._manifests.items()}
        self._opened: dict[str, dict[int, _Shard]] = {name: {} for name in self.modalities}
        self._recent: OrderedDict[tuple[str, int], int] = OrderedDict()  # bytes of remote shards, the last used last
        self.shards = align(self.root, self._manifests, lambda name, shard: self._open(name, shard).keys.to_pylist())
        self._indices = np.array(list(self.shards), dtype=np.int64)
        self._starts = np.array([rows.start for rows in self.shards.values()], dtype=np.int64)
        self._length = sum(map(len, self.shards.values()))
        self.crops = self._headers[self.modalities[0]].crops
        for name, header in self._headers.items():
            if header.crops != self.crops:
                raise Open4MError(
                    f"{self.root}: {name} has {header.crops} crops per sample, {self.modalities[0]} {self.crops}: "
                    "tokenize them together"
                )
        if odd := [index for index, rows in self.shards.items() if len(rows) % self.crops]:
            raise Open4MError(f"{self.root}: shard {odd[0]} has no whole number of samples of {self.crops} rows each")

    def __len__(self) -> int:
        return self._length

    @property
    def samples(self) -> int:
        """How many samples the rows are of: each has ``crops`` rows, one after another."""
        return self._length // self.crops

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": {name: {} for name in self.modalities}, "_recent": OrderedDict()}

    def header(self, modality: str) -> TokenHeader:
        """The modality's header."""
        if modality not in self._headers:
            raise Open4MError(f"{self.root}: opened with {', '.join(self.modalities)}, not with modality {modality}")
        return self._headers[modality]

    def keys(self, rows: np.ndarray) -> list[str]:
        """The keys of rows."""
        return [shard.keys[row].as_py() for shard, row in self._locate(self.modalities[0], rows)]

    def present(self, modality: str, rows: np.ndarray) -> np.ndarray | None:
        """Which rows have the modality, bool (B,); None if all samples of the store have it."""
        self.header(modality)
        if not self._manifests[modality].missing:
            return None
        places = self._locate(modality, rows)
        return np.array([shard.present is None or shard.present[row] for shard, row in places], dtype=bool)

    def missing(self, modality: str) -> int:
        """How many rows lack a modality, as the manifest says: no shard is read."""
        self.header(modality)
        return self._manifests[modality].missing

    def rows_with(self, *modalities: str) -> np.ndarray:
        """The rows that have all of these modalities, int64 (n,) in order. Opens only shards in which some are
        missing."""
        present = np.ones(self._length, dtype=bool)
        for name in modalities:
            self.header(name)
            for index, rows in self.shards.items():
                if self._manifests[name].shards[index].missing:
                    present[rows.start : rows.stop] &= self._open(name, index).present
        return np.flatnonzero(present)

    def grid(self, modality: str, rows: np.ndarray) -> np.ndarray:
        """Token ids of a grid in raster order, int64 (B, L)."""
        return self.read(modality, "grid", rows)[0]

    def sequence(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, int64 (B, max_length), zero after the end, and lengths, int64 (B,)."""
        return self.read(modality, "sequence", rows)

    def vectors(self, modality: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, float32 (B, max_length, channels), zero after the end, and lengths, int64 (B,)."""
        return self.read(modality, "vectors", rows)

    def pixels(self, modality: str, rows: np.ndarray) -> list[bytes | None]:
        """JPEG files, None of samples that have none."""
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
                f"{joined(self.root, modality)}: key {key}, modality {modality}: {found}; the shard was changed: "
                "write it again"
            )

        places = [(shard.views, row) for shard, row in self._locate(modality, rows)]
        return header.column.read(places, header, damaged)

    def contents(self, modality: str, shard: int) -> Iterator[tuple[str, bytes | None]]:
        """The key and the bytes of each row of a shard, None of samples that lack the modality."""
        column, opened = self.header(modality).column, self._open(modality, shard)
        for row, key in enumerate(opened.keys.to_pylist()):
            present = opened.present is None or opened.present[row]
            yield key, column.content(opened.views, row) if present else None

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
        opened = {index: self._open(modality, index) for index in dict.fromkeys(indices)}
        for shard in opened.values():
            shard.file.check()
        return [(opened[index], row) for index, row in zip(indices, local, strict=True)]

    def first(self, count: int) -> np.ndarray:
        """The rows of the central squares of the first samples, int64 (n,)."""
        return self.crops * np.arange(min(count, self.samples))

    def central(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that show the central square of their sample."""
        return rows[rows % self.crops == 0]

    def _manifest(self, modality: str) -> Manifest:
        if self._remote is None:
            return open_manifest(self.root, modality)
        if (manifest := self._remote.manifest(modality)) is None:
            raise Open4MError(f"{self.root}: no data of modality {modality} (expected {modality}/{FILE})")
        return manifest

    def _open(self, modality: str, index: int) -> _Shard:
        if self._remote is None:
            return self._checked(modality, index, shard_path(self.root, modality, index, "arrow"))
        place = (modality, index)
        if place not in self._recent:
            self._recent[place] = self._fetched(modality, index)
            while sum(self._recent.values()) > self._remote.cache.limit and len(self._recent) > 1:
                (name, oldest), _ = self._recent.popitem(last=False)
                del self._opened[name][oldest]
        self._recent.move_to_end(place)
        return self._opened[modality][index]

    def _fetched(self, modality: str, index: int) -> int:
        """Open a shard of a remote store; returns its size. Once it is mapped, others may remove it from the cache."""
        for attempt in range(1, ATTEMPTS + 1):
            entry = self._manifests[modality].shards[index]
            path = self._remote.path(modality, entry)
            try:
                size = path.stat().st_size
                self._checked(modality, index, path)
                return size
            except (FileNotFoundError, Open4MError):
                is_lost = not path.exists()  # another process has just removed it
                if attempt == ATTEMPTS or not (is_lost or self._remote.cache.drop_damaged(entry)):
                    raise
        raise AssertionError

    def _checked(self, modality: str, index: int, path: Path) -> _Shard:
        opened = self._opened[modality]
        if index not in opened:
            entry = self._manifests[modality].shards[index]
            checksums.check_shard(path, entry.sha256)
            shard = _open_shard(path, self._headers[modality])
            missing = 0 if shard.present is None else int((~shard.present).sum())
            sizes = (len(shard.keys), missing)
            if sizes != (entry.rows, entry.missing) or keys_digest(shard.keys.to_pylist()) != entry.keys_sha256:
                raise Open4MError(
                    f"{path}: expected the {entry.rows} samples of {FILE}, {entry.missing} of them missing, got "
                    f"{sizes[0]}, {missing} missing, or other keys: the shard was changed; write it again"
                )
            opened[index] = shard
        return opened[index]


def _header(root: str | Path, modality: str, manifest: Manifest) -> TokenHeader:
    try:
        return configs.from_dict(TokenHeader, dict(manifest.header), "header")
    except Open4MError as error:
        raise Open4MError(
            f"{joined(root, modality)}/{FILE}: not a manifest of tokens ({error}); tokenize first"
        ) from error


def _open_shard(path: Path, header: TokenHeader) -> _Shard:
    """Map a shard and check its structure: columns, types, buffer sizes, offsets."""
    try:
        file = mapped(path)
        reader = pa.ipc.open_file(file.content)
        if reader.schema != header.schema or reader.num_record_batches != 1:
            raise Open4MError(
                f"{path}: expected one batch of {header.schema.types}, got {reader.num_record_batches} of "
                f"{reader.schema.types}; write the shard again"
            )
        batch = reader.get_batch(0)
        batch.validate(full=True)
        keys, column = batch.columns
        if keys.null_count:
            raise Open4MError(f"{path}: expected no nulls among the keys; write the shard again")
        views = header.column.view(column, header)
    except FileNotFoundError as error:
        raise Open4MError(f"{path}: listed in {FILE} but not there; restore it or write it again") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Open4MError(f"{path}: truncated or not an Arrow file ({error}); restore it or write it again") from error
    if views.offsets is not None and (longest := np.diff(views.offsets).max(initial=0)) > header.max_length:
        raise Open4MError(f"{path}: a row of {longest} tokens, expected at most {header.max_length}; write it again")
    present = column.is_valid().to_numpy(zero_copy_only=False) if column.null_count else None
    return _Shard(file, keys, views, present)
