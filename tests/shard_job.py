"""A job that writes six shards of captions, and what its folder holds when it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from open4m.data.jobs import Job
from open4m.store import RawDataset, verify, write_shard
from open4m.store.manifest import is_committed

SHARDS, ROWS = 6, 20


@dataclass(frozen=True)
class Write(Job):
    """Write captions, ``seconds`` per row."""

    root: Path
    seconds: float = 0.0
    description = "write"

    def shards(self):
        return range(SHARDS)

    def is_done(self, shard):
        return is_committed(self.root, "caption", shard)

    def run(self, shard):
        def items():
            for row in range(ROWS):
                time.sleep(self.seconds)
                yield f"s{shard}r{row}", f"row {row} of {shard}".encode()

        write_shard(self.root, "caption", shard, items())


def temporaries(root: Path) -> list[Path]:
    return list(root.glob("caption/.*.tmp"))


def assert_complete(root: Path) -> None:
    dataset = RawDataset(root, ["caption"])
    assert dataset.keys == [f"s{shard}r{row}" for shard in range(SHARDS) for row in range(ROWS)]
    assert verify(root, "caption") == SHARDS
    assert sorted(path.name for path in (root / "caption").iterdir()) == sorted(
        [".lock", "manifest.json", *(f"shard-{shard:05d}.tar" for shard in range(SHARDS))]
    )


def wait_until(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the job did not get there in time"
        time.sleep(0.005)
