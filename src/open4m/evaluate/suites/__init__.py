"""The registry of evaluation suites: the file name is the name, its ``evaluate`` makes a result."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from open4m.types import Open4MError


def names() -> list[str]:
    """All suites."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")


def get(name: str) -> ModuleType:
    """The suite of a name."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown evaluation {name!r}{hint} (allowed: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}")
