"""Benchmarks are run by hand and take minutes; what they use of open4m is there."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks").glob("*.py"))


def modules_in(tree):
    """The modules of open4m that a file imports, by the names it gives them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "open4m":
            for alias in node.names:
                try:
                    found[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"
    return found


def missing(source):
    """``module.name`` of what a source uses of the modules that it imports, and they do not have."""
    tree = ast.parse(source)
    modules = modules_in(tree)
    uses = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return {
        f"{use.value.id}.{use.attr}"
        for use in uses
        if use.value.id in modules and not hasattr(modules[use.value.id], use.attr)
    }


def test_what_is_missing_is_found():
    source = "from open4m import ranks, config as c\nranks.count()\nranks.nothing()\nc.override\nc.gone\n"
    assert missing(source) == {"ranks.nothing", "c.gone"}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_what_a_benchmark_uses_is_there(file):
    assert missing(file.read_text()) == set()
