"""The index of an import: which samples a source has, their keys and splits, and which shard each is in.

It is one SQLite file, ``<out>/import.sqlite``, so that memory stays flat for any number of samples. Layouts list the
parts of samples in any order; here they find each other by name. The same source and settings make the same index, so
that any process may write any shard.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from open4m import files, modalities
from open4m.datasets.layouts.base import SPLITS, Layout, Link, Part, key_of, photo, share_of
from open4m.datasets.source import Unreachable
from open4m.progress import Progress, track
from open4m.store import manifest
from open4m.store.manifest import check_key
from open4m.types import Open4MError

FILE = "import.sqlite"
FORMAT = 1
TRAIN, VALIDATION = "train", "validation"

SCHEMA = """
create table parts(sample blob, modality text, number integer, place text, size integer, split text, arrival integer,
                   primary key (sample, modality, number)) without rowid;
create table samples(sample blob primary key, key text unique, split text, rank integer, file text, size integer,
                     copy_of text) without rowid;
create table digests(sample blob primary key, digest blob) without rowid;
create table clashes(sample blob, modality text, place text);
create table facts(name text primary key, value text) without rowid;
"""

PLAN = """
create table plan as
  select sample, key, copy_of, split, rank,
         (case when :linked then dense_rank() over (partition by split order by file)
               else (row_number() over (partition by split order by rank, key) - 1) / :rows + 1 end) - 1 as shard
  from (select * from samples order by rank, key limit :limit);
create index by_shard on plan(split, shard, rank, key);
create index by_clash on clashes(sample);
"""

DISORDER = """
select 1 from (select sample, row_number() over (partition by modality order by arrival) as place
               from parts where number = 0)
group by sample having min(place) != max(place) limit 1
"""
"""Whether the modalities' members follow each other in different orders: raw shards have the same rows in each."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """How samples become shards.

    ``modalities``: the ones to take, all if empty. ``split``: ``"own"``, the layout's, where it has any; ``"hash"``: by
    the hash of the key alone. ``validation``: the share of samples without a split that are for validation; a layout
    with a validation split of its own keeps that. ``duplicates``: ``"skip"`` images of the same bytes, of which one is
    taken, or ``"keep"`` them. ``in_place``: link tars that are what raw shards are, instead of copying them. ``limit``:
    at most so many samples, 0 for all.
    """

    modalities: tuple[str, ...] = ()
    split: str = "own"
    validation: float = 0.05
    duplicates: str = "skip"
    shard_rows: int = 1000
    in_place: bool = True
    limit: int = 0

    def __post_init__(self) -> None:
        for modality in self.modalities:
            modalities.get(modality)
        for name, allowed in (("split", ("own", "hash")), ("duplicates", ("skip", "keep"))):
            if getattr(self, name) not in allowed:
                raise Open4MError(f"{name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if not 0 <= self.validation < 1:
            raise Open4MError(f"validation: expected a share from 0 up to 1, got {self.validation}")
        if self.shard_rows < 1 or self.limit < 0:
            raise Open4MError(
                f"expected shards of 1 or more rows and a limit from 0, got {self.shard_rows}, {self.limit}"
            )


class Row(NamedTuple):
    """A sample in its shard. ``copy_of``: the key of the sample that has the same image, "" for none; ``clashes``: the
    modality and the place of further files of the sample's name, which are not used."""

    key: str
    places: Mapping[str, list[Any]]
    copy_of: str
    clashes: list[tuple[str, str]]


@dataclass(frozen=True)
class Index:
    """An index that was built; each process opens it for itself."""

    path: Path

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self._connection.execute("select * from facts")}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the index was made from."""
        return self._facts["settings"]

    @property
    def modalities(self) -> dict[str, int]:
        """How many samples have each modality."""
        return self._facts["modalities"]

    @property
    def main(self) -> str:
        """The modality that every sample has: that of images, if there are any."""
        return self._facts["main"]

    @property
    def extensions(self) -> Mapping[str, str]:
        """The endings of members by modality where shards are links to the source's tars; else empty."""
        return self._facts["extensions"]

    @property
    def lone(self) -> Mapping[str, Any]:
        """How many samples have no image, and the first of them."""
        return self._facts["lone"]

    @property
    def ignored(self) -> Mapping[str, int]:
        """How many files were passed over, by ending."""
        return self._facts["ignored"]

    @property
    def hints(self) -> Sequence[str]:
        """What the layout found and is not sure of. None in an index of an earlier version."""
        return self._facts.get("hints", ())

    @property
    def splits(self) -> dict[str, tuple[int, int]]:
        """The number of samples and of shards by split."""
        rows = self._connection.execute("select split, count(*), max(shard) + 1 from plan group by split")
        found = {split: (samples, shards) for split, samples, shards in rows}
        return {split: found[split] for split in SPLITS if split in found}

    def rows(self, split: str, shard: int) -> Iterator[Row]:
        """The samples of a shard, in order."""
        query = (
            "select p.key, p.copy_of, p.sample, q.modality, q.place from plan p join parts q on p.sample = q.sample "
            "where p.split = ? and p.shard = ? order by p.rank, p.key, q.modality, q.number"
        )
        found = self._connection.execute(query, (split, shard))
        for (key, copy_of, sample), group in itertools.groupby(found, lambda row: row[:3]):
            places = defaultdict(list)
            for *_, modality, place in group:
                places[modality].append(json.loads(place))
            clashes = self._connection.execute("select modality, place from clashes where sample = ?", (sample,))
            yield Row(key, dict(places), copy_of or "", clashes.fetchall())

    def file_of(self, split: str, shard: int) -> str:
        """The tar that a shard is, where shards are links."""
        query = (
            "select s.file from plan p join samples s on p.sample = s.sample where p.split = ? and p.shard = ? limit 1"
        )
        return self._connection.execute(query, (split, shard)).fetchone()[0]

    def some(self, modality: str, count: int) -> list[Mapping[str, list[Any]]]:
        """The places of a few samples that have a modality."""
        found = []
        for split, (_, shards) in self.splits.items():
            for shard in range(shards):
                rows = (row.places for row in self.rows(split, shard) if modality in row.places)
                found += itertools.islice(rows, count - len(found))
                if len(found) == count:
                    return found
        return found

    @cached_property
    def _connection(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            version = connection.execute("pragma user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise Open4MError(f"{self.path}: not a readable index ({error}); delete it to import again") from error
        if version != FORMAT:
            raise Open4MError(
                f"{self.path}: has format {version}, this open4m reads {FORMAT}: delete it to import again"
            )
        return connection


def open_index(path: Path, layout: Layout, division: Division) -> Index:
    """The index at ``path``: that of an earlier call with the same settings, or a new one.

    Raises :class:`Open4MError` if shards were written by one of other settings, and for a source in which nothing is
    found.
    """
    settings = {
        "layout": layout.name,
        "source": layout.source.url,
        "where": dict(layout.wanted.where),
        "captions": layout.wanted.captions,
        **asdict(division),
    }
    settings = json.loads(json.dumps(settings))
    unused = path.exists() and not any(path.parent.glob(f"*/*/{manifest.FILE}"))
    if not path.exists() or (unused and Index(path).settings != settings):
        files.make_folder(path.parent)
        files.write_file(path, lambda temporary: _Builder(temporary, layout, division).build(settings))
    index = Index(path)
    old = index.settings
    if changed := [name for name in settings if settings[name] != old.get(name)]:
        raise Open4MError(
            f"{path.parent}: was imported with other settings: "
            + ", ".join(f"{name} (then {old.get(name)!r}, now {settings[name]!r})" for name in changed)
            + "; import into another folder, or delete this one to start over"
        )
    return index


class _Builder:
    """Makes an index at a path that is not there yet."""

    def __init__(self, path: Path, layout: Layout, division: Division) -> None:
        self._path, self._layout, self._division = path, layout, division
        self._validation: set[str] = set()  # tars, where whole ones are linked

    def build(self, settings: Mapping[str, Any]) -> None:
        with closing(sqlite3.connect(self._path)) as self._db:
            self._db.executescript("pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -32768;")
            self._db.executescript(f"pragma user_version = {FORMAT};" + SCHEMA)
            self._list()
            counts = dict(self._db.execute("select modality, count(distinct sample) from parts group by modality"))
            main = photo().name if photo().name in counts else next(iter(counts), "")
            if not main:
                kinds = ", ".join(f"{n} {kind}" for kind, n in list(self._ignored().items())[:8])
                raise Open4MError(f"{self._layout.source.url}: no images or labels found (files: {kinds or 'none'})")
            self._main = main
            extensions = self._links() if self._division.in_place else {}
            lone = self._assign(bool(extensions))
            if self._division.duplicates == "skip":
                self._find_copies()
            rows = {"linked": bool(extensions), "rows": self._division.shard_rows, "limit": self._division.limit or -1}
            plan, *indices = PLAN.strip().split(";\n")
            self._db.execute(plan, rows)
            for statement in indices:
                self._db.execute(statement)
            query = "select modality, count(distinct sample) from plan join parts using (sample) group by modality"
            facts = {
                "settings": settings,
                "main": main,
                "modalities": dict(self._db.execute(query)),
                "extensions": extensions,
                "lone": lone,
                "ignored": self._ignored(),
                "hints": list(self._layout.hints()),
            }
            self._db.executemany("insert into facts values (?, ?)", [(n, json.dumps(v)) for n, v in facts.items()])
            self._db.commit()

    def _list(self) -> None:
        wanted = self._division.modalities
        with Progress(f"list {self._layout.source.url}", unit="images and labels") as progress:
            for arrival, part in enumerate(self._layout.parts()):
                progress.advance()
                if not wanted or part.modality in wanted:
                    self._add(part, arrival)
        if missing := [
            n for n in wanted if not self._db.execute("select 1 from parts where modality = ?", (n,)).fetchone()
        ]:
            raise Open4MError(f"{self._layout.source.url}: has no {', '.join(missing)}, as far as its layout tells")

    def _add(self, part: Part, arrival: int) -> None:
        row = (_bytes(part.sample), part.modality, part.order, json.dumps(part.place), part.size, part.split, arrival)
        if self._db.execute("insert or ignore into parts values (?, ?, ?, ?, ?, ?, ?)", row).rowcount:
            return
        old = self._db.execute(
            "select * from parts where sample = ? and modality = ? and number = ?", row[:3]
        ).fetchone()
        first, second = sorted([old, row], key=lambda each: each[3])  # whatever the order of listing
        self._db.execute("replace into parts values (?, ?, ?, ?, ?, ?, ?)", first)
        self._db.execute("insert into clashes values (?, ?, ?)", (second[0], second[1], second[3]))

    def _ignored(self) -> dict[str, int]:
        """The most frequent first."""
        return dict(sorted(self._layout.ignored().items(), key=lambda item: (-item[1], item[0])))

    def _samples(self) -> Iterator[tuple[bytes, dict[str, list[Any]], list[tuple]]]:
        """Name, places by modality, and parts of each sample."""
        found = self._db.execute("select * from parts order by sample, modality, number")
        for sample, group in itertools.groupby(found, lambda row: row[0]):
            parts, places = list(group), defaultdict(list)
            for part in parts:
                places[part[1]].append(json.loads(part[3]))
            yield sample, dict(places), parts

    def _links(self) -> dict[str, str]:
        """The endings of members by modality, if all tars of the source can be raw shards as they are."""
        if self._layout.source.local_path("") is None:
            return {}
        endings, keys, counts = {}, sqlite3.connect(""), Counter()
        keys.execute("create table keys(key text primary key) without rowid")
        with closing(keys):
            for sample, places, _ in self._samples():
                link = self._layout.link(places, _text(sample))
                if link is None:
                    return {}
                endings = endings or dict(link.endings)
                try:
                    check_key(link.key, (), "")
                except Open4MError:
                    return {}
                new = keys.execute("insert or ignore into keys values (?)", (link.key,)).rowcount
                if not new or dict(link.endings) != endings:
                    return {}
                counts[link.file] += 1
        has_own = self._db.execute("select 1 from parts where split != '' limit 1").fetchone()
        few = not has_own and 0 < self._division.validation < 0.5 / max(len(counts), 1)
        mixed = self._division.split == "hash" or self._db.execute("select 1 from clashes").fetchone()
        if few or mixed or self._division.limit or self._db.execute(DISORDER).fetchone():
            return {}
        first = min(counts, key=lambda file: share_of(f"split:{file}"))
        self._validation = {f for f in counts if f == first or share_of(f"split:{f}") < self._division.validation}
        return endings

    def _assign(self, linked: bool) -> dict[str, Any]:
        """Give each sample its key, its split and its place in the order. Returns how many have no image."""
        query, by_hash = "select 1 from parts where split = ? limit 1", self._division.split == "hash"
        has_validation = not by_hash and self._db.execute(query, (VALIDATION,)).fetchone() is not None
        lone, first, like = 0, "", ""
        for sample, places, parts in self._samples():
            name = _text(sample)
            if self._main not in places:
                lone, first = lone + 1, first or name
                continue
            like = like or name
            link: Link | None = self._layout.link(places, name) if linked else None
            key = link.key if link else key_of(name)
            split = "" if by_hash else max(part[5] for part in parts)
            if split in ("", TRAIN) and not has_validation:
                chosen = link.file in self._validation if link else share_of(f"split:{key}") < self._division.validation
                split = VALIDATION if chosen and self._division.validation else TRAIN
            rank = min(part[6] for part in parts) if self._layout.packed else int(share_of(f"order:{key}") * (1 << 62))
            size = next(part[4] for part in parts if part[1] == self._main)
            row = (sample, key, split or TRAIN, rank, link.file if link else "", size)
            if not self._db.execute("insert or ignore into samples values (?, ?, ?, ?, ?, ?, null)", row).rowcount:
                other = self._db.execute("select sample from samples where key = ?", (key,)).fetchone()[0]
                self._db.execute("insert into clashes values (?, ?, ?)", (other, self._main, json.dumps(name)))
        return {"count": lone, "first": first, "like": like}

    def _find_copies(self) -> None:
        """Mark samples whose image has the bytes of another one's. Only files of one size are compared."""
        alike = (
            "from samples where size is null or size in (select size from samples group by size having count(*) > 1)"
        )
        total = self._db.execute(f"select count(*) {alike}").fetchone()[0]
        names = self._db.execute(f"select sample {alike} order by rank")
        for (sample,) in track(names, "compare images", total, unit="images"):
            places = defaultdict(list)
            query = "select modality, place from parts where sample = ? order by modality, number"
            for modality, place in self._db.execute(query, (sample,)):
                places[modality].append(json.loads(place))
            try:
                content = self._layout.read(places, [self._main])[self._main]
            except Unreachable:
                raise
            except Open4MError:
                continue  # it is found to be broken when it is imported
            if isinstance(content, bytes):
                row = (sample, hashlib.sha256(content).digest())
                self._db.execute("insert into digests values (?, ?)", row)
        # Of copies in several splits the one for training goes, so that no test image was trained on.
        ordered = "row_number() over (partition by digest order by split = 'train', key)"
        first = "first_value(key) over (partition by digest order by split = 'train', key)"
        numbered = f"select sample, {first} as kept, {ordered} as number from digests join samples using (sample)"
        self._db.execute(f"create table copies as select sample, kept from ({numbered}) where number > 1")
        self._db.execute("update samples set copy_of = copies.kept from copies where copies.sample = samples.sample")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")  # file names need not be Unicode


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")
