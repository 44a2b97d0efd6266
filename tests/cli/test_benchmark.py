"""``open4m benchmark transfers``: the whole command on a few scenes, and what it refuses."""

import re
import sys

import pytest
from small_model import model  # noqa: F401

from open4m.cli.main import main

SMALL = (
    "epochs=2",
    "warmup_epochs=0",
    "frozen_epochs=1",
    "evaluations=2",
    "batch_size=4",
    "smoke_test=false",
    "scenes.train=8",
    "scenes.validation=4",
    "scenes.image_size=32",
    *(
        f"scenes.tokenizers.{name}.{field}"
        for name in ("edges_2d", "occlusion_edges", "depth", "normals")
        for field in (
            "image_size=32",
            "stages.0.train.length=2 steps",
            "stages.0.train.warmup=0 steps",
            "stages.0.train.batch_size=4",
            "stages.0.train.smoke_test=false",
        )
    ),
)
TASKS = ("scenes-rgb_pixels-to-edges_2d", "scenes-depth-to-edges_2d")


@pytest.fixture
def pretrained(model, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model.save(tmp_path / "tiny" / "model")
    return tmp_path / "tiny" / "model"


def test_the_command_makes_a_table_and_adds_to_it(pretrained, tmp_path, capsys):
    common = ["benchmark", "transfers", "--out", str(tmp_path / "out"), "--device", "cpu", *SMALL]
    assert main([*common, "--model", str(pretrained), "--tasks", *TASKS[:1]]) == 0
    first = capsys.readouterr().out
    assert re.search(r"^\| tiny \| \*\*\d\.\d{3}\*\* \| \*\*\d\.\d{3}\*\* \| 1\.00 \|$", first, re.MULTILINE)
    assert re.search(r"^\| no pre-training \| \d\.\d{3} \| \d\.\d{3} \| – \|$", first, re.MULTILINE)
    models = [f"a={pretrained}", f"tiny={pretrained}"]
    assert main([*common, "--model", *models, "--tasks", *TASKS, "--no-scratch", "--keep-best"]) == 0
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert rows[0] == ["| model", "RGB→X", "X→Y", "average loss", "average rank |"]
    assert [row[0] for row in rows[1:3]] == ["| a", "| tiny"]
    assert [row[1:3] for row in rows[1:2]] == [row[1:3] for row in rows[2:3]]  # the same model, to the bit
    assert [row[0].removeprefix("| ") for row in rows[4:]] == list(TASKS)
    assert out.splitlines()[-1] == str(tmp_path / "out")
    assert (tmp_path / "out/runs/a" / TASKS[1] / "best/model.safetensors").is_file()
    assert not (tmp_path / "out/runs/tiny" / TASKS[0] / "best").exists()  # it was done before


def test_a_dry_run_says_what_would_be_done(pretrained, tmp_path, capsys):
    words = ["--model", str(pretrained), "--tasks", "scenes-*", "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(["benchmark", "transfers", *words, "--limit-train", "50", "batch_size=8"]) == 0
    out = capsys.readouterr().out
    assert "data scenes: 50 + 64 rendered scenes" in out
    assert "batches of 8" in out
    assert "12 of 12 transfers are to be made" in out
    assert not (tmp_path / "out").exists()


def test_the_tasks_of_the_paper_are_listed(capsys):
    assert main(["benchmark", "transfers", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if not line.startswith("scenes-")]) == 35
    assert "taskonomy-edges_2d+keypoints_3d-to-rgb  (X+Y→Z)" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model: name at least one model"),
        (["--model", "epochs=3", "scenes.train=9"], "--model: name at least one model"),
        (["--model", "scenes"], "--data: name the folder with the data sets (coco, ade20k, taskonomy, hypersim)"),
        (["--model", "scenes", "--tasks", "hypersim-*"], "(hypersim)"),
        (["--model", "scenes", "--tasks", "scenes-depth"], "no task 'scenes-depth'; did you mean "),
        (["--model", "scenes", "scenes", "--tasks", "scenes-*"], "the model scenes is named twice"),
        (["--model", "a/b=scenes", "--tasks", "scenes-*"], "'a/b' names a folder and a row"),
        (["--model", "nowhere/model", "--tasks", "scenes-*"], "nowhere/model"),
        (["--model", "scenes", "--tasks", "scenes-*", "epoch=3"], "epoch: unknown field 'epoch'; did you mean epochs?"),
        (["--model", "scenes", "--tasks", "scenes-*", "scenes.trains=3"], "scenes.trains: unknown field"),
        (["--model", "scenes", "--tasks", "scenes-*", "--limit-train", "0"], "--limit-train: expected a number"),
        (["--model", "scenes", "--tasks", "ade20k-*", "--data", "nowhere"], "ade20k: no such folder"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, capsys):
    assert main(["benchmark", "transfers", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error
