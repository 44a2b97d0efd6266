"""How data sets of others are laid out: one file per layout, of its name. ``base.py`` says what a file holds."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from open4m.datasets.layouts.base import Layout, Wanted
from open4m.datasets.source import Source
from open4m.types import Open4MError

SHARED_FILES = ("__init__", "base")


def names() -> list[str]:
    """The names of all layouts."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED_FILES)


def get(name: str) -> type[Layout]:
    """The layout of this name. Raises :class:`Open4MError`, which lists the names, if there is none."""
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown layout {name!r}{hint} (allowed: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}").LAYOUT


def find(source: Source, wanted: Wanted, name: str = "") -> Layout:
    """The layout of a source: the one that is named, else the one that fits; a general one only where no other does.

    Raises :class:`Open4MError` if none or several fit.
    """
    if name:
        return get(name).of(source, wanted)
    kinds = [get(name) for name in names()]
    for general in (False, True):
        found = [kind for kind in kinds if kind.general == general and kind.fits(source, wanted)]
        if len(found) > 1:
            fitting = " or ".join(kind.name for kind in found)
            raise Open4MError(f"{source.url}: could be laid out as {fitting}: say which by --layout")
        if found:
            return found[0].of(source, wanted)
    seen = sorted({entry.path.rpartition("/")[2].rpartition(".")[2].lower() for entry in source.some()})
    held = f"files of the kinds {', '.join(seen[:12])}" if seen else "no files"
    raise Open4MError(
        f"{source.url}: holds {held}; expected images (JPEG, PNG, ...; in folders, WebDataset tars or Parquet files), "
        f"or captions; layouts: {', '.join(names())}"
    )
