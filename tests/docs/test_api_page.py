"""docs/api.md: its reference is that of the docstrings, its examples run, and what it names can be imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

from docs_programs import program

import open4m
from open4m.modalities.families import Modality

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/api.md"


def builder():
    return program("build_api")


def test_the_reference_is_that_of_the_docstrings():
    page = PAGE.read_text()
    assert builder().filled(page) == page, "run python docs/build_api.py"


def test_names_of_the_package_are_in_the_reference():
    assert all(f"<!-- api: open4m.{name}" in PAGE.read_text() for name in open4m.__all__ if name != "__version__")
    assert all(hasattr(open4m, name) for name in open4m.__all__)
    assert (Path(open4m.__file__).parent / "py.typed").exists()


def test_signatures_and_docstrings_become_markdown():
    build = builder()
    assert build.signature_of(Modality.fit, "fit") == "fit(value: Any, size: int, fit: str = 'crop') -> Value"
    docstring = "One of :class:`~open4m.types.Boxes` or ``None``.\n\n>>> f(1)\n... 2\n\n===  ==\na    b\n===  =="
    assert build.markdown(docstring).split("\n\n") == [
        "One of `Boxes` or `None`.",
        "```python\nf(1)\n2\n```",
        "```text\n===  ==\na    b\n===  ==\n```",
    ]


def test_the_examples_run(tmp_path):
    code = "\n".join(re.findall(r"<!-- test: api -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/api/result.json").exists()
