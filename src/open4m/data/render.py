"""Writing a generated data set as raw shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from open4m import modalities
from open4m.data.jobs import Job, batches
from open4m.data.links import Link
from open4m.progress import within
from open4m.store.manifest import folder_of, is_committed
from open4m.store.shards import write_shard
from open4m.types import Value


class Generated(Protocol):
    """A data set that makes samples of given indices. It has to be picklable if several processes render it."""

    def samples(self, indices: Sequence[int]) -> list[dict[str, Value]]:
        """One sample per index, with values of the same modalities each."""


@dataclass(frozen=True)
class Render(Job):
    """Write ``modalities`` of the first ``samples`` samples of a generated data set below ``root``."""

    dataset: Generated
    root: Path
    modalities: Sequence[str]
    samples: int
    shard_rows: int = 500

    @property
    def description(self) -> str:
        return f"render {self.root.name}"

    def shards(self) -> range:
        return range(-(-self.samples // self.shard_rows))

    def is_done(self, shard: int) -> bool:
        return all(is_committed(self.root, name, shard) for name in self.modalities)

    @property
    def folders(self) -> list[Path]:
        return [folder_of(self.root, name) for name in self.modalities]

    @property
    def links(self) -> list[Link]:
        return [Link(self.root, name) for name in self.modalities]

    def run(self, shard: int) -> None:
        known = {name: modalities.get(name) for name in self.modalities}
        files: dict[str, list[tuple[str, bytes]]] = {name: [] for name in known}
        first = shard * self.shard_rows
        for batch in within(batches(range(first, min(self.samples, first + self.shard_rows))), "samples"):
            for i, sample in zip(batch, self.dataset.samples(batch), strict=True):
                for name, modality in known.items():
                    files[name].append((f"{i:08d}", modality.write(sample[name])))
        for name, items in files.items():
            write_shard(self.root, name, shard, items)
