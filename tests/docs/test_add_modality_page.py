"""The commands of docs/add_modality.md, with the shipped model, in few steps on few scenes."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from open4m import modalities
from open4m.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_modality.md").read_text()
SMALL = {
    "reproduce": ("data.train=4", "data.validation=2", "data.shard_rows=4", "processes=1"),
    "add-modality": (
        "batch_size=2",
        "budget=16",
        "tokenizer_length=2 steps",
        "warmup_length=2 steps",
        "length=2 steps",
        "warmup.train.smoke_test=false",
        "pretrain.train.smoke_test=false",
    ),
}


def follow(mark):
    """Run each line of the page's block with a mark, trainings in a few steps."""
    code = re.search(rf"<!-- test: {mark} -->\n```bash\n(.*?)```", PAGE, re.DOTALL)[1]
    for line in code.replace("\\\n", "").splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == ".venv/bin/open4m"
        assert main([*words, *SMALL.get(words[0], ())]) == 0, words


@pytest.mark.slow
def test_the_shipped_model_learns_outlines(tmp_path, monkeypatch, capsys):
    for name in ("examples", "docs", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(modalities, "_registered", {})
    monkeypatch.setattr(modalities, "_carried", {})
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, "")
    follow("data")
    capsys.readouterr()
    follow("add")
    out = capsys.readouterr().out
    assert re.findall(r"^\| (\w+) \|", out, re.MULTILINE)[1:] == [
        "rgb",
        "depth",
        "normals",
        "semseg",
        "clip",
        "caption",
        "boxes",
    ]
    assert "**outlines**" in out
    assert (tmp_path / "runs/outlines/model/plans.json").exists()  # the old model's
    assert (tmp_path / "runs/outlines/model/reader/config.json").exists()
    monkeypatch.setattr(modalities, "_registered", {})
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, "")
    follow("use")
    assert Image.open(tmp_path / "out/outlines/outlines.outlines.png").size == (128, 128)


@pytest.mark.parametrize("stage", ["tokenizers", "tokenize", "warmup", "train", "assemble", "compare"])
def test_the_page_names_every_stage(stage):
    assert f"| `{stage}` |" in PAGE
