"""What a run sends to Weights & Biases, to a stand-in for its library."""

import dataclasses
import json
import sys
import types

import pytest
from line_task import CONFIG, LineTask
from PIL import Image

from open4m.train.loop import train
from open4m.types import Open4MError


class Library(types.ModuleType):
    """Keeps what it is given, by run."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def Image(self, image):
        assert isinstance(image, Image.Image)
        return "a picture"


@pytest.fixture
def library(monkeypatch):
    library = Library()
    monkeypatch.setitem(sys.modules, "wandb", library)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    return library


RECORDED = dataclasses.replace(CONFIG, wandb="lines")


def test_a_project_gets_what_the_run_directory_gets_and_a_resumed_run_goes_on(tmp_path, library):
    directory = tmp_path / "run"
    train(LineTask(), RECORDED, directory, stop_at=12)
    train(LineTask(), RECORDED, directory)
    first, second = library.started
    assert (first["project"], first["dir"], first["resume"]) == ("lines", str(directory), "allow")
    assert first["id"] == second["id"]
    assert first["config"]["train"]["batch_size"] == 8
    assert library.finished == 2
    own = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    theirs = [(step, values) for step, values in library.logged if "a picture" not in values.values()]
    mine = [(line.pop("step"), line) for line in own if "pictures" not in line]
    assert [step for step, _ in theirs] == [step for step, _ in mine]
    for (_, sent), (_, kept) in zip(theirs, mine, strict=True):
        assert sent == {name: value for name, value in kept.items() if name != "seconds"}
    assert [(step, values) for step, values in library.logged if "dot" in values] == [
        (step, {"dot": "a picture"}) for step in (10, 20, 23)
    ]


def test_another_project_is_the_same_run(tmp_path, library):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=2)
    assert not library.started
    train(LineTask(), RECORDED, tmp_path / "run", stop_at=4)
    assert [step for step, _ in library.logged] == [3, 4]


def test_without_the_library_the_extra_is_named(tmp_path, library, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(Open4MError, match=r"open4m\[wandb\]"):
        train(LineTask(), RECORDED, tmp_path / "run")
