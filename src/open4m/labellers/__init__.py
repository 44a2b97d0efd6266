"""The registry of labellers: the file name is the name. See :mod:`open4m.labellers.base` for what a file provides."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from open4m.types import Open4MError

if TYPE_CHECKING:
    from open4m.labellers.base import Labeller


def names() -> list[str]:
    """The names of all labellers."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def get(name: str) -> type[Labeller]:
    """The labeller class of this name, whose ``load`` makes a labeller. Imports only that labeller's file.

    Raises :class:`Open4MError`, which lists the names, if there is none.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown labeller {name!r}{hint} (allowed: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}").LABELLER
