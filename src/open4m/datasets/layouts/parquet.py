"""Parquet files with images in them: a column of bytes, or of structs ``{bytes, path}`` as the Hugging Face hub has.

A column's name says its modality; without such a name, the first column of images holds the photos, and the first one
called like a caption the captions. A column of class labels whose names the file's metadata say becomes a caption where
there is no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open4m import modalities
from open4m.datasets.layouts.base import CAPTION_FIELDS, Layout, Part, Wanted, called, photo, split_of, text, texts_of
from open4m.datasets.source import Source
from open4m.types import Open4MError, Value, shown

SUFFIX = ".parquet"
ROWS = 64
"""Rows that are read at once."""


class Parquet(Layout):
    name = "parquet"
    packed = True

    @classmethod
    def fits(cls, source: Source, wanted: Wanted) -> bool:
        first = min((entry.path for entry in source.some() if entry.path.endswith(SUFFIX)), default=None)
        if first is None:
            return False
        with _opened(source, first) as file:
            return any(_holds_bytes(field.type) for field in file.schema_arrow)

    def parts(self) -> Iterator[Part]:
        for path in self._files:
            split = next((s for word in path.split("/") if (s := split_of(word))), "")
            row = 0
            with _opened(self.source, path) as file:
                missing = set(self._columns.values()) - set(file.schema_arrow.names)
                if missing:
                    raise Open4MError(
                        f"{self.source.named(path)}: has no column {', '.join(sorted(missing))}; it has "
                        f"{', '.join(file.schema_arrow.names)}"
                    )
                for group in range(file.num_row_groups):
                    for place in range(file.metadata.row_group(group).num_rows):
                        sample = f"{path.removesuffix(SUFFIX)}/{row:08d}"
                        for name in self._columns:
                            yield Part(sample, name, [path, group, place], 0, None, split)
                        row += 1

    def read(self, places: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, bytes | Value | None]:
        path, group, place = next(iter(places.values()))[0]
        row = self._cursor.row(path, group, place)
        return {name: self._value(name, row, path) if name in places else None for name in names}

    def _value(self, name: str, row: Mapping[str, Any], path: str) -> bytes | Value | None:
        column = self._columns[name]
        value = row[column]
        if value is None:
            return None
        where = f"{self.source.named(path)}: column {column}"
        if modalities.get(name).is_text:
            if column in self._labels:
                if not isinstance(value, int):
                    raise Open4MError(f"{where}: expected the number of a class, got {shown(value)}")
                return self._labels[column][value] if 0 <= value < len(self._labels[column]) else None
            return self.wanted.text(texts_of(value), where)
        if isinstance(value, Mapping):
            value = value.get("bytes")
            if value is None:
                raise Open4MError(f"{where}: no bytes, only the path of a file that is not in it")
        if isinstance(value, bytes):
            return value
        return modalities.get(name).convert(value)

    def hints(self) -> list[str]:
        read = dict.fromkeys(self._columns.values())
        if not (others := [name for name in self._schema.names if name not in read]):
            return []
        found = ", ".join(f"{name} in {column}" for name, column in self._columns.items())
        return [f"columns read: {found}; not read: {', '.join(others)} (--where MODALITY=COLUMN takes another)"]

    # ---- what it holds
    @cached_property
    def _files(self) -> list[str]:
        found = sorted(entry.path for entry in self.source.walk() if entry.path.endswith(SUFFIX))
        if not found:
            raise Open4MError(f"{self.source.url}: holds no Parquet files")
        return found

    @cached_property
    def _columns(self) -> dict[str, str]:
        """The column of each modality."""
        fields, wanted = {field.name: field.type for field in self._schema}, self.wanted.where
        for name, column in wanted.items():
            if column not in fields:
                raise Open4MError(f"{name}: {self.source.url} has no column {column!r}; it has {', '.join(fields)}")
        found, taken = dict(wanted), set(wanted.values())
        for column, kind in fields.items():
            if column in taken or (modality := called(column)) is None or modality.name in found:
                continue
            if _holds_texts(kind) if modality.is_text else _holds_bytes(kind) or pa.types.is_list(kind):
                found[modality.name] = column
                taken.add(column)
        images = [column for column, kind in fields.items() if column not in taken and _holds_bytes(kind)]
        if photo().name not in found and images:
            found[photo().name] = images[0]
        texts = [name for name in CAPTION_FIELDS if _holds_texts(fields.get(name))] or list(self._labels)
        if text().name not in found and texts:
            found[text().name] = texts[0]
        return found

    @cached_property
    def _schema(self) -> pa.Schema:
        with _opened(self.source, self._files[0]) as file:
            return file.schema_arrow

    @cached_property
    def _labels(self) -> dict[str, list[str]]:
        """The class names of columns of labels, as the hub writes them into the schema."""
        try:
            features = json.loads((self._schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
            return {name: list(f["names"]) for name, f in features.items() if f.get("_type") == "ClassLabel"}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}

    @cached_property
    def _cursor(self) -> _Cursor:
        return _Cursor(self.source, list(dict.fromkeys(self._columns.values())))


class _Cursor:
    """Rows in order, a few of them in memory; going back begins the row group anew."""

    def __init__(self, source: Source, columns: list[str]) -> None:
        self._source, self._columns = source, columns
        self._at: tuple[str, int] | None = None
        self._rows: list[Mapping[str, Any]] = []
        self._first = 0  # the place of the first of them in its row group
        self._batches: Iterator[list[Mapping[str, Any]]] = iter(())

    def row(self, path: str, group: int, place: int) -> Mapping[str, Any]:
        if self._at != (path, group) or place < self._first:
            self._at, self._rows, self._first = (path, group), [], 0
            self._batches = self._read(path, group)
        while place >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = next(self._batches, [])
            if not self._rows:
                raise Open4MError(f"{self._source.named(path)}: has no row {place} in row group {group}")
        return self._rows[place - self._first]

    def _read(self, path: str, group: int) -> Iterator[list[Mapping[str, Any]]]:
        with _opened(self._source, path) as file:
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=self._columns):
                yield batch.to_pylist()


@contextmanager
def _opened(source: Source, path: str) -> Iterator[pq.ParquetFile]:
    with source.open(path) as file:
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise Open4MError(f"{source.named(path)}: not a readable Parquet file ({error})") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    kind = _stored(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _holds_texts(kind: pa.DataType | None) -> bool:
    if kind is None:
        return False
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_texts(kind.value_type)
    kind = _stored(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column that lists each of them once, as that of a category in pandas does."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


LAYOUT = Parquet
