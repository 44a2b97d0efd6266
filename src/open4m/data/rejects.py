"""Samples that a job could not use: written down beside the data, counted, and too many of them end the job.

``<root>/rejects/<job>/shard-00000.jsonl`` has one line per reject of a shard, in the order of the shard. It is written
before the shard is committed, and a shard that is written again replaces it: what is there describes what is committed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from open4m import files
from open4m.store.manifest import temporary
from open4m.types import Open4MError

FOLDER = "rejects"
DAMAGED = "the shard is damaged"
"""The reason of the one reject that stands for all samples of a shard whose own data cannot be read."""

LISTED_REASONS = 8
"""The most reasons that a summary lists."""


class TooManyRejects(Open4MError):
    """More samples cannot be used than the user allows."""


@dataclass(frozen=True)
class Reject:
    """One sample that a job left out.

    ``key`` names the sample, or where it came from. ``stage`` is what refused it, such as a modality; ``reason`` a few
    words that are the same for all samples of a kind, since they are counted by it; ``detail`` what was found.
    ``by_policy``: it was left out on purpose, such as a duplicate, and never ends a job. ``samples``: how many samples
    it stands for: all of a shard of which not one can be read; 0 if the sample stays, and only a file of it is not
    used.
    """

    key: str
    stage: str
    reason: str
    detail: str = ""
    by_policy: bool = False
    samples: int = 1

    def __str__(self) -> str:
        return f"{self.key}, {self.stage}: {self.reason}" + f" ({self.detail})" * bool(self.detail)


@dataclass(frozen=True)
class Rejects:
    """Where the job called ``job`` writes down what it left out, and how much that may be.

    ``samples`` is the number of samples of all its shards, ``allowed`` the share of them that may be unusable.
    """

    root: Path
    job: str
    samples: int
    allowed: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.allowed <= 1:
            raise Open4MError(f"{self.job}: the share of samples that may be rejected is 0 to 1, got {self.allowed}")

    @property
    def folder(self) -> Path:
        return self.root / FOLDER / self.job

    def of_shard(self, shard: int) -> ShardRejects:
        """An empty list for a shard that is about to be made."""
        return ShardRejects(self, shard)

    def path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.jsonl"

    def read(self, shard: int) -> list[Reject]:
        """What was left out of a committed shard. Raises :class:`Open4MError` for a damaged file."""
        path = self.path(shard)
        if not path.exists():
            return []
        try:
            lines = files.read_bytes(path).splitlines()
            return [Reject(**files.parse_json(line, str(path))) for line in lines]
        except TypeError as error:
            raise Open4MError(f"{path}: not a list of rejects ({error}); delete it, it only reports") from error

    def check(self, count: int, first: Reject) -> None:
        """Raise :class:`TooManyRejects`, which names the first, if the job may not lose ``count`` samples."""
        if count > self.allowed * self.samples:
            raise TooManyRejects(
                f"{self.root}: {self.job}: {count} of {self.samples} samples cannot be used, at most "
                f"{self.allowed:.2%} may be rejected; the first: {first}; repair or remove them, or allow "
                "more (--allow-rejects)"
            )

    def summary(self, shards: Iterable[int]) -> list[str]:
        """Lines for the user: how many samples of these shards were left out, and by reason the number and the first.
        Empty if none was."""
        kinds: dict[tuple[str, str], list[Reject]] = defaultdict(list)
        for shard in shards:
            for reject in self.read(shard):
                kinds[reject.stage, reject.reason].append(reject)
        if not kinds:
            return []
        counts = {kind: sum(max(reject.samples, 1) for reject in found) for kind, found in kinds.items()}
        rejects = [reject for found in kinds.values() for reject in found]
        lost, unused = sum(reject.samples for reject in rejects), sum(not reject.samples for reject in rejects)
        what = f"{lost} of {self.samples} samples were left out" + f", and {unused} files of others" * (unused > 0)
        lines = [f"{self.job}: {what} (all in {self.folder}):"]
        ordered = sorted(kinds, key=lambda kind: (-counts[kind], kind))
        lines += [f"  {counts[kind]:>6} {kind[0]}: {kind[1]}; first {kinds[kind][0].key}" for kind in ordered]
        if len(ordered) > LISTED_REASONS:
            lines[1 + LISTED_REASONS :] = [f"  and {len(ordered) - LISTED_REASONS} more reasons"]
        return lines


class ShardRejects:
    """The rejects of one shard while it is made.

    >>> rejects = job.rejects.of_shard(shard)
    >>> rejects.add(key, "rgb", "not readable", str(error))
    >>> rejects.commit()  # before the shard is
    """

    def __init__(self, log: Rejects, shard: int) -> None:
        self._log, self._shard = log, shard
        self._found: list[Reject] = []
        self._faults, self._first = 0, None

    def __len__(self) -> int:
        return len(self._found)

    def add(
        self, key: str, stage: str, reason: str, detail: str = "", *, by_policy: bool = False, samples: int = 1
    ) -> None:
        """Leave a sample out, see :class:`Reject`. Raises :class:`TooManyRejects` if this shard alone has more than
        the whole job may have."""
        reject = Reject(key, stage, reason, detail, by_policy, samples)
        self._found.append(reject)
        if not by_policy:
            self._first = self._first or reject
            self._faults += samples
            self._log.check(self._faults, self._first)

    def commit(self) -> None:
        """Write the list in place of the one of an earlier attempt; no file where nothing was left out."""
        folder, path = self._log.folder, self._log.path(self._shard)
        if not self._found:
            path.unlink(missing_ok=True)
            return
        files.make_folder(folder)
        lines = [json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in self._found]
        with temporary(path) as unfinished:
            unfinished.write_text("".join(lines), encoding="utf-8", errors="replace")
            files.sync_file(unfinished)
            files.rename(unfinished, path)
