"""Configurations are frozen dataclasses: strict to read, easy to print, vary, hash and save.

Python functions in :mod:`open4m.configs` make them; ``dataclasses.replace`` or :func:`override` vary them. The type
of a number says its range (:mod:`open4m.ranges`); every class checks them when it is made.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from open4m import files
from open4m.types import Open4MError, shown

T = TypeVar("T")

MAX_LISTED_PATHS = 4
"""Fields of a name that an error suggests."""


@dataclass(frozen=True)
class Duration:
    """A length of training: an amount of a unit. ``Duration.parse("500B tokens")``.

    Tokens seen are input plus target tokens (paper E.5). An epoch is as many samples as the training data has.
    """

    amount: float
    unit: str  # one of UNITS

    UNITS = ("tokens", "samples", "steps", "epochs")
    MOST = 1e18
    _FACTORS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}

    def __post_init__(self) -> None:
        if self.unit not in self.UNITS:
            raise Open4MError(f"a duration's unit is one of {', '.join(self.UNITS)}, got {shown(self.unit)}")
        if not 0 <= self.amount <= self.MOST:
            raise Open4MError(f"a duration's amount is from 0 to {self.MOST:g}, got {shown(self.amount)}")

    @classmethod
    def parse(cls, text: str) -> Duration:
        """A duration from text like ``10B tokens``, ``20k steps``, ``1.5M samples`` or ``1 epoch``."""
        units = "|".join(unit.removesuffix("s") for unit in cls.UNITS)
        match = re.fullmatch(rf"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMB]?)\s*({units})s?\s*", text)
        if match is None:
            raise Open4MError(f"expected a duration such as '500B tokens' or '20k steps', got {shown(text)}")
        return cls(float(Decimal(match[1]) * cls._FACTORS[match[2]]), f"{match[3]}s")

    def __str__(self) -> str:
        suffix, factor = next(((s, f) for s, f in reversed(self._FACTORS.items()) if self.amount >= f), ("", 1))
        exact = Decimal(repr(float(self.amount))) / factor  # all digits: parse gives the same amount back
        return f"{exact.normalize():f}{suffix} {self.unit}"

    def steps(self, batch_size: int, tokens_per_sample: float, epoch_samples: int | None = None) -> int:
        """The number of steps, rounded up, that see this much. Epochs need ``epoch_samples``, the size of the data."""
        if self.unit == "epochs":
            if epoch_samples is None:
                raise Open4MError(f"{self}: how many samples an epoch has is not known here; say the length in steps")
            return -int(-self.amount * epoch_samples // batch_size)
        per_step = {"steps": 1, "samples": batch_size, "tokens": batch_size * tokens_per_sample}[self.unit]
        return -int(-self.amount // per_step)


def to_dict(config: Any, fields: Callable[[Any], Iterable[dataclasses.Field]] = dataclasses.fields) -> Any:
    """Plain JSON values of a configuration: of those of its ``fields`` that are chosen, by default all."""
    if isinstance(config, Duration):
        return str(config)
    if isinstance(config, enum.Enum):
        return config.value
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name), fields) for f in fields(config)}
    if isinstance(config, dict):
        return {str(k): to_dict(v, fields) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v, fields) for v in config]
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """The configuration of class ``cls`` from plain values: unknown, missing or mistyped fields are errors."""
    return _convert(cls, values, where)


LATER = {"later": True}
"""The metadata of a field that was added when fingerprints of its configuration were stored already."""


def fingerprint(config: Any) -> str:
    """A short hash that differs whenever the configuration does.

    Fields marked :data:`LATER` count only where they differ from their default, so that what was made before they were
    there keeps its fingerprint.
    """
    return hashlib.sha256(json.dumps(to_dict(config, counting), sort_keys=True).encode()).hexdigest()[:16]


def counting(config: Any) -> list[dataclasses.Field]:
    """The fields of a configuration that fingerprints count: see :data:`LATER`."""
    fields = dataclasses.fields(config)
    return [f for f in fields if "later" not in f.metadata or getattr(config, f.name) != f.default]


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
    values = files.read_json(path, files.LARGEST_CONFIG)
    version = 1
    if newest is not None and isinstance(values, dict) and FORMAT in values:
        version = values.pop(FORMAT)
        if type(version) is not int or not 1 <= version <= newest:  # True is an int too
            raise Open4MError(
                f"{path}: has format {shown(version)}, this open4m reads formats 1 to {newest}: update open4m, or use "
                "the version that wrote it"
            )
    return from_dict(cls, values, str(path)), version


def override(config: T, assignments: Iterable[str]) -> T:
    """The configuration with ``field=value`` or ``part.field=value`` assignments applied, from the command line.

    The parts of a list are named by their number, from 0: ``stages.0.train.batch_size=32``. All are applied together:
    only what comes out has to be valid. ``a,b,c`` and ``[a,b,c]`` are lists too.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise Open4MError(f"expected field=value, got {shown(assignment)}")
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
    old, new = _by_place(to_dict(old), to_dict(new))
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    return [] if old == new else [f"{where}: {_plainly(old)} -> {_plainly(new)}"]


def _plainly(value: Any) -> str:
    """A value for a list of differences: texts without quotes."""
    return shown(value)[1:-1] if isinstance(value, str) else shown(value)


def _by_place(old: Any, new: Any) -> tuple[Any, Any]:
    """Two lists of parts as mappings, so that what differs in a part can be named: by the parts' names if they have
    some, else by their numbers if there are equally many. Anything else as it is."""
    lists = [old, new]
    if not all(isinstance(parts, list) and parts and all(isinstance(p, dict) for p in parts) for parts in lists):
        return old, new
    for name in ("name", "key"):
        found = [{str(part.get(name)): part for part in parts} for parts in lists]
        if all(len(f) == len(parts) and "None" not in f for f, parts in zip(found, lists, strict=True)):
            return found[0], found[1]
    return ({str(i): p for i, p in enumerate(parts)} for parts in lists) if len(old) == len(new) else (old, new)


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
            raise _unknown(_path(full, below), name, list(current), [*_paths(config, name, where)])
        if isinstance(below, dict):
            changed[name] = _assigned(current[name], below, f"{full}.")
        else:
            changed[name] = _convert(hints[name], _listed(hints[name], _literal(below)), full)
    if isinstance(config, dict):
        return {**config, **changed}
    if isinstance(config, tuple):
        return tuple({**current, **changed}.values())
    return _placed(type(config), where.rstrip(".") or "configuration", lambda: dataclasses.replace(config, **changed))


def _path(start: str, below: Any) -> str:
    """The whole path of the first assignment in a tree."""
    while isinstance(below, dict):
        name, below = next(iter(below.items()))
        start = f"{start}.{name}"
    return start


def _literal(text: str) -> Any:
    try:
        return files.parse_json(text, "value")
    except Open4MError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _listed(hint: Any, value: Any) -> Any:
    """A text with commas, or of a field that is a list, as the list of its parts."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    are_lists = [typing.get_origin(choice) in (tuple, list) for choice in choices if choice is not type(None)]
    if isinstance(value, str) and any(are_lists) and ("," in value or all(are_lists)) and value not in ("None", ""):
        inner = value[1:-1] if value.startswith("[") and value.endswith("]") else value
        return [_literal(part.strip()) for part in inner.split(",")]
    return value


def _paths(config: Any, name: str, where: str) -> Iterator[str]:
    """The paths of all fields of a name in a configuration."""
    if isinstance(config, list | tuple | dict):
        parts = dict(config) if isinstance(config, dict) else {str(i): part for i, part in enumerate(config)}
    elif dataclasses.is_dataclass(config):
        parts = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    else:
        return
    for own, part in parts.items():
        if own == name:
            yield f"{where}{own}"
        yield from _paths(part, name, f"{where}{own}.")


def _unknown(where: str, name: str, allowed: list[str], elsewhere: Sequence[str] = ()) -> Open4MError:
    near = elsewhere[:MAX_LISTED_PATHS] or difflib.get_close_matches(name, allowed, n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return Open4MError(f"{where}: unknown field {shown(name)}{hint} (fields: {', '.join(allowed)})")


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if isinstance(value, dict) and (told := _told_apart(arguments)):
            name, classes = told
            meant = value.get(name)
            if not isinstance(meant, str) or meant not in classes:
                raise Open4MError(f"{where}.{name}: expected one of {', '.join(classes)}, got {shown(meant)}")
            return _convert(classes[meant], value, where)
        if forms := _forms(arguments, value):
            raise Open4MError(f"{where}: expected {' or '.join(forms)}, got {shown(value)}")
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
            raise Open4MError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {shown(value)}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise Open4MError(f'{where}: expected a list like ["rgb", "depth"], got {shown(value)}')
        many = origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
        if not many and len(value) != len(arguments):
            raise Open4MError(f"{where}: expected {len(arguments)} values, got {len(value)}")
        inner = [arguments[0]] * len(value) if many else arguments
        return origin(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise Open4MError(f"{where}: expected a mapping, got {shown(value)}")
        return {_convert(arguments[0], k, where): _convert(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is Duration:
        try:
            return value if isinstance(value, Duration) else Duration.parse(str(value))
        except Open4MError as error:
            raise Open4MError(f"{where}: {error}") from error
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise Open4MError(f"{where}: expected float, got {shown(value)}, which is too large") from None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise Open4MError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {shown(value)}")
    return value


@cache
def _told_apart(choices: tuple[Any, ...]) -> tuple[str, dict[str, type]] | None:
    """The field by whose constant text several classes differ, such as ``kind``, and the class of each text."""
    classes = [choice for choice in choices if choice is not type(None)]
    if len(classes) < 2 or not all(map(dataclasses.is_dataclass, classes)):
        return None
    hints = [typing.get_type_hints(cls) for cls in classes]
    for name, hint in hints[0].items():
        constants = [typing.get_args(h[name]) for h in hints if typing.get_origin(h.get(name)) is typing.Literal]
        texts = [one[0] for one in constants if len(one) == 1 and isinstance(one[0], str)]
        if typing.get_origin(hint) is typing.Literal and len(set(texts)) == len(classes):
            return name, dict(zip(texts, classes, strict=True))
    return None


def _forms(choices: tuple[Any, ...], value: Any) -> list[str]:
    """How each of several classes is written, such as ``{"text": ...}``, if ``value`` is written as none of them."""
    classes = [choice for choice in choices if choice is not type(None)]
    written_as_text = Duration in classes
    if len(classes) < 2 or written_as_text or not all(map(dataclasses.is_dataclass, classes)):
        return []
    if isinstance(value, (dict, *classes)):
        return []
    needed = [[f.name for f in dataclasses.fields(cls) if _is_needed(f)] for cls in classes]
    return ["{" + ", ".join(f'"{name}": ...' for name in names) + "}" for names in needed] if all(needed) else []


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _shared_fields(cls: Any, values: Any) -> int:
    """How many fields of a class the values name."""
    known = {f.name for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    return len(known.intersection(values)) if isinstance(values, dict) else 0


def _build(cls: type, values: Any, where: str) -> Any:
    if isinstance(values, cls):
        return values
    if not isinstance(values, dict):
        raise Open4MError(f"{where}: expected the fields of {cls.__name__}, got {shown(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise _unknown(where, name, list(fields))
    missing = [name for name, f in fields.items() if name not in values and _is_needed(f)]
    if missing:
        raise Open4MError(f"{where}: missing {', '.join(missing)}")
    converted = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    return _placed(cls, where, lambda: cls(**converted))


def _placed(cls: type, where: str, make: Callable[[], T]) -> T:
    """What ``make`` makes of class ``cls``; errors of its own checks say where it is in the whole configuration."""
    try:
        return make()
    except Open4MError as error:
        raise Open4MError(f"{where}: {str(error).removeprefix(f'{cls.__name__}: ')}") from error
