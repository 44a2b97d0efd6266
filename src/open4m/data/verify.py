"""``open4m data verify``: whether a store of raw data or tokens is what it was when it was written.

Five checks, each over all shards of all modalities: the checksums of files; the alignment of modalities by key; the
rows against the digests that jobs recorded (:mod:`open4m.data.links`), which finds two exchanged rows of any number;
the values themselves, which must decode, lie in the vocabulary and show one picture per sample; and statistics of each
shard against those of the first ones, which finds labels that went wrong on the way.

It does not know what a label should be: a network that was wrong from the first shard on is found by looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

import numpy as np

from open4m import files, modalities
from open4m.data.links import Link, rows
from open4m.data.statistics import Drift, measures, token_measures
from open4m.progress import Progress
from open4m.store.manifest import FILE, Manifest, ShardEntry, folder_of, keys_digest
from open4m.store.shards import HEADER, RawDataset
from open4m.store.tokens import TokenStore
from open4m.types import Open4MError

CHECKS = ("checksums", "alignment", "rows", "values", "statistics")
LISTED = 10
"""The most findings of a check that are printed; the rest is counted."""

BATCH_ROWS = 1024


@dataclass
class Report:
    """What was checked of one store, and what was found: by check, lines that name modality, shard and key."""

    root: Path
    samples: int = 0
    shards: int = 0
    modalities: tuple[str, ...] = ()
    findings: dict[str, list[str]] = field(default_factory=lambda: {check: [] for check in CHECKS})
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not any(self.findings.values())

    def lines(self) -> Iterator[str]:
        """The report as text."""
        yield (
            f"{self.root}: {self.samples} samples in {self.shards} shards of {len(self.modalities)} modalities "
            f"({', '.join(self.modalities)})"
        )
        for check, found in self.findings.items():
            yield f"  {check:10} {f'{len(found)} findings' if found else 'ok'}"
            yield from (f"    {line}" for line in found[:LISTED])
            if len(found) > LISTED:
                yield f"    and {len(found) - LISTED} more"
        yield from (f"  note: {note}" for note in self.notes)


def verify(root: Path, raw: Path | None = None, every: int = 1) -> Report:
    """Check the store below ``root``.

    ``raw``: of tokens, the raw data that they were made from, to compare with what the rows were made from. ``every``:
    decode the values of every so many samples only, which takes most of the time for raw data; all other checks are of
    everything. Raises :class:`Open4MError` if there is no store.
    """
    if every < 1:
        raise Open4MError(f"expected to read every sample, or every so many, got every {every}")
    names = sorted(path.parent.name for path in root.glob(f"*/{FILE}"))
    if not names:
        raise Open4MError(f"{root}: no store (expected MODALITY/{FILE}); name one data set")
    report, manifests = Report(root, modalities=tuple(names)), {}
    for name in sorted({path.parent.name for path in root.glob("*/shard-*")} - {*names}):
        report.findings["checksums"].append(f"{name}: holds shards, but no {FILE}: restore it, or make {name} again")
    for name in names:
        try:
            manifests[name] = Manifest.read(folder_of(root, name))
        except Open4MError as error:
            report.findings["checksums"].append(str(error))
    entries = [(name, shard, entry) for name, m in manifests.items() for shard, entry in m.shards.items()]
    report.shards = len({shard for _, shard, _ in entries})
    with Progress(f"verify {root.name}", 2 * len(entries), unit="files") as progress:
        intact = []
        for name, shard, entry in entries:
            if _is_intact(root, name, shard, entry, report):
                intact.append((name, shard))
            progress.advance()
        _check_alignment(root, manifests, report)
        for group in _groups(manifests, report):
            report.samples = max(report.samples, sum(e.rows for e in manifests[group[0]].shards.values()))
            _check_values(root, group, set(intact), report, every)
        for name, shard in intact:
            _check_rows(root, name, shard, raw, report)
            progress.advance()
    if unsealed := sorted({name for name, shard in intact if not Link(root, name).is_recorded(shard)}):
        report.notes.append(
            f"no digests of rows of {', '.join(unsealed)}: rows that were exchanged together with their checksums "
            "cannot be found; --seal records the digests of what is there now"
        )
    return report


def seal(root: Path) -> int:
    """Record the digests of all rows that have none, as the jobs of open4m do; the number of shards."""
    count = 0
    for name in sorted(path.parent.name for path in root.glob(f"*/{FILE}")):
        for shard in Manifest.read(folder_of(root, name)).shards:
            if not Link(root, name).is_recorded(shard):
                Link(root, name).record(shard)
                count += 1
    return count


def stores(root: Path) -> list[Path]:
    """The stores at a path: itself, or the splits in it. Raises :class:`Open4MError` if there is none."""
    if any(root.glob(f"*/{FILE}")):
        return [root]
    if found := sorted({path.parent.parent for path in root.glob(f"*/*/{FILE}")}):
        return found
    raise Open4MError(f"{root}: no store of raw data or tokens (expected MODALITY/{FILE} in it)")


def _is_intact(root: Path, name: str, shard: int, entry: ShardEntry, report: Report) -> bool:
    """Whether a shard's file has its checksum, its structure and its keys."""
    where = f"{name} shard {shard}"
    try:
        digest = files.sha256(folder_of(root, name) / entry.file)
        if digest != entry.sha256:
            report.findings["checksums"].append(
                f"{where}: expected sha256 {entry.sha256[:12]}…, got {digest[:12]}…; restore it or write it again"
            )
        keys = [row.key for row in rows(root, name, shard)]
        if keys_digest(keys) != entry.keys_sha256:
            report.findings["checksums"].append(f"{where}: its keys are not those of {FILE}; write it again")
            return False
    except OSError as error:
        report.findings["checksums"].append(f"{where}: {entry.file}: {error.strerror}")
        return False
    except Open4MError as error:
        report.findings["checksums"].append(f"{where}: {error}")
        return False
    return True


def _check_alignment(root: Path, manifests: Mapping[str, Manifest], report: Report) -> None:
    """Compare all modalities with the one that has the most shards."""
    if not manifests:
        return
    first = max(manifests, key=lambda name: len(manifests[name].shards))
    reference = manifests[first].shards
    for name, manifest in manifests.items():
        lone = sorted(reference.keys() ^ manifest.shards.keys())
        for shard in lone:
            has, lacks = (first, name) if shard in reference else (name, first)
            report.findings["alignment"].append(f"shard {shard} is in {has}, not in {lacks}")
        for shard in sorted(reference.keys() & manifest.shards.keys()):
            if manifest.shards[shard].keys_sha256 == reference[shard].keys_sha256:
                continue
            try:
                pairs = zip_longest(*([row.key for row in rows(root, n, shard)] for n in (first, name)))
                row, (a, b) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
                detail = f"row {row} is key {a!r} in {first} and {b!r} in {name}"
            except (Open4MError, StopIteration):
                detail = f"the manifests of {first} and {name} say so"
            report.findings["alignment"].append(f"shard {shard}: {detail}")


def _groups(manifests: Mapping[str, Manifest], report: Report) -> list[tuple[str, ...]]:
    """Modalities that can be read together: raw data if they are aligned, since a sample's maps show one picture."""
    raw = tuple(name for name, manifest in manifests.items() if manifest.header.get("kind") == HEADER["kind"])
    alone = [(name,) for name in manifests if name not in raw]
    if report.findings["alignment"]:
        return [*((name,) for name in raw), *alone]
    return [*([raw] if raw else []), *alone]


def _check_values(root: Path, names: Sequence[str], intact: set[tuple[str, int]], report: Report, every: int) -> None:
    """Decode the values of modalities, and compare the statistics of each shard with the first ones'."""
    try:
        is_raw = Manifest.read(folder_of(root, names[0])).header.get("kind") == HEADER["kind"]
        store = RawDataset(root, names) if is_raw else TokenStore(root, names)
    except Open4MError as error:
        report.findings["values"].append(str(error))
        return
    drift = Drift()
    for shard, places in store.shards.items():
        if not all((name, shard) in intact for name in names):
            continue
        found = (
            _raw_values(store, places[::every], report) if is_raw else _token_values(store, names[0], places, report)
        )
        for name, measured in found:
            drift.add(name, shard, measured)
    report.findings["statistics"] += drift.findings()


def _raw_values(data: RawDataset, places: Iterable[int], report: Report) -> Iterator[tuple[str, dict[str, float]]]:
    for i in places:
        try:
            sample = data[i]
        except Open4MError as error:
            report.findings["values"].append(str(error))
            continue
        for name, value in sample.items():
            yield name, measures(value, modalities.get(name).valid(value) if isinstance(value, np.ndarray) else None)


def _token_values(
    store: TokenStore, name: str, places: range, report: Report
) -> Iterator[tuple[str, dict[str, float]]]:
    kind = store.header(name).kind
    for first in range(0, len(places), BATCH_ROWS):
        batch = np.array(places[first : first + BATCH_ROWS])
        present = store.present(name, batch)
        try:
            values, lengths = store.read(name, kind, batch)
        except Open4MError as error:
            report.findings["values"].append(str(error))
            continue
        for row, value in enumerate(values):
            if present is None or present[row]:
                yield name, token_measures(value if lengths is None else value[: lengths[row]])


def _check_rows(root: Path, name: str, shard: int, raw: Path | None, report: Report) -> None:
    link = Link(root, name)
    if not link.is_recorded(shard):
        return
    kind = Manifest.read(folder_of(root, name)).header.get("kind")
    try:
        wrong = link.differences(shard, root if kind == HEADER["kind"] else raw)
    except (Open4MError, KeyError) as error:
        report.findings["rows"].append(f"{name} shard {shard}: {error}")
        return
    report.findings["rows"] += [f"{name} shard {shard}: key {key}: {what}" for key, what in wrong]
