"""Trainings below a folder: which are found, what is said of them, and what differs between two."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from line_task import CONFIG, LineTask
from safetensors.torch import save_file

from open4m.cli.main import main
from open4m.evaluate import runs
from open4m.train.config import claim
from open4m.train.log import owned
from open4m.train.loop import train
from open4m.types import Open4MError


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished run, a stopped one with another learning rate, and folders that are no runs."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        train(LineTask(), CONFIG, root / "done", task_config={"modality": "line"})
        optim = dataclasses.replace(CONFIG.optim, base_lr=0.16)
        train(LineTask(), dataclasses.replace(CONFIG, optim=optim), root / "group" / "half", stop_at=12)
    (root / "empty").mkdir()
    (root / "model-of-others").mkdir()
    (root / "model-of-others" / "config.json").write_text('{"format": 1, "dim": 3}')
    (root / "notes.txt").write_text("no run")
    return root


def test_runs_are_found_wherever_they_lie(root):
    done, half = runs.find(root)
    assert (done.name, done.task, done.state, done.step, done.steps) == ("done", "tokenizer line", "finished", 23, 23)
    assert (half.name, half.task, half.state, half.step, half.steps) == ("group/half", "?", "stopped", 12, 23)
    assert done.loss > 0
    assert done.samples_per_second > 0
    assert half.hours is not None
    assert half.parameters == 2 * 4 + 4 + 4 + 1
    assert done.disk > sum(f.stat().st_size for f in (root / "done" / "checkpoints").rglob("*") if f.is_file())


def test_a_run_of_one_folder_is_listed_by_it(root):
    (run,) = runs.find(root / "done")
    assert run.name == str(root / "done")


def test_damaged_and_foreign_files_crash_nothing(tmp_path):
    for name, config, metrics in [
        ("cut", '{"train": {', '{"step": 3, "seconds": 1}\n'),
        ("other", "[1, 2]", '{"step": 3, "seconds": 1}\n'),
        ("binary", "\x00\xff", "\x00\n"),
        ("nothing", "", ""),
        ("newer", '{"format": 999999, "train": {}, "task": {}}', '{"step": 3, "seconds": 1}\n'),
    ]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(config.encode("latin1"))
        (tmp_path / name / "metrics.jsonl").write_bytes(metrics.encode("latin1"))
    claim(tmp_path / "odd", {"train": {"length": 3}, "task": {"model": []}})
    (tmp_path / "odd" / "metrics.jsonl").write_text('no json\n{"step": 7, "seconds": 2, "loss": "low"}\n[]\n{"st')
    found = {run.name: run for run in runs.find(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        **dict.fromkeys(["cut", "other", "binary", "nothing", "newer"], "damaged"),
        "odd": "stopped",
    }
    odd = found["odd"]
    assert (odd.task, odd.step, odd.steps, odd.loss) == ("?", 7, None, None)
    runs.table(list(found.values()))


@pytest.mark.parametrize(
    "header", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 8, b'\x05\0\0\0\0\0\0\0{"a"', b'\x08\0\0\0\0\0\0\0{"a": 1}']
)
def test_a_damaged_weights_file_tells_no_size(tmp_path, header):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(header)
    assert runs._parameters(tmp_path) is None
    newest = tmp_path / "checkpoints" / "step-00000002"
    newest.mkdir(parents=True)
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(7)}, newest / "model.safetensors")
    assert runs._parameters(tmp_path) == 22


def test_a_run_is_running_while_its_process_lives(tmp_path):
    """The lock is the system's: it ends with the process, however that ends."""
    claim(tmp_path / "run", {"train": CONFIG, "task": {}})
    code = (
        "import sys; sys.modules['torch.utils.tensorboard'] = None\n"
        "from pathlib import Path; from open4m.train.log import owned\n"
        f"with owned(Path({str(tmp_path / 'run')!r})): print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        assert runs.read(tmp_path / "run").state == "running"
        process.kill()
    assert runs.read(tmp_path / "run").state == "stopped"
    with owned(tmp_path / "run"):
        pass
    assert runs.read(tmp_path / "run").state == "stopped"


def test_a_comparison_names_what_differs_and_nothing_else(root):
    rows = runs.differences(root / "done", root / "group" / "half")
    assert ("train.optim.base_lr", "0.32", "0.16") in rows
    assert {name for name, *_ in rows} == {"train.optim.base_lr", "task", "task.modality"}
    assert runs.differences(root / "done", root / "done") == []
    with pytest.raises(Open4MError, match=r"empty: has no config\.json"):
        runs.differences(root / "done", root / "empty")


def test_parts_of_lists_are_compared_by_their_names():
    one = {"strategies": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}], "betas": [0.9, 0.95]}
    assert runs._flat(one) == {
        "strategies.a.name": "a",
        "strategies.a.weight": "1",
        "strategies.b.name": "b",
        "strategies.b.weight": "1",
        "betas": "[0.9, 0.95]",
    }


def test_the_commands_list_compare_and_draw(root, tmp_path, capsys):
    assert main(["runs", str(root)]) == 0
    listed = capsys.readouterr().out
    assert "group/half" in listed
    assert "12 of 23" in listed
    assert main(["runs", "compare", str(root / "done"), str(root / "group" / "half")]) == 0
    compared = capsys.readouterr().out
    assert "train.optim.base_lr" in compared
    assert "validation/bias" in compared
    picture = tmp_path / "curves.png"
    both = [str(root / "done"), str(root / "group" / "half")]
    assert main(["runs", "plot", *both, "--metrics", "bias", "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "no such folder"),
        (["compare", "one"], "at least two"),
        (["plot"], "name the trainings"),
        (["one", "two"], "expected one folder"),
        (["."], "holds no trainings"),
    ],
)
def test_what_cannot_be_shown_is_said(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", *words]) == 2
    assert message in capsys.readouterr().err


def test_in_a_pipe_each_run_is_a_line_with_its_whole_name(root):
    folder = root / ("a-long-name-" * 6)
    claim(folder / "4m", {"train": CONFIG, "task": {}})
    done = subprocess.run(
        [sys.executable, "-m", "open4m", "runs", str(root)], capture_output=True, text=True, check=True
    )
    assert any(str(folder.name) in line and "stopped" in line for line in done.stdout.splitlines())
