"""How a model generates best: options by task, chosen by measurement and stored in the model directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open4m import config as configs

FILE = "plans.json"
"""The file of a model directory."""

FORMAT = 1
"""The version of its format."""

ARROW = " → "
"""Between the modalities of a task's name."""


@dataclass(frozen=True, kw_only=True)
class Plans:
    """Options of generation by task and target.

    ``tasks``: ``{"caption → clip → rgb": {"clip": {"scheme": "roar"}, "rgb": {"steps": 16}}, ...}``: what is given,
    then the targets in order. ``merged``: by task, of how many generations evaluation takes the consensus, if of more
    than one. ``about``: how they were chosen, for people.
    """

    tasks: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    merged: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, path: Sequence[str]) -> dict[str, dict[str, Any]] | None:
        """The options by target for a task, such as ``("rgb", "depth")``; None if there are none."""
        return self.tasks.get(ARROW.join(path))

    def merged_of(self, path: Sequence[str]) -> int:
        """Of how many generations evaluation takes the consensus."""
        return self.merged.get(ARROW.join(path), 1)

    @staticmethod
    def load(folder: Path) -> Plans:
        """Those of a model directory: none if it has no such file. Raises :class:`~open4m.types.Open4MError` if it is
        damaged or newer than this program."""
        path = folder / FILE
        return configs.load(Plans, path, FORMAT) if path.exists() else Plans()

    def save(self, folder: Path) -> None:
        """Write the file of a model directory, if there is anything to write."""
        if self.tasks:
            configs.save(self, folder / FILE, FORMAT)
