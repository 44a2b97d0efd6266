"""docs/tutorials/first_steps.ipynb runs, and what runs it shows what a notebook shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_programs import program

from open4m.cli.main import main

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs/tutorials/first_steps.ipynb"
PROGRAM = ROOT / "docs/build_notebook.py"


@pytest.fixture(scope="module")
def build():
    return program("build_notebook")


def notebook(path, *sources):
    made = [{"cell_type": kind, "source": text.splitlines(keepends=True)} for kind, text in sources]
    path.write_text(json.dumps({"cells": made}))
    return path


def test_the_notebook_is_small_and_without_results():
    found = json.loads(NOTEBOOK.read_text())
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert NOTEBOOK.stat().st_size < 20_000
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(cell["outputs"] == [] for cell in found["cells"] if cell["cell_type"] == "code")
    assert all(cell["execution_count"] is None for cell in found["cells"] if cell["cell_type"] == "code")


def test_the_notebook_runs_and_its_record_makes_the_same_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "page").mkdir()
    program = [sys.executable, str(PROGRAM), str(NOTEBOOK), "page"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page/first_steps.md").read_text()
    shown = re.findall(r"!\[[^\]]*\]\((\S+\.png)\)", page)
    assert len(shown) >= 3
    assert {path.name for path in (tmp_path / "page").glob("*.png")} == set(shown)
    low, high = map(float, re.search(r"from ([\d.]+) m to ([\d.]+) m", page).groups())
    assert 1 < low < high < 20  # a tabletop and a wall behind it
    monkeypatch.chdir(tmp_path)
    assert main(["replay", "out/first_steps/result.json"]) == 0
    assert "the same again" in capsys.readouterr().out


def test_what_is_printed_stands_before_the_value_of_the_last_expression(build, tmp_path):
    path = notebook(
        tmp_path / "a.ipynb",
        ("markdown", "# Title"),
        ("code", "x = 20\nprint('first')\nx + 1"),
        ("code", "x += 1"),
        ("code", "x"),
    )
    page, pictures = build.page(path)
    assert not pictures
    assert page.split("\n\n") == [
        "# Title",
        "```python\nx = 20\nprint('first')\nx + 1\n```",
        "```text\nfirst\n21\n```",
        "```python\nx += 1\n```",
        "```python\nx\n```",
        "```text\n21\n```\n",
    ]


def test_a_picture_is_shown_as_one_and_text_where_there_is_none(build, tmp_path):
    code = "class A:\n    def _repr_png_(self): return {}\n    def __repr__(self): return 'text'\nA()"
    page, pictures = build.page(notebook(tmp_path / "a.ipynb", ("code", code.format("b'png'"))))
    assert pictures == {"a_0.png": b"png"}
    assert "](a_0.png)" in page
    assert "text\n" not in page.rpartition("```")[2]
    page, pictures = build.page(notebook(tmp_path / "b.ipynb", ("code", code.format("None"))))
    assert not pictures
    assert page.endswith("```text\ntext\n```\n")


def test_a_cell_that_fails_ends_the_run(build, tmp_path):
    with pytest.raises(ZeroDivisionError):
        build.page(notebook(tmp_path / "a.ipynb", ("code", "1 / 0"), ("code", "print('on')")))
