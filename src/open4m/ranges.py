"""The ranges of numbers in configurations, as types of their fields, and the check of them.

>>> @dataclass(frozen=True, kw_only=True)
... class ViTConfig:
...     width: Size = 192
...
...     def __post_init__(self) -> None:
...         check_ranges(self)

``tests/test_ranges.py`` finds configurations that forget it.
"""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from open4m.types import Open4MError, shown


@dataclass(frozen=True)
class Range:
    """The numbers that a field of a configuration may have, part of its type: ``Annotated[int, Range(1, 512)]``.

    Both ends are included, unless ``above``, then ``low`` is not, or ``below``, then ``high`` is not. The largest ones
    are far above what anyone uses: what exceeds them is a mistake, and would end in an error of another library, or in
    no end at all.
    """

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high and not any(self.sides(number))

    def sides(self, number: float) -> tuple[bool, bool]:
        """Whether a number is too low, and whether it is too high. NaN is neither."""
        too_low = number < self.low or (self.above and number == self.low)
        return too_low, number > self.high or (self.below and number == self.high)

    def expected(self, number: Any) -> str:
        """What should have been in the place of a number, or of anything else."""
        too_low, too_high = self.sides(number) if isinstance(number, numbers.Real) else (False, False)
        low = f"{'above' if self.above else 'at least'} {_digits(self.low)}"
        high = f"{'below' if self.below else 'at most'} {_digits(self.high)}"
        return low if too_low else high if too_high else f"a number {low} and {high}"


def _digits(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


Size = Annotated[int, Range(1, 1 << 20)]
"""A width, a number of tokens, pixels or rows."""

Length = Annotated[int, Range(0, 1 << 20)]
"""A number of tokens, pixels or channels that may be 0."""

Layers = Annotated[int, Range(1, 1024)]
"""Layers, heads, and what else is repeated in a network."""

Count = Annotated[int, Range(0, 10**12)]
"""A number of steps or samples that may be 0."""

Steps = Annotated[int, Range(1, 10**12)]
"""A number of steps or samples."""

Seed = Annotated[int, Range(0, 2**63 - 1)]
"""A seed of random numbers."""

Positive = Annotated[float, Range(0, 1e6, above=True)]
"""A factor, a rate."""

Amount = Annotated[float, Range(0, 1e6)]
"""A factor that may be 0."""

Finite = Annotated[float, Range(-1e30, 1e30)]
"""Any number that float32 holds."""

Decay = Annotated[float, Range(0, 1, below=True)]
"""The share that a moving average keeps at each step."""

Share = Annotated[float, Range(0, 1)]
"""A share or a probability."""


def check_ranges(config: Any, name: str = "") -> None:
    """Raise :class:`Open4MError`, which names the field, for a number of a configuration that is not in its range.

    To be called when a configuration is made: in ``__post_init__``. ``name``: its own, by default that of its class.
    """
    for field, hint in _ranged(type(config)).items():
        for where, number, kind in _outside(hint, getattr(config, field), field):
            if typing.get_origin(kind) is not Annotated:
                raise Open4MError(f"{name or type(config).__name__}: {where}: expected {kind}, got {shown(number)}")
            expected = kind.__metadata__[0].expected(number)
            if kind.__origin__ is int and not isinstance(number, numbers.Integral):
                expected = expected.replace("a number", "a whole number")
            raise Open4MError(f"{name or type(config).__name__}: {where}: expected {expected}, got {shown(number)}")


@cache
def _ranged(cls: type) -> dict[str, Any]:
    """The types of a class's fields in which numbers have ranges."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if "Annotated" in repr(hints[f.name])}


def _outside(hint: Any, value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """Each number of a value that is not in the range of its type: its place, the number, its type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind = numbers.Integral if hint.__origin__ is int else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or value not in hint.__metadata__[0]:
            yield where, value, hint
    elif origin in (typing.Union, types.UnionType):
        choices = [[*_outside(argument, value, where)] for argument in arguments if _is_meant(argument, value)]
        yield from min(choices, key=len, default=[(where, value, hint)])
    elif origin in (dict, tuple, list) and not isinstance(value, Mapping if origin is dict else tuple | list):
        yield where, value, origin.__name__
    elif origin is dict:
        for key, one in value.items():
            yield from _outside(arguments[1], one, f"{where}.{key}")
    elif origin in (tuple, list):
        each = arguments[:1] * len(value) if origin is list or arguments[-1] is Ellipsis else arguments
        for i, (argument, one) in enumerate(zip(each, value, strict=False)):
            yield from _outside(argument, one, f"{where}[{i}]")


def _is_meant(hint: Any, value: Any) -> bool:
    """Whether a value may be meant by one of several types: a tuple, nothing, or anything else."""
    if value is None or hint is type(None):
        return value is None and hint is type(None)
    return isinstance(value, tuple | list) == (typing.get_origin(hint) in (tuple, list))
