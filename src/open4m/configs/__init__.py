"""Named configurations: each is a Python function that returns one. The file ``<name>.py`` holds ``config()``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from open4m.types import Open4MError


def names() -> list[str]:
    """All named configurations."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> Any:
    """The configuration of a name."""
    if name not in names():
        raise Open4MError(f"unknown configuration {name!r} (configurations: {', '.join(names())})")
    return importlib.import_module(f"{__name__}.{name}").config()
