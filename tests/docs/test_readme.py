"""The commands that the documentation shows work: they are taken from the pages and run."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from open4m import configs
from open4m.cli.main import main
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: str, kind: str) -> list[tuple[str, str]]:
    """(language, code) of the page's code blocks that are marked with a kind."""
    return [(language, code) for mark, language, code in BLOCK.findall((ROOT / page).read_text()) if mark == kind]


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, timeout=900
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands(page: str, kind: str) -> list[tuple[dict[str, str], list[str]]]:
    """(environment, arguments after the program's name) of each line of the shell blocks."""
    found = []
    for language, code in blocks(page, kind):
        for line in code.replace("\\\n", "").splitlines() if language == "bash" else ():
            words = shlex.split(line, comments=True)
            environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z0-9_]+=", word))
            program, *arguments = words[len(environment) :]
            assert program == ".venv/bin/open4m"
            found.append((environment, arguments))
    return found


@pytest.fixture
def clone(tmp_path):
    """A folder that looks like the root of a clone to the commands."""
    for name in ("docs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_what_the_shipped_model_knows_stands_beside_the_first_command():
    before = (ROOT / "README.md").read_text().partition("```bash")[0]
    assert "The shipped model knows rendered scenes" in before.rpartition("\n## ")[2]


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    code = re.search(r"## Two commands\n.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    targets = [line.split()[1] for line in code.splitlines()]
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


@pytest.mark.parametrize(("environment", "arguments"), commands("README.md", "run"))
def test_a_command_of_the_readme_runs(environment, arguments, clone, monkeypatch):
    monkeypatch.chdir(clone)
    assert not environment
    assert main(arguments) == 0


@pytest.mark.parametrize(("environment", "arguments"), commands("README.md", "print"))
def test_a_long_command_of_the_readme_parses(environment, arguments, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    assert not environment
    assert main([*arguments, "--print-config"]) == 0
    assert capsys.readouterr().out.startswith("{")


@pytest.mark.parametrize(("environment", "arguments"), commands("docs/new_modality.md", "print"))
def test_a_tiny_training_on_data_of_your_own_parses(environment, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ((_, code),) = blocks("docs/new_modality.md", "model")
    (tmp_path / "model.py").write_text(code)
    assert not environment
    assert main([*arguments, "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["image_size"] == 64


def test_the_python_of_the_readme_runs(clone):
    code = "".join(code for language, code in blocks("README.md", "run") if language == "python")
    assert "from_pretrained" in code
    run([sys.executable, "-c", code], clone)
    assert (clone / "depth.png").stat().st_size > 0


@pytest.mark.xdist_group("line")
def test_the_new_modality_of_the_documentation_trains(clone, debug_run):
    """From the debug line's data and trainings, which are the same but for the new modality's: a line skips what is
    there."""
    ((environment, arguments),) = commands("docs/new_modality.md", "edges")
    assert arguments[-2:] == ["--out", "runs/edges"]
    for name in ("raw", "large", "clip", "tokenizers", "tokens"):
        shutil.copytree(debug_run / name, clone / "runs/edges" / name)
    before = {path: path.stat().st_mtime_ns for path in (clone / "runs/edges").rglob("*.safetensors")}
    run([sys.executable, "-m", "open4m", *arguments], clone, **environment)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert (clone / "runs/edges/model/tokenizers/edges/model.safetensors").exists()
    words = "generate --model runs/edges/model --input docs/images/scene.png --to edges"
    assert "edges:" in run([sys.executable, "-m", "open4m", *words.split()], clone, **environment)
    run([sys.executable, "-m", "open4m", "demo", "--model", "runs/edges/model"], clone, **environment)
    assert (clone / "demo" / "grid.png").exists()


def test_raw_data_of_the_documentation_are_written_and_read(tmp_path):
    (code,) = [code for language, code in blocks("docs/new_modality.md", "raw") if language == "python"]
    run([sys.executable, "-c", code], tmp_path)
    assert (tmp_path / "runs" / "raw" / "depth" / "manifest.json").exists()


def test_photos_that_are_not_square_are_fitted_as_the_page_says(tmp_path):
    page = "docs/formats_and_frames.md"
    ((_, code),) = blocks(page, "frames")
    run([sys.executable, "-c", code], tmp_path)
    for environment, arguments in commands(page, "run"):
        arguments = [str(ROOT / word) if word.startswith("docs/") else word for word in arguments]
        run([sys.executable, "-m", "open4m", *arguments], tmp_path, **environment)
    assert (tmp_path / "out" / "letterbox" / "result.json").exists()


def test_the_shown_table_is_the_measured_one():
    results = re.compile(r"<!-- results -->\n(.*?)\n<!-- /results -->", re.DOTALL)
    readme = results.search((ROOT / "README.md").read_text())[1].strip()
    assert readme.count("\n") > 8
    assert readme in (ROOT / "src/open4m/pretrained/scenes/README.md").read_text()


def test_help_is_instant():
    def seconds(*arguments):
        """Of the processor: other work on the machine costs none."""
        before = os.times()
        run([sys.executable, *arguments], ROOT)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert seconds("-m", "open4m", "--help") - seconds("-c", "pass") < 0.5


PAGES = [
    path.relative_to(ROOT).as_posix() for kind in ("md", "ipynb") for path in sorted((ROOT / "docs").rglob(f"*.{kind}"))
]


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", *PAGES])
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    missing = [link for link in links if "://" not in link and not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_every_picture_of_the_tokenizers_page_is_shown():
    folder, page = ROOT / "docs/images/tokenizers", (ROOT / "docs/tokenizers.md").read_text()
    assert {path.name for path in folder.iterdir()} == set(re.findall(r"images/tokenizers/([\w-]+\.png)", page))
    assert all(path.stat().st_size < 400_000 for path in folder.iterdir())


@pytest.mark.parametrize(("kind", "type_"), [("tokenizer", TokenizerRun), ("model", PretrainConfig)])
def test_the_configurations_for_data_of_your_own_are_configurations(kind, type_, tmp_path):
    ((_, code),) = blocks("docs/new_modality.md", kind)
    path = tmp_path / "config.py"
    path.write_text(code)
    assert isinstance(configs.get(str(path)), type_)
