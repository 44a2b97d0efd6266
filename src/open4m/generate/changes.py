"""Changes of what an image shows, as data: those of an edit, and what a probe runs through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from open4m import config as configs
from open4m.generate import values, verbs
from open4m.types import Open4MError, Value

if TYPE_CHECKING:
    from open4m.fourm import FourMBase

Corners = tuple[float, float, float, float]

Names = Callable[[], Sequence[str]]
"""Gives the class names of a map, which only the model's tokenizer knows."""


# ---- of an edit


@dataclass(frozen=True)
class Move:
    """The box of a label, at other corners."""

    role: ClassVar[str] = "objects"  # of the modality that is changed unless another one is named
    move: str
    to: Corners

    def apply(self, value: Value, names: Names) -> Value:
        return verbs.move(value, self.move, self.to)


@dataclass(frozen=True)
class Rename:
    """The box of a label, of another class."""

    role: ClassVar[str] = "objects"
    rename: str
    to: str

    def apply(self, value: Value, names: Names) -> Value:
        return verbs.rename(value, self.rename, self.to)


@dataclass(frozen=True)
class Delete:
    """The boxes without that of a label."""

    role: ClassVar[str] = "objects"
    delete: str

    def apply(self, value: Value, names: Names) -> Value:
        return verbs.delete(value, self.delete)


@dataclass(frozen=True)
class Swap:
    """A map with another class in place of one."""

    role: ClassVar[str] = "classes"
    swap: str
    to: str

    def apply(self, value: Value, names: Names) -> Value:
        return verbs.swap(value, self.swap, self.to, names())


Change = Move | Rename | Delete | Swap


# ---- of a probe


@dataclass(frozen=True, eq=False)
class Values:
    """One value of a modality after another."""

    role: ClassVar[str] = ""
    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Weights:
    """One guidance weight of a condition after another."""

    role: ClassVar[str] = ""
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.weights)


@dataclass(frozen=True)
class Moves:
    """The box of a label, at one place after another."""

    role: ClassVar[str] = "objects"
    move: str
    to: tuple[Corners, ...]

    def __len__(self) -> int:
        return len(self.to)

    def applied(self, value: Value, names: Names) -> list[Value]:
        return [verbs.move(value, self.move, corners) for corners in self.to]

    @property
    def titles(self) -> list[str]:
        return [f"place {number}" for number in range(1, len(self.to) + 1)]


@dataclass(frozen=True)
class Swaps:
    """A class of a map, as one class after another; as itself, the map stays as it is."""

    role: ClassVar[str] = "classes"
    swap: str
    to: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.to)

    def applied(self, value: Value, names: Names) -> list[Value]:
        return [value if name == self.swap else verbs.swap(value, self.swap, name, names()) for name in self.to]

    @property
    def titles(self) -> list[str]:
        return list(self.to)


Sweep = Values | Weights | Moves | Swaps


@dataclass(frozen=True)
class _StoredValues:
    values: list[values.Stored | values.Part]


def _encode_sweep(sweep: Sweep, folder: Path | None = None) -> dict[str, Any]:
    if isinstance(sweep, Values):
        return {"values": [values.encode(value, folder) for value in sweep.values]}
    return configs.to_dict(sweep)


def _decode_sweep(written: Any, where: str, folder: Path | None = None) -> Sweep:
    if isinstance(written, Mapping) and isinstance(written.get("values"), list):
        decoded = [values.decode(one, f"{where}.values[{i}]", folder) for i, one in enumerate(written["values"])]
        written = {**written, "values": decoded}
    return configs.from_dict(Sweep, written, where)


SWEEP = values.Codec(_encode_sweep, _decode_sweep, _StoredValues | Weights | Moves | Swaps)


def class_names(model: FourMBase, key: str) -> tuple[str, ...]:
    """The classes of a map, as its tokenizer names them. Raises :class:`Open4MError` if the model has none."""
    if key not in model.grids:
        raise Open4MError(f"{key}: the model has no tokenizer for it that names classes")
    return model.grids[key].config.class_names
