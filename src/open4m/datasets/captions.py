"""Captions as users have them: text files, JSON, folders of either, or a raw data set; read one by one, in order."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from open4m import files, modalities
from open4m.datasets import tables
from open4m.datasets.source import Source
from open4m.modalities.families import TokenSequence
from open4m.store import manifest
from open4m.store.shards import RawDataset
from open4m.types import Open4MError

FIELD = "caption"
"""The field of a JSON object that holds its caption, as in COCO's annotations."""

TABLES = (".csv", ".tsv", ".parquet")
"""The ends of names of tables."""

LONGEST_LINE = 1 << 24
"""Bytes of a line that are read at once: a corpus may be one line."""

LISTED_FIELDS = 8
"""Fields of an object that an error lists."""


def read(sources: Sequence[Path], field: str = FIELD) -> Iterator[str]:
    """The captions of all sources, without blank ones.

    The name of a source says what it is, in any case. ``.jsonl`` has one string per line, or one object with the string
    ``field``; ``.json`` has a list of these, or an object whose ``annotations`` are such a list, like COCO's; tables
    (``.csv``, ``.tsv``, ``.parquet``) have a column ``field``; any other file has one caption per line. A folder holds
    ``.txt`` files, also in folders below, read by name; or it is a raw data set
    (:mod:`open4m.store.shards`), of which all sequences are read that hold texts, or the folder of one of them. Only
    ``.json`` is read into memory as a whole. Raises :class:`Open4MError` for a source that is missing, before any is
    read, and while reading for one that holds no captions or something else.
    """
    for source in sources:
        if not source.exists():
            raise Open4MError(f"{source}: no such file or folder")
        if not (source.is_file() or source.is_dir()):
            raise Open4MError(f"{source}: neither a file nor a folder; write the captions into a file")
    return chain.from_iterable(_captions(source, field) for source in sources)


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, without the space around them; one longer than :data:`LONGEST_LINE` comes in parts.

    Raises :class:`Open4MError` for one not in UTF-8.
    """
    decoder, number = codecs.getincrementaldecoder("utf-8-sig")(), 1
    with path.open("rb") as file:
        while part := file.readline(LONGEST_LINE):
            is_last = len(part) < LONGEST_LINE and not part.endswith(b"\n")
            try:
                yield decoder.decode(part, final=is_last or part.endswith(b"\n")).strip()
            except UnicodeDecodeError as error:
                raise Open4MError(f"{path}: line {number}: not UTF-8 text ({error.reason})") from None
            number += part.endswith(b"\n")


def _captions(source: Path, field: str) -> Iterator[str]:
    if source.is_dir():
        texts = [] if _modalities(source) else sorted(path for path in source.rglob("*") if _is_text(path))
        captions = chain.from_iterable(map(lines, texts)) if texts else _of_dataset(source)
    elif (suffix := source.suffix.lower()) in (".jsonl", ".ndjson"):
        captions = _of_json_lines(source, field)
    elif suffix == ".json":
        captions = _of_json(source, field)
    elif suffix in TABLES:
        captions = _of_table(source, field)
    else:
        captions = lines(source)
    empty = True
    for caption in captions:
        if caption.strip():
            empty = False
            yield caption
    if empty:
        raise Open4MError(f"{source}: holds no captions")


def _is_text(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and not path.name.startswith(".") and path.is_file()


def _of_table(path: Path, field: str) -> Iterator[str]:
    for number, row in enumerate(tables.rows(Source(str(path.parent)), path.name), 1):
        name = tables.column(row, [field])
        yield _caption(row if name is None else row[name], field, f"{path}: row {number}")


def _of_json_lines(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(lines(path), 1):
        if line:
            where = f"{path}: line {number}"
            yield _caption(files.parse_json(line, where), field, where)


def _of_json(path: Path, field: str) -> Iterator[str]:
    content = files.read_json(path)
    items = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise Open4MError(f'{path}: expected a list of captions or {{"annotations": [...]}}, got {_kind(content)}')
    for number, item in enumerate(items, 1):
        yield _caption(item, field, f"{path}: item {number}")


def _modalities(folder: Path) -> list[str]:
    """The modalities of a raw data set, or the one whose folder this is; none of another folder."""
    if (folder / manifest.FILE).is_file():
        return [folder.resolve().name]
    return sorted(path.parent.name for path in folder.glob(f"*/{manifest.FILE}"))


def _of_dataset(folder: Path) -> Iterator[str]:
    names = _modalities(folder)
    root = folder.resolve().parent if (folder / manifest.FILE).is_file() else folder
    known = [modalities.get(name) for name in names if modalities.is_known(name)]
    found = False
    for modality in known:
        if isinstance(modality, TokenSequence):
            data = RawDataset(root, [modality.name]).having(modality.name)
            for i in range(len(data)):
                for text in modality.texts(data[i][modality.name]):
                    found = True
                    yield text
    if not found:
        listed = ", ".join(names) or "none"
        raise Open4MError(f"{folder}: holds no captions; its modalities: {listed}; it has no .txt files either")


def _caption(item: Any, field: str, where: str) -> str:
    caption = item.get(field) if isinstance(item, dict) else item
    if not isinstance(caption, str):
        raise Open4MError(f"{where}: expected a string or an object with the string {field!r}, got {_kind(item)}")
    return caption


def _kind(content: Any) -> str:
    """What a JSON value is, for a message."""
    if isinstance(content, dict):
        return f"an object with {', '.join(map(repr, list(content)[:LISTED_FIELDS])) or 'nothing'}"
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(content), "a number")
