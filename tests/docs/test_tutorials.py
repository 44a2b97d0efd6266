"""docs/tutorials: short pages, whose commands are those there are; those that cost little are run."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from open4m import configs
from open4m.cli.main import _parser, main
from open4m.configs.mine import OwnData

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCKS = {
    path.stem: re.findall(r"<!-- test: ([\w.]+) -->\n```(\w+)\n(.*?)```", path.read_text(), re.DOTALL) for path in PAGES
}


def commands(page, *marks):
    """The words behind open4m of each command of a page's blocks with one of some marks."""
    for mark, language, code in BLOCKS[page]:
        if mark in marks and language == "bash":
            for line in code.replace("\\\n", "").splitlines():
                words = shlex.split(line, comments=True)
                if "open4m" in {Path(word).name for word in words}:
                    yield words[[Path(word).name for word in words].index("open4m") + 1 :]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_short_and_leads_on(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 120
    assert len(re.findall(r"\]\(\.\./\w+\.md", text.partition("## Where to go on")[2])) >= 2


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_command_is_one_that_there_is(path):
    found = list(commands(path.stem, "parse", "run", "offline"))
    assert len(found) >= 3
    for words in found:
        if "--" not in words:  # what follows are words of another command
            left = _parser(words[0]).parse_known_args(words)[1]
            assert all(re.match(r"[\w.]+=", word) for word in left), words
            if words[:2] == ["train", "mine"]:
                assert {word.partition("=")[0] for word in left} <= {field.name for field in fields(OwnData)}
    shown = re.findall(r"```bash\n(.*?)```", path.read_text(), re.DOTALL)
    assert len(shown) - len([1 for _, language, _ in BLOCKS[path.stem] if language == "bash"]) <= 1  # make demo, sbatch


@pytest.mark.parametrize("page", [path.stem for path in PAGES if any(mark == "run" for mark, *_ in BLOCKS[path.stem])])
def test_commands_that_cost_little_run(page, tmp_path, monkeypatch, capsys):
    for name in ("docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for words in commands(page, "run"):
        assert main(words) == 0, words
    said = capsys.readouterr().out
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / f"docs/tutorials/{page}.md").read_text(), re.DOTALL)
    if page == "first_model":
        (again,) = set(re.findall(r"the same again, \d+ tokens", said))
        assert any(again in block for block in blocks)
    else:  # what is counted, and not measured, is the same everywhere
        (line,) = re.findall(r"^parameters .*$", said, re.MULTILINE)
        assert any(line in block for block in blocks)


def test_the_python_of_a_page_runs_and_prints_what_is_shown(tmp_path):
    ((page, code),) = [(page, code) for page, found in BLOCKS.items() for mark, _, code in found if mark == "python"]
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = {**os.environ, "OPEN4M_MODALITIES": str(ROOT / "examples/edges/modalities")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    assert (tmp_path / "edges.png").exists()
    assert f"```text\n{done.stdout}```" in (ROOT / f"docs/tutorials/{page}.md").read_text()


def test_the_configuration_of_two_processes_is_one(tmp_path):
    ((code,),) = [[code for mark, _, code in BLOCKS["cluster"] if mark == "two.py"]]
    (tmp_path / "two.py").write_text(code)
    assert configs.get(str(tmp_path / "two.py")) == configs.get("debug").pretrain


def test_the_labeller_of_a_new_modality_labels(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray((np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)).save(tmp_path / "photos/a.png")
    ((code,),) = [[code for mark, _, code in BLOCKS["own_modality"] if mark == "labels.py"]]
    (tmp_path / "labels.py").write_text(code)
    environment = {**os.environ, "OPEN4M_MODALITIES": str(ROOT / "examples/edges/modalities")}
    (label,) = [words for words in commands("own_modality", "parse") if words[0] == "label"]
    for words in (["data", "import", "photos", "raw"], label):
        program = [sys.executable, "-m", "open4m", *words]
        done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert "raw/train: 1 of 1 samples have edges" in done.stdout


def test_what_is_not_on_this_machine_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (words,) = commands("public_models", "offline")
    assert main(words) == 2
    assert "then set OPEN4M_HUB=HUB" in capsys.readouterr().err
