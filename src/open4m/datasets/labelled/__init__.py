"""Labelled data sets, for transfers: one file per data set, of its name. ``base.py`` says what a file holds."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection
from functools import cache
from pathlib import Path

from open4m import programs
from open4m.datasets.labelled.base import Labelled, NoSplit, check_label, check_split
from open4m.types import Open4MError

SHARED_FILES = ("__init__", "base", "reading", "run_lengths")


def names() -> list[str]:
    """The names of all labelled data sets that can be read."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED_FILES)


def get(name: str) -> type[Labelled]:
    """The data set of this name, or that of a user's Python file, ``my_data.py``, which defines ``LABELLED``.

    A file is a program, which this runs. Raises :class:`Open4MError`, which lists the names, if there is none.
    """
    if name.endswith(".py"):
        path = Path(name).resolve()
        return _of_file(path, path.stat().st_mtime_ns if path.is_file() else 0)
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown labelled data set {name!r}{hint} (allowed: {', '.join(names())}; or a .py file)")
    return importlib.import_module(f"{__name__}.{name}").LABELLED


@cache
def _of_file(path: Path, _time: int) -> type[Labelled]:
    """The data set of a file as it is at a time: of one file there is one class."""
    kind = getattr(programs.run(path, f"open4m_user_labelled_{path.stem}"), "LABELLED", None)
    if not (isinstance(kind, type) and issubclass(kind, Labelled)):
        raise Open4MError(
            f"{path}: expected LABELLED, a subclass of open4m.datasets.labelled.base.Labelled, got {kind!r}"
        )
    if lacking := sorted(kind.__abstractmethods__):
        raise Open4MError(f"{path}: LABELLED lacks {', '.join(lacking)}")
    return kind


def find(root: str | Path, name: str = "") -> type[Labelled]:
    """The data set that is named, else the one that a folder looks like; a general one only where no other does.

    Raises :class:`Open4MError` if none or several fit.
    """
    root = Path(root)
    if not root.is_dir():
        raise Open4MError(f"{root}: no such folder")
    if name:
        return get(name)
    kinds = [get(known) for known in names()]
    fitting = [kind for kind in kinds if not kind.general and kind.fits(root)]
    fitting = fitting or [kind for kind in kinds if kind.general and kind.fits(root)]
    if len(fitting) != 1:
        seen = " or ".join(kind.name for kind in fitting) or "no data set that is known"
        raise Open4MError(f"{root}: looks like {seen}; say which by --layout (allowed: {', '.join(names())})")
    return fitting[0]


def open_split(root: str | Path, split: str, name: str = "", label: str = "") -> Labelled:
    """The split of what lies in ``root``: of the data set that is named, else of the one that it looks like.

    ``label``: which of the data set's ``labels`` is the ``label`` of its examples. Raises :class:`Open4MError` if no
    data set or several fit, and for what it does not have.
    """
    check_split(split)
    kind = find(root, name)
    check_label(label, kind)
    return kind.open(Path(root), split, label=label) if label else kind.open(Path(root), split)


def open_held_out(
    root: str | Path, name: str = "", label: str = "", targets: Collection[str] = ()
) -> tuple[str, Labelled]:
    """The split that figures are measured on, and its name: ``test``, or ``validation`` where the data have no examples
    for tests with these targets. Arguments are those of :func:`open_split`.

    Raises :class:`Open4MError` if what is there cannot be read: no other split takes the place of a damaged one.
    """
    try:
        found = open_split(root, "test", name, label)
        if len(found) and set(targets) <= set(found.targets):
            return "test", found
    except NoSplit:
        pass
    return "validation", open_split(root, "validation", name, label)
