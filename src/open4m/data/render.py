"""Writing a generated data set as raw shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from open4m import modalities
from open4m.data.jobs.local import JobCounts, run_shards
from open4m.data.label import batches
from open4m.store.manifest import committed
from open4m.store.shards import write_shard
from open4m.types import Value


class Generated(Protocol):
    """A data set that makes samples of given indices."""

    def samples(self, indices: Sequence[int]) -> list[dict[str, Value]]:
        """Samples with values of the same modalities each."""


@dataclass(frozen=True)
class _Render:
    dataset: Generated
    root: Path
    names: tuple[str, ...]
    count: int
    shard_rows: int

    def __call__(self, shard: int) -> None:
        indices = range(shard * self.shard_rows, min(self.count, (shard + 1) * self.shard_rows))
        files: dict[str, list[tuple[str, bytes]]] = {name: [] for name in self.names}
        for batch in batches(indices):
            for i, sample in zip(batch, self.dataset.samples(batch), strict=True):
                for name in self.names:
                    files[name].append((f"{i:08d}", modalities.get(name).write(sample[name])))
        for name, items in files.items():
            write_shard(self.root, name, shard, items)


def render(
    dataset: Generated, root: Path, names: Sequence[str], count: int, *, shard_rows: int = 500, processes: int = 1
) -> JobCounts:
    """Write the first ``count`` samples of a generated data set as raw shards."""
    work = _Render(dataset, root, tuple(names), count, shard_rows)
    return run_shards(
        range(-(-count // shard_rows)),
        work,
        done=lambda s: all(s in committed(root, n) for n in names),
        processes=processes,
        description=f"render {root.name}",
    )
