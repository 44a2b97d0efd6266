"""Importing: data of others, in any layout, becomes aligned raw shards (``open4m data import``)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from open4m import files, modalities
from open4m.data.conversion import Converter, Rejected, Rules
from open4m.data.index import FILE, Division, Index, open_index
from open4m.data.jobs import Job, batches
from open4m.data.links import Link
from open4m.data.rejects import Rejects
from open4m.datasets import layouts
from open4m.datasets.classes import Classes
from open4m.datasets.layouts.base import Layout, Wanted, photo
from open4m.datasets.source import Source, Unreachable
from open4m.progress import within
from open4m.store.manifest import folder_of, is_committed
from open4m.store.shards import HEADER, RawDataset, link_shard, write_shard
from open4m.types import Open4MError

logger = logging.getLogger("open4m")

PROBED = 4
"""Samples whose files are read before anything is written: if none of a modality's is what it should be, all are wrong
in the same way, such as a unit that was not said."""

IN_MEMORY = 32 << 20
"""Bytes of one modality of a shard that are held in memory while it is made; the rest is on disk."""


@dataclass(frozen=True)
class Import(Job):
    """Write the samples of one split of an indexed source below ``root``."""

    layout: Layout
    index: Index
    root: Path
    split: str
    rules: Rules

    @property
    def description(self) -> str:
        return f"import {self.split}"

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities of the source."""
        return tuple(self.index.modalities)

    @property
    def folders(self) -> list[Path]:
        return [folder_of(self.root, name) for name in self.names]

    @property
    def links(self) -> list[Link]:
        return [Link(self.root, name) for name in self.names]

    @property
    def rejects(self) -> Rejects:
        return Rejects(self.root, "import", self.index.splits[self.split][0], self.rules.broken)

    def shards(self) -> range:
        return range(self.index.splits[self.split][1])

    def is_done(self, shard: int) -> bool:
        return all(is_committed(self.root, name, shard) for name in self.names)

    def run(self, shard: int) -> None:
        rejects, keys, as_is = self.rejects.of_shard(shard), [], True
        with ExitStack() as stack:
            files.make_folder(self.root)
            found = {
                name: _Spool(stack.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY, dir=self.root)))
                for name in self.names
            }
            rows = within(batches(list(self.index.rows(self.split, shard))), "samples")
            for row in chain.from_iterable(rows):
                for name, place in row.clashes:
                    rejects.add(row.key, name, "another file has its name", place, by_policy=True, samples=0)
                try:
                    if row.copy_of:
                        raise Rejected(self.index.main, "duplicate", f"of {row.copy_of}", by_policy=True)
                    sample = self._converter.convert(row.places)
                    if self.index.main == photo().name and sample[self.index.main] is None:
                        raise Rejected(self.index.main, "no image", "the place of the image is empty", by_policy=True)
                except Rejected as error:
                    rejects.add(row.key, error.stage, error.reason, error.detail, by_policy=error.by_policy)
                    continue
                keys.append(row.key)
                for name, file in sample.items():
                    as_is &= file is not None and file.as_is
                    found[name].append(None if file is None else file.data)
            rejects.commit()
            if self.index.extensions and as_is and not len(rejects):
                self._link(shard)
                return
            for name, spool in found.items():
                write_shard(self.root, name, shard, zip(keys, spool, strict=True), self._headers[name])

    def _link(self, shard: int) -> None:
        """Enter the source's own tar as the shard of each modality."""
        target = self.layout.source.local_path(self.index.file_of(self.split, shard)).resolve()
        digest = files.sha256(target)
        for name in self.names:
            link_shard(self.root, name, shard, target, self._headers[name], sha256=digest)

    @cached_property
    def _converter(self) -> Converter:
        keep = frozenset(self.names) if self.index.extensions else frozenset()
        return Converter(self.layout, self.rules, self.names, keep)

    @cached_property
    def _headers(self) -> dict[str, dict[str, Any]]:
        return {name: self._header(name) for name in self.names}

    def _header(self, name: str) -> dict[str, Any]:
        header: dict[str, Any] = dict(HEADER)
        if self.index.extensions:
            header["extension"] = self.index.extensions[name]
            if (form := self.rules.forms.get(name, "")) and form != modalities.get(name).forms[0]:
                header["form"] = form
        classes = self.rules.classes.get(name, Classes())
        header |= {"classes": list(classes.names)} if classes.names else {}
        header |= {"palette": [list(color) for color in classes.palette]} if classes.palette else {}
        return header


class _Spool:
    """Files of any size, in order: in memory as long as they are few, then in ``file``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sizes = file, []

    def append(self, data: bytes | None) -> None:
        self._sizes.append(None if data is None else len(data))
        self._file.write(data or b"")

    def __iter__(self) -> Iterator[bytes | None]:
        self._file.seek(0)
        for size in self._sizes:
            yield None if size is None else self._file.read(size)


@dataclass(frozen=True, kw_only=True)
class Request:
    """An import of a ``source``, a local path or a URL, into the folder ``out``. ``layout``: its name, "" for the one
    that fits."""

    source: str
    out: Path
    layout: str = ""
    wanted: Wanted = Wanted()
    division: Division = Division()
    rules: Rules = Rules()


def prepare(request: Request) -> list[Import]:
    """The jobs of an import, one per split, below ``out/train``, ``out/validation`` and ``out/test``.

    Lists the source into ``out/import.sqlite``, unless an earlier call did, and reads a few samples. Raises
    :class:`Open4MError` for a source of no known layout, for files whose form is not said and has to be, and if none of
    the few samples of a modality can be used.
    """
    layout = layouts.find(Source(request.source), request.wanted, request.layout)
    if request.out.is_file():
        raise Open4MError(f"{request.out}: is a file; name a folder")
    inside = layout.source.local_path("")
    if inside is not None and inside.is_dir() and request.out.resolve().is_relative_to(inside.resolve()):
        raise Open4MError(
            f"{request.out}: is in the source {inside}, and would be imported itself; name another folder"
        )
    index = open_index(request.out / FILE, layout, request.division)
    logger.info("%s: read as the layout %s", request.source, layout.name)
    for hint in index.hints:
        logger.warning("%s: %s", request.source, hint)
    rules = replace(request.rules, classes={**layout.classes(), **request.rules.classes})
    rules = replace(rules, classes={n: c for n, c in rules.classes.items() if n in index.modalities})
    if unknown := sorted({*request.rules.forms, *request.rules.classes} - index.modalities.keys()):
        raise Open4MError(f"{request.source}: has no {', '.join(unknown)}; it has {', '.join(index.modalities)}")
    _probe(layout, index, rules)
    return [Import(layout, index, request.out / split, split, rules) for split in index.splits]


def _probe(layout: Layout, index: Index, rules: Rules) -> None:
    """Read a few samples. Raises :class:`Open4MError` for what is wrong with all of a modality's files."""
    for name in index.modalities:
        modality, converter, errors = modalities.get(name), Converter(layout, rules, (name,)), []
        found = index.some(name, PROBED)
        contents = []
        for places in found:
            try:
                if (content := layout.read(places, (name,))[name]) is None:
                    continue
                contents.append(content)
                converter.value(name, content)
            except Unreachable:
                raise
            except Open4MError as error:
                errors.append(error)
        if errors and len(errors) == len(found):
            say = f"; to name it: --form {name}={'|'.join(modality.forms)}"
            say *= len(modality.forms) > 1 and not modality.is_text and name not in rules.forms
            raise Open4MError(f"{layout.source.url}: none of the first files of {name} can be used: {errors[0]}{say}")
        if modality.forms_look_alike and name not in rules.forms and any(isinstance(c, bytes) for c in contents):
            raise Open4MError(
                f"{layout.source.url}: files of {name} do not say which form they are in: name it, "
                f"--form {name}={'|'.join(modality.forms)}"
            )


def report(jobs: Sequence[Import]) -> list[str]:
    """What became of an import, in lines: samples by split and modality, and what is not a sample. What
    was left out of the samples is the summary of the jobs' rejects."""
    index, lines = jobs[0].index, []
    for job in jobs:
        lines.append(_counts(job))
    if index.lone["count"]:
        like = f", but images are called like {index.lone['like']}" if index.lone.get("like") else ""
        lines.append(f"{index.lone['count']} labels without an image were left out; first {index.lone['first']}{like}")
    if index.ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in list(index.ignored.items())[:8])
        lines.append(f"not read: {kinds}")
    if index.extensions:
        lines.append(f"tars were linked, not copied: keep {jobs[0].layout.source.url} where it is")
    if len(jobs) == 1 and jobs[0].split == "train":
        lines.append(
            "no sample is for validation; trainings need some: import again with a larger share (--validation)"
        )
    return lines


def _counts(job: Import) -> str:
    data = RawDataset(job.root, job.names)
    parts = [f"{len(data) - data.missing(name)} {name}" for name in job.names]
    return f"{job.root}: {len(data)} samples: {', '.join(parts)}"
