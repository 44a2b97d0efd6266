"""How a model generates best: options by task, chosen by measurement and stored in the model directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open4m import checksums
from open4m import config as configs

FILE = "plans.json"
"""The file of a model directory."""

FORMAT = 2
"""The version of its format. In format 1, which is read, ``merged`` was a number of generations by ``tasks``."""

ARROW = " → "
"""Between the modalities of a task's name."""

Options = dict[str, dict[str, Any]]
"""Options of generation by target."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Several generations that are merged into one value, and the options of each."""

    samples: int
    options: Options


@dataclass(frozen=True, kw_only=True)
class Plans:
    """Options of generation by task and target.

    ``tasks``: ``{"caption → clip → rgb": {"clip": {"scheme": "roar"}, "rgb": {"steps": 16}}, ...}``: what is given,
    then the targets in order. ``merged``: by task, how several generations are made of which the consensus is better
    than any one. ``about``: how they were chosen, for people.
    """

    tasks: dict[str, Options] = field(default_factory=dict)
    merged: dict[str, Merged] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, path: Sequence[str]) -> Options | None:
        """The options by target for a task, such as ``("rgb", "depth")``; None if there are none."""
        return self.tasks.get(ARROW.join(path))

    def merged_of(self, path: Sequence[str]) -> Merged | None:
        """How several generations of a task are made that are merged; None if one is as good."""
        return self.merged.get(ARROW.join(path))

    def for_(self, targets: Sequence[str]) -> Plans:
        """Those that say something of one of the targets."""
        tasks = {task: own for task, own in self.tasks.items() if own.keys() & {*targets}}
        return Plans(tasks=tasks, merged={t: m for t, m in self.merged.items() if m.options.keys() & {*targets}})

    @staticmethod
    def load(folder: Path) -> Plans:
        """Those of a model directory: none if it has no such file. Raises :class:`~open4m.types.Open4MError` if it is
        damaged or newer than this program."""
        path = folder / FILE
        if not path.exists():
            return Plans()
        checksums.check(folder, FILE)
        found = configs.load(_Stored, path, FORMAT)
        several = {task: m for task, m in found.merged.items() if isinstance(m, Merged)}
        old = {task: m for task, m in found.merged.items() if task not in several and task in found.tasks}
        several |= {task: Merged(samples=count, options=found.tasks[task]) for task, count in old.items()}
        tasks = {task: options for task, options in found.tasks.items() if task not in old}
        return Plans(tasks=tasks, merged=several, about=found.about)

    def save(self, folder: Path) -> None:
        """Write the file of a model directory, if there is anything to write."""
        if self.tasks or self.merged:
            configs.save(self, folder / FILE, FORMAT)
            checksums.seal(folder, [FILE])


@dataclass(frozen=True, kw_only=True)
class _Stored:
    tasks: dict[str, Options] = field(default_factory=dict)
    merged: dict[str, Merged | int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
