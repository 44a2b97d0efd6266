"""Python files of users: configurations, modalities, functions that label, heads, data sets. To run one is to do
whatever it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from open4m.types import Open4MError


def run(path: Path, name: str) -> ModuleType:
    """The module of a file. It is known as ``name``, by which dataclasses and forked processes find what it defines.

    Raises :class:`Open4MError` if there is no such file, or it cannot be run.
    """
    if not path.is_file():
        raise Open4MError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        del sys.modules[name]
        raise Open4MError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    return module
