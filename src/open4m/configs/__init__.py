"""Named configurations: each is a Python function that returns one.

The file ``<name>.py`` holds ``config()``, or a family of them in ``CONFIGS``, by name.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open4m import programs
from open4m.types import Open4MError

MAX_NEAR = 5
"""The most configurations that a message lists for a name that is none."""


MAX_OF_A_KIND = 20
"""The most names with one first word that such a message lists."""


def names() -> list[str]:
    """All named configurations."""
    return sorted(_named())


def _families() -> list[str]:
    """The names of configurations, without those of which there are many of one kind: ``tokenizer-...``."""
    kinds = Counter(name.partition("-")[0] for name in names())
    few = [name for name in names() if kinds[name.partition("-")[0]] <= MAX_OF_A_KIND]
    return [*few, *(f"{kind}-... ({count} of them)" for kind, count in kinds.items() if count > MAX_OF_A_KIND)]


def _named() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    for file in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file.name}")
        found |= getattr(module, "CONFIGS", None) or {file.name: module.config}
    return found


def get(name: str) -> Any:
    """A configuration by its name, or by the path of a Python file that defines ``config()``.

    Raises :class:`Open4MError` for an unknown name, a missing file, and a file whose ``config()`` is missing or returns
    no configuration.
    """
    if name.endswith(".py"):
        path = Path(name)
        make = getattr(programs.run(path, f"open4m_user_config_{path.stem}"), "config", None)
        if make is None:
            raise Open4MError(f"{path}: expected a function config() that returns the configuration")
        try:
            config = make()
        except Open4MError:
            raise
        except (Exception, SystemExit) as error:  # a user's file may raise anything
            raise Open4MError(f"{path}: makes no configuration ({type(error).__name__}: {error})") from error
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise Open4MError(f"{path}: config() returned a {type(config).__name__}, expected a configuration")
        return config
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=MAX_NEAR)  # all of them would fill a screen
        hint = f"; did you mean {near[0]}?" if near else ""
        listed = f"the nearest of {len(names())}: {', '.join(near)}" if near else ", ".join(_families())
        raise Open4MError(f"unknown configuration {name!r}{hint} (configurations: {listed}; or a .py file)")
    return _named()[name]()
