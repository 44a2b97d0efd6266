"""Rows of tables that users have beside their images: CSV, TSV, JSON, JSON Lines and Parquet, read one by one."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from open4m import files
from open4m.datasets.source import Source
from open4m.types import Open4MError, shown

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_name", "image_path", "path", "filepath", "img", "key")
"""What the column is called that names a row's image."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
"""Of files that are tables whatever they are called."""

DELIMITERS = (",", ";", "\t")
"""Of CSV files: spreadsheets write semicolons where commas are decimal points."""

CHUNK = 1 << 20
LONGEST_ITEM = 64 << 20
"""Characters of one item of a JSON list, at most."""

csv.field_size_limit(1 << 24)


def rows(source: Source, path: str) -> Iterator[Mapping[str, Any]]:
    """The rows of a table. Raises :class:`Open4MError` for a file that is none."""
    suffix = path[path.rfind(".") :].lower()
    if suffix == ".parquet":
        yield from _of_parquet(source, path)
    elif suffix in (".jsonl", ".ndjson"):
        yield from _of_json_lines(source, path)
    elif suffix == ".json":
        yield from _of_json(source, path)
    else:
        yield from _of_csv(source, path, "\t" if suffix == ".tsv" else "")


def column(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns, whose names may be in any case, that a row has."""
    known = {str(name).strip().lower(): name for name in row}
    return next((known[name.lower()] for name in names if name.lower() in known), None)


def _of_csv(source: Source, path: str, delimiter: str) -> Iterator[Mapping[str, Any]]:
    """``delimiter``: "" for the one that the first line has most of."""
    with source.open(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            first = text.readline(CHUNK)
            if len(first) == CHUNK:
                raise csv.Error("its first line has no end")
            delimiter = delimiter or max(DELIMITERS, key=first.count)
            yield from csv.DictReader(chain([first], text), delimiter=delimiter, restkey="", restval="")
        except (csv.Error, UnicodeDecodeError) as error:
            raise Open4MError(f"{source.named(path)}: not a table in UTF-8 ({error})") from error


def _of_json_lines(source: Source, path: str) -> Iterator[Mapping[str, Any]]:
    with source.open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{source.named(path)}: line {number}"
                yield _row(files.parse_json(line, where), where)


def _of_json(source: Source, path: str) -> Iterator[Mapping[str, Any]]:
    for number, (_, item) in enumerate(items(source, path), 1):
        yield _row(item, f"{source.named(path)}: item {number}")


def _of_parquet(source: Source, path: str) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.open(path) as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(1024):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise Open4MError(f"{source.named(path)}: not a readable Parquet file ({error})") from error


def _row(item: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise Open4MError(f"{where}: expected an object with named fields, got {shown(item)}")
    return item


def items(source: Source, path: str) -> Iterator[tuple[str, Any]]:
    """The items of a JSON file, one by one, whatever its size: (``""``, item) of a list; of an object, (name, item) of
    each list in it, and (name, value) of all else.

    Raises :class:`Open4MError` for what is no such JSON.
    """
    where = source.named(path)
    yield from ((name, files.parse_json(text, where)) for name, text, _ in texts(source, path))


def texts(source: Source, path: str) -> Iterator[tuple[str, str, Any]]:
    """As :func:`items`: the name, the JSON of an item, and its value, which may hold what no float64 and no file can.

    For files of many items, which are read in half of the time.
    """
    with source.open(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
        reader = _Reader(text, source.named(path))
        opened = reader.take("[{")
        if opened == "[":
            yield from (("", *item) for item in reader.list())
            return
        while (mark := reader.peek()) != "}":
            if mark == ",":
                reader.take(",")
                continue
            name = files.parse_json(reader.value()[0], source.named(path))
            if not isinstance(name, str):
                raise reader.error(f"a name, got {shown(name)}")
            reader.take(":")
            if reader.peek() == "[":
                reader.take("[")
                yield from ((name, *item) for item in reader.list())
            else:
                yield name, *reader.value()


class _Reader:
    """JSON values from a stream, of which only the one that is read is held."""

    def __init__(self, text: io.TextIOBase, where: str) -> None:
        self._text, self._where = text, where
        self._buffer, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def error(self, expected: str) -> Open4MError:
        return Open4MError(f"{self._where}: not readable as JSON (expected {expected})")

    def peek(self) -> str:
        """The next character that is no blank."""
        while True:
            while self._at < len(self._buffer):
                if not self._buffer[self._at].isspace():
                    return self._buffer[self._at]
                self._at += 1
            if not self._more():
                raise self.error("more: the file is cut off")

    def take(self, marks: str) -> str:
        """The next character, which is one of ``marks``."""
        if (mark := self.peek()) not in marks:
            raise self.error(f"one of {marks}, got {mark!r}")
        self._at += 1
        return mark

    def list(self) -> Iterator[tuple[str, Any]]:
        """The items of a list whose bracket was taken."""
        while (mark := self.peek()) != "]":
            if mark == ",":
                self.take(",")
            else:
                yield self.value()
        self.take("]")

    def value(self) -> tuple[str, Any]:
        """The JSON of the next value, and the value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError):  # also of a number of too many digits
                end = None
            if end is not None and (end < len(self._buffer) or self._ended):  # a number may go on
                text, self._at = self._buffer[self._at : end], end
                return text, value
            if len(self._buffer) - self._at > LONGEST_ITEM or not self._more():
                raise self.error("a value")

    def _more(self) -> bool:
        try:
            chunk = self._text.read(max(CHUNK, len(self._buffer) - self._at))
        except UnicodeDecodeError as error:
            raise Open4MError(f"{self._where}: not UTF-8 text ({error.reason})") from error
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        self._ended = not chunk
        return bool(chunk)
