"""The names of classes: in files, one class per line in the order of the ids from 0, with or without a color; and in
the manifests of raw data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open4m import modalities
from open4m.datasets import captions
from open4m.store.manifest import FILE, Manifest, folder_of
from open4m.store.shards import RawDataset
from open4m.types import Boxes, Open4MError

_COLORED = re.compile(r"(?P<name>.*\S)\s+(?P<red>\d+),\s*(?P<green>\d+),\s*(?P<blue>\d+)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Classes:
    """The ``names`` of classes, and a ``palette`` with one color per class, red, green and blue from 0 to 255; an empty
    palette if the classes have no colors."""

    names: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()


def of_data(root: str | Path, modality: str) -> Classes:
    """The classes that raw data name, as an import writes them into the manifest of a modality; none if they do not."""
    manifest = Manifest.read(folder_of(root, modality))
    header = manifest.header if manifest else {}
    try:
        palette = tuple((int(r), int(g), int(b)) for r, g, b in header.get("palette", ()))
        return Classes(names=tuple(map(str, header.get("classes", ()))), palette=palette)
    except (TypeError, ValueError) as error:
        raise Open4MError(f"{folder_of(root, modality) / FILE}: not a list of classes ({error})") from error


def words_of(root: Path, names: Sequence[str]) -> tuple[str, ...]:
    """What is one token each in sequences of raw data: their modalities' own words, and the classes of boxes, which the
    data name or use."""
    words: dict[str, None] = {}
    for name in names:
        if known := of_data(root, name).names:
            words |= dict.fromkeys(known)
        elif modalities.get(name).has_positions:
            data = RawDataset(root, [name]).having(name)
            values = (data[i][name] for i in range(len(data)))
            used = {label for value in values if isinstance(value, Boxes) for label in value.labels}
            words |= dict.fromkeys(sorted(used))
        words |= dict.fromkeys(modalities.get(name).words)
    return tuple(words)


def read(path: Path) -> Classes:
    """The classes of a text file in UTF-8, or those that the folder of a modality of raw data names.

    A line is a name; behind a blank or a tab, its color may follow as ``red,green,blue``::

        wall  120,120,120
        chest of drawers, low  6,51,255

    Names may hold blanks, commas and digits: only three numbers at the end of a line are a color. Empty lines at the
    end are ignored. Raises :class:`Open4MError` for a file that is not UTF-8, for an empty line before a name, for a
    name that occurs twice, for numbers of a color above 255, and if only some classes have a color.
    """
    if (path / FILE).is_file():
        return of_data(path.resolve().parent, path.resolve().name)
    lines = list(captions.lines(path))
    while lines and not lines[-1]:
        lines.pop()
    found = [_COLORED.fullmatch(line) for line in lines]
    if not any(found):
        return _checked(path, Classes(names=tuple(lines)))
    palette = []
    for number, (line, match) in enumerate(zip(lines, found, strict=True), 1):
        if match is None:
            raise Open4MError(
                f"{path}: line {number}: expected a name and a color like 120,120,120, as in other lines, got {line!r}"
            )
        color = (int(match["red"]), int(match["green"]), int(match["blue"]))
        if max(color) > 255:
            raise Open4MError(f"{path}: line {number}: red, green and blue are from 0 to 255, got {color}")
        palette.append(color)
    return _checked(path, Classes(names=tuple(match["name"] for match in found if match), palette=tuple(palette)))


def _checked(path: Path, classes: Classes) -> Classes:
    for number, name in enumerate(classes.names, 1):
        if not name:
            raise Open4MError(f"{path}: line {number}: expected a class name, got an empty line")
        if (first := classes.names.index(name) + 1) < number:
            raise Open4MError(f"{path}: line {number}: {name!r} is the class of line {first} already")
    return classes
