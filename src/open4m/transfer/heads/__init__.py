"""What is put on the encoder's features for a task: one file per head, of its name. ``base.py`` says what a file
holds."""

from __future__ import annotations

import ast
import difflib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from open4m import programs
from open4m.transfer.heads import contract
from open4m.transfer.heads.base import Head
from open4m.types import Open4MError

SHARED_FILES = ("__init__", "base", "contract", "convnext")


def names() -> list[str]:
    """The names of all heads that are here."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in SHARED_FILES)


def get(name: str) -> type[Head]:
    """The head of this name, or that of a user's Python file, ``my_head.py``, which defines ``HEAD``.

    A file is a program, which this runs. Raises :class:`Open4MError`, which lists the names, if there is none.
    """
    if name.endswith(".py"):
        return _of_file(Path(name))
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise Open4MError(f"unknown head {name!r}{hint} (heads: {', '.join(names())}; or a .py file that defines HEAD)")
    return importlib.import_module(f"{__name__}.{name}").HEAD


def defines_head(path: Path) -> bool:
    """Whether a Python file defines ``HEAD``, and no ``config()`` of its own; without running it."""
    if not path.is_file():
        raise Open4MError(f"{path}: no such file")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise Open4MError(f"{path}: not a Python file ({error})") from error
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    return "HEAD" in assigned and "config" not in functions


def target_of(kind: str, config: Any) -> str:
    """What of an example a head learns: by its class, or as its configuration says."""
    return getattr(config, "target", "") or get(kind).target


def _of_file(path: Path) -> type[Head]:
    if not path.is_file():
        raise Open4MError(f"{path}: no such file")
    return _loaded(path.resolve(), path.stat().st_mtime_ns)


@cache
def _loaded(path: Path, _time: int) -> type[Head]:
    """The head of a file as it is at a time: of one file there is one class, by which configurations are told."""
    head = getattr(programs.run(path, f"open4m_user_head_{path.stem}"), "HEAD", None)
    if not (isinstance(head, type) and issubclass(head, Head)):
        raise Open4MError(f"{path}: expected HEAD, a subclass of open4m.transfer.heads.base.Head, got {head!r}")
    contract.check_class(head, path)
    return head
