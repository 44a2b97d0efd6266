"""docs/public_models.md: its commands run on a tiny hub or are understood, and its tables name all public models."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny_hub
from PIL import Image

from open4m import FourM
from open4m.cli.main import COMMANDS, _parser, main
from open4m.hub import locate
from open4m.hub.ml4m import table

PAGE = (Path(__file__).parents[2] / "docs" / "public_models.md").read_text()
BLOCKS = [code.strip().splitlines() for code in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
LINES = [shlex.split(line, comments=True) for block in BLOCKS for line in block]
INLINE = [shlex.split(code) for code in re.findall(r"`((?:open4m|python -m) [^`]+)`", PAGE.replace("\n", " "))]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder with a photo, and a hub that has no more than the page says."""
    owner = tiny_hub.make(tmp_path / "hub")
    monkeypatch.setenv(locate.HUB_VARIABLE, str(owner.parent))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), (200, 40, 40)).save("photo.jpg")
    return owner


def test_the_commands_of_the_page_run_in_their_order_on_a_tiny_hub(hub, capsys):
    """But for normals, which the tiny hub has not, and downloads."""
    run = [["semseg" if word == "normals" else word for word in words[1:]] for words in LINES if words[0] == "open4m"]
    assert [words[0] for words in run] == ["generate", "import", "info", "generate"]
    for place, words in enumerate(run):
        out = [] if words[0] != "generate" or "--out" in words else ["--out", f"out{place}"]
        assert main([*words, *out]) == 0, words
    assert json.loads(Path("out3/result.json").read_text())["request"]["targets"] == ["depth", "semseg", "caption"]
    assert main(["export", "models/4m-7-b", "OUT"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("words", [words for words in INLINE if words[0] == "open4m"], ids=" ".join)
def test_commands_in_the_text_are_understood(words):
    command, *rest = words[1:]
    assert command in COMMANDS
    if rest:  # a whole one
        _parser(command).parse_args([command, *rest])


def test_benchmarks_in_the_text_are_there():
    run = [words[2] for words in INLINE if words[0] == "python"]
    assert run
    assert all((Path(__file__).parents[2] / f"{module.replace('.', '/')}.py").is_file() for module in run)


def test_downloads_are_those_that_errors_name(monkeypatch):
    monkeypatch.delenv(locate.HUB_VARIABLE, raising=False)
    monkeypatch.setattr(table, "is_here", lambda *_: False)
    said = table.downloads(f"{table.OWNER}/{tiny_hub.BASE}")
    downloads = [words for words in LINES if words[0] == "hf"]
    assert len(downloads) == 2
    for program, verb, name, option, place in downloads:
        owner, repository = name.split("/")
        assert (program, verb, option, owner, place) == ("hf", "download", "--local-dir", table.OWNER, f"HUB/{name}")
        assert f" {repository}," in said
    assert "hf download EPFL-VILAB/NAME --local-dir HUB/EPFL-VILAB/NAME" in said
    assert f"`{table.TEXT.name}`, to `HUB/`" in PAGE
    assert f"to HUB/{table.TEXT.name}" in said


def test_the_python_of_the_page_makes_what_it_says(hub):
    first, second = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (hub / "4M-21_XL").symlink_to(hub / tiny_hub.BASE)
    found = {"FourM": FourM}
    exec(first, found)
    assert list(found["result"].values) == ["depth", "caption", "boxes"]
    exec(second.replace('"clip"', '"semseg"'), found)
    assert (found["result"]["rgb"].shape, found["result"]["rgb@448"].shape) == ((224, 224, 3), (448, 448, 3))


def test_the_tables_name_all_public_models():
    tables = PAGE.partition("## Names")[2].partition("## Memory")[0]
    rows = [line.split("|")[1] for line in tables.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`([^`…]+)`", row)}
    assert named == {*table.TRANSFORMERS, *(name.removeprefix("4M_tokenizers_") for name in table.TOKENIZERS.values())}
    assert all(PAGE.count(f"\n| {size} | ") == 2 for size in ("B", "L", "XL"))  # memory; what a request needs
