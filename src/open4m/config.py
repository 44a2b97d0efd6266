"""Configurations are frozen dataclasses: strict to read, easy to print, vary, hash and save.

Python functions in :mod:`open4m.configs` make them; ``dataclasses.replace`` or :func:`override` vary them.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import hashlib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from open4m import files
from open4m.types import Open4MError

T = TypeVar("T")


@dataclass(frozen=True)
class Duration:
    """A length of training: an amount of a unit. ``Duration.parse("500B tokens")``.

    Tokens seen are input plus target tokens (paper E.5).
    """

    amount: float
    unit: str  # "tokens", "samples" or "steps"

    UNITS = ("tokens", "samples", "steps")
    _FACTORS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}

    def __post_init__(self) -> None:
        if self.unit not in self.UNITS:
            raise Open4MError(f"a duration's unit is one of {', '.join(self.UNITS)}, got {self.unit!r}")
        if not 0 <= self.amount < float("inf"):
            raise Open4MError(f"a duration's amount is finite and not negative, got {self.amount}")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """A duration from text like ``10B tokens``, ``20k steps`` or ``1.5M samples``."""
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMB]?)\s*(tokens|samples|steps)\s*", text)
        if match is None:
            raise Open4MError(f"expected a duration such as '500B tokens' or '20k steps', got {text!r}")
        return cls(float(Decimal(match[1]) * cls._FACTORS[match[2]]), match[3])

    def __str__(self) -> str:
        suffix, factor = next(((s, f) for s, f in reversed(self._FACTORS.items()) if self.amount >= f), ("", 1))
        exact = Decimal(repr(float(self.amount))) / factor  # all digits: parse gives the same amount back
        return f"{exact.normalize():f}{suffix} {self.unit}"

    def steps(self, batch_size: int, tokens_per_sample: float) -> int:
        """The number of steps, rounded up, that see this much."""
        per_step = {"steps": 1, "samples": batch_size, "tokens": batch_size * tokens_per_sample}[self.unit]
        return -int(-self.amount // per_step)


def to_dict(config: Any) -> Any:
    """Plain JSON values of a configuration."""
    if isinstance(config, Duration):
        return str(config)
    if isinstance(config, enum.Enum):
        return config.value
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v) for v in config]
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """The configuration of class ``cls`` from plain values: unknown, missing or mistyped fields are errors."""
    return _convert(cls, values, where)


def fingerprint(config: Any) -> str:
    """A short hash that differs whenever the configuration does."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:16]


FORMAT = "format"
"""The key of a configuration file that holds the version of its directory's format."""


def save(config: Any, path: Path, version: int | None = None) -> None:
    """Write a configuration as JSON, atomically; ``version``: that of the directory's format, if it has one."""
    values = to_dict(config)
    if version is not None:
        values = {FORMAT: version, **values}
    files.write_text(path, json.dumps(values, indent=1) + "\n")


def load(cls: type[T], path: Path, newest: int | None = None) -> T:
    """Read a configuration that :func:`save` wrote; ``newest``: the newest format version that is understood."""
    return load_versioned(cls, path, newest)[0]


def load_versioned(cls: type[T], path: Path, newest: int | None = None) -> tuple[T, int]:
    """A configuration and the version of its format, 1 if the file does not say.

    Raises :class:`Open4MError` if the file is missing, is no such configuration, or has a version above ``newest``.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise Open4MError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise Open4MError(f"{path}: not readable as JSON ({error})") from error
    version = 1
    if newest is not None and isinstance(values, dict) and FORMAT in values:
        version = values.pop(FORMAT)
        if type(version) is not int or not 1 <= version <= newest:  # True is an int too
            raise Open4MError(
                f"{path}: has format {version!r}, this open4m reads formats 1 to {newest}: update open4m, or use the "
                "version that wrote it"
            )
    return from_dict(cls, values, str(path)), version


def override(config: T, assignments: Iterable[str]) -> T:
    """The configuration with ``field=value`` or ``part.field=value`` assignments applied, from the command line.

    The parts of a list are named by their number, from 0: ``stages.0.train.batch_size=32``. All are applied together:
    only what comes out has to be valid.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise Open4MError(f"expected field=value, got {assignment!r}")
        *parts, last = path.split(".")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise Open4MError(f"{path}: {part} is assigned as a whole as well")
        node[last] = text
    return _assigned(config, tree, "")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The fields in which two configurations differ, as lines ``field: old -> new``."""
    old, new = to_dict(old), to_dict(new)
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    return [] if old == new else [f"{where}: {old} -> {new}"]


def completed(values: Any, config: Any) -> Any:
    """The plain ``values`` of an older version of ``config``, with the defaults of fields that it did not have."""
    if dataclasses.is_dataclass(config) and isinstance(values, dict):
        values = dict(values)
        for field in dataclasses.fields(config):
            if field.name in values:
                values[field.name] = completed(values[field.name], getattr(config, field.name))
            elif field.default is not dataclasses.MISSING:
                values[field.name] = to_dict(field.default)
            elif field.default_factory is not dataclasses.MISSING:
                values[field.name] = to_dict(field.default_factory())
        return values
    if isinstance(config, dict) and isinstance(values, dict):
        return {key: completed(value, config.get(key)) for key, value in values.items()}
    if isinstance(config, list | tuple) and isinstance(values, list) and len(config) == len(values):
        return [completed(value, one) for value, one in zip(values, config, strict=True)]
    return values


def _assigned(config: Any, tree: Mapping[str, Any], where: str) -> Any:
    """The configuration with a tree of texts assigned to its fields."""
    if isinstance(config, dict):
        hints = {name: type(value) for name, value in config.items()}
        current = config
    elif isinstance(config, tuple) and config:
        hints = {str(i): type(value) for i, value in enumerate(config)}
        current = {str(i): value for i, value in enumerate(config)}
    elif dataclasses.is_dataclass(config):
        hints = typing.get_type_hints(type(config))
        current = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    else:
        name = next(iter(tree))
        raise Open4MError(f"{where}{name}: {name!r} is not inside a configuration")
    changed = {}
    for name, below in tree.items():
        full = f"{where}{name}"
        if name not in current:
            raise _unknown(_path(full, below), name, list(current))
        if isinstance(below, dict):
            changed[name] = _assigned(current[name], below, f"{full}.")
        else:
            changed[name] = _convert(hints[name], _literal(below), full)
    if isinstance(config, dict):
        return {**config, **changed}
    if isinstance(config, tuple):
        return tuple({**current, **changed}.values())
    return dataclasses.replace(config, **changed)


def _path(start: str, below: Any) -> str:
    """The whole path of the first assignment in a tree."""
    while isinstance(below, dict):
        name, below = next(iter(below.items()))
        start = f"{start}.{name}"
    return start


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _unknown(where: str, name: str, allowed: list[str]) -> Open4MError:
    near = difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return Open4MError(f"{where}: unknown field {name!r}{hint} (fields: {', '.join(allowed)})")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        failures = []
        for argument in arguments:
            if argument is not type(None):
                try:
                    return _convert(argument, value, where)
                except Open4MError as error:
                    failures.append((_shared_fields(argument, value), error))
        raise max(reversed(failures), key=lambda failure: failure[0])[1]  # that of the class that was probably meant
    if origin is typing.Literal:
        if value not in arguments:
            raise Open4MError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise Open4MError(f'{where}: expected a list like ["rgb", "depth"], got {value!r}')
        many = origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
        if not many and len(value) != len(arguments):
            raise Open4MError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        inner = [arguments[0]] * len(value) if many else arguments
        return origin(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise Open4MError(f"{where}: expected a mapping, got {value!r}")
        return {_convert(arguments[0], k, where): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Duration:
        try:
            return value if isinstance(value, Duration) else Duration.parse(str(value))
        except Open4MError as error:
            raise Open4MError(f"{where}: {error}") from error
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise Open4MError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
    return value


def _shared_fields(cls: Any, values: Any) -> int:
    """How many fields of a class the values name."""
    known = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    return len(known.intersection(values)) if isinstance(values, dict) else 0


def _build(cls: type, values: Any, where: str) -> Any:
    if isinstance(values, cls):
        return values
    if not isinstance(values, dict):
        raise Open4MError(f"{where}: expected the fields of {cls.__name__}, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise _unknown(where, name, list(fields))
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise Open4MError(f"{where}: missing {', '.join(missing)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})
