"""What is imported is declared, what is declared is used, and a lazily imported library belongs to an extra."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMPORTED_AS = {
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "pytest-timeout": None,
    "pytest-xdist": None,
    "ruff": None,
    "setuptools": None,
}
"""Names of modules that are not the distribution's; None: a plug-in or a program, which nothing imports."""
OPTIONAL = {"torch.utils.tensorboard": "tensorboard"}
"""Modules of a declared library that import another one."""


def module_of(requirement):
    name = re.match(r"[\w.-]+", requirement)[0]
    return IMPORTED_AS.get(name, name.replace("-", "_"))


def modules_of(*extras):
    found = [r for extra in extras for r in PROJECT["optional-dependencies"][extra]]
    return {module_of(r) for r in found if not r.startswith("open4m[")} - {None}


CORE = {module_of(r) for r in PROJECT["dependencies"]}
LIBRARY_EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("all", "test", "docs")]


def imported(source):
    """(top-level module, whether it is imported when the file is loaded) of the imports, without those that only type
    checkers follow."""
    tree = ast.parse(source)
    typing_only, lazy = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            typing_only |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            lazy |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        else:
            continue
        for name in names:
            yield OPTIONAL.get(name, name.split(".")[0]), id(node) not in lazy


def third_party(folder):
    """{module: whether any file of the folder imports it on loading}."""
    own = {"open4m"} | {path.stem for path in ROOT.joinpath("tests").rglob("*.py")} | {"benchmarks", "examples"}
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for name, eager in imported(path.read_text()):
            if name not in sys.stdlib_module_names and name not in own:
                found[name] = found.get(name, False) or eager
    return found


SOURCE = third_party("src")


def test_the_reader_of_imports_tells_lazy_from_eager():
    source = """
import numpy as np
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import transformers
from .here import this
def f():
    from diffusers.schedulers import DDIM
    from torch.utils.tensorboard import SummaryWriter
"""
    found = dict(imported(source))
    assert found == {"numpy": True, "typing": True, "diffusers": False, "tensorboard": False}


def test_what_is_imported_on_loading_is_a_core_dependency():
    assert {name for name, eager in SOURCE.items() if eager} <= CORE


def test_what_is_imported_in_a_function_is_a_core_dependency_or_an_extra():
    assert set(SOURCE) <= CORE | modules_of(*LIBRARY_EXTRAS)


def test_what_is_declared_is_used():
    assert CORE - set(SOURCE) == set()
    assert modules_of(*LIBRARY_EXTRAS) - set(SOURCE) == set()
    assert modules_of("test") - set(SOURCE) - set(third_party("tests")) == set()


def test_tests_and_benchmarks_import_only_what_the_test_extra_installs():
    declared = CORE | modules_of(*LIBRARY_EXTRAS, "test")
    assert set(third_party("tests")) | set(third_party("benchmarks")) | set(third_party("examples")) <= declared


def test_all_is_all_extras():
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert everything == f"open4m[{','.join(LIBRARY_EXTRAS)}]"


@pytest.mark.parametrize("requirement", PROJECT["dependencies"])
def test_a_user_keeps_the_version_that_is_installed(requirement):
    assert re.fullmatch(r"[\w.-]+>=[\d.]+", requirement), f"{requirement}: a lower bound, and no other"


def test_constraints_pin_every_direct_dependency_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==")[0] for line in lines if line and not line.startswith("#")]
    extras = [r for extra in (*LIBRARY_EXTRAS, "test", "docs") for r in PROJECT["optional-dependencies"][extra]]
    direct = [re.match(r"[\w.-]+", r)[0] for r in (*PROJECT["dependencies"], *extras) if not r.startswith("open4m[")]
    assert sorted(pins) == sorted(set(direct))


def test_versions_agree():
    import open4m

    citation, changes = ((ROOT / name).read_text() for name in ("CITATION.cff", "CHANGELOG.md"))
    assert open4m.__version__ == PROJECT["version"]
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert re.search(r"^## \[([\d.]+)\]", changes, re.MULTILINE)[1] == PROJECT["version"]
