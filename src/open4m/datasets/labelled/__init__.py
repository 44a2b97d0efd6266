"""Labelled data sets of others, for transfers: one file per data set, of its name. ``base.py`` says what a file holds."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path

from open4m.datasets.labelled.base import Labelled
from open4m.types import Open4MError

SHARED_FILES = ("__init__", "base", "run_lengths")


def names() -> list[str]:
    """The names of all labelled data sets that can be read."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED_FILES)


def get(name: str) -> type[Labelled]:
    """The data set of this name. Raises :class:`Open4MError`, which lists the names, if there is none."""
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown labelled data set {name!r}{hint} (allowed: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}").LABELLED


def open_split(root: str | Path, split: str, name: str = "") -> Labelled:
    """The split of what lies in ``root``: of the data set that is named, else of the one that it looks like.

    Raises :class:`Open4MError` if none or several fit.
    """
    root = Path(root)
    if not root.exists():
        raise Open4MError(f"{root}: no such folder")
    if name:
        return get(name).open(root, split)
    fitting = [found for found in map(get, names()) if found.fits(root)]
    if len(fitting) != 1:
        seen = " or ".join(found.name for found in fitting) or "no data set that is known"
        raise Open4MError(f"{root}: looks like {seen}; say which by --layout (allowed: {', '.join(names())})")
    return fitting[0].open(root, split)
