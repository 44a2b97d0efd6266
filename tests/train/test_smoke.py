"""The rehearsal before the first step: it finds what would fail at the end, and changes nothing."""

import dataclasses
import logging
import sys

import pytest
import torch
from faulty_task import CONFIG, PlantedTask, lines, same, weights

from open4m.train.log import LOCK
from open4m.train.loop import train

REHEARSED = dataclasses.replace(CONFIG, smoke_test=True)


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


class Messy(PlantedTask):
    """Draws from the global generator, and clamps a weight and changes its batch in the loss, which none should do."""

    def loss(self, model, batch, generator):
        with torch.no_grad():
            model[0].bias.clamp_(max=0.05)
            batch["x"].mul_(1 + 0.1 * torch.rand(1))
        return super().loss(model, batch, generator)

    def evaluate(self, model):
        torch.rand(3)
        return super().evaluate(model)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("settings", [{}, {"precision": "fp16", "ema": 0.9}])
def test_it_changes_nothing(tmp_path, settings, workers):
    found = []
    for smoke_test in (True, False):
        config = dataclasses.replace(CONFIG, smoke_test=smoke_test, workers=workers, **settings)
        task = Messy()
        torch.manual_seed(7)
        train(task, config, tmp_path / str(smoke_test))
        found.append((task, torch.get_rng_state(), lines(tmp_path / str(smoke_test) / "metrics.jsonl")))
        assert len(task.saved) == 1 + smoke_test
        assert len(task.evaluated) == 2 + smoke_test
    (a, state_a, metrics_a), (b, state_b, metrics_b) = found
    assert same(weights(a.model), weights(b.model))
    assert same(a.saved[-1], b.saved[-1])
    assert torch.equal(state_a, state_b)
    assert metrics_a == metrics_b
    names = [sorted(p.name for p in (tmp_path / which).iterdir()) for which in ("True", "False")]
    assert names[0] == names[1]  # nothing is left behind


@pytest.mark.parametrize(
    ("method", "phase"),
    [("loss", "loss"), ("evaluate", "evaluation"), ("pictures", "pictures"), ("save", "saving")],
)
def test_what_would_fail_at_the_end_fails_before_the_first_step(tmp_path, caplog, method, phase):
    task = PlantedTask()

    def fails(*arguments):
        if method == "save":
            arguments[1].mkdir()
            (arguments[1] / "half").write_text("written")
        raise RuntimeError("no such thing")

    setattr(task, method, fails)
    with pytest.raises(RuntimeError, match="no such thing"):
        train(task, REHEARSED, tmp_path / "run")
    assert f"planted: the smoke test before the first step failed: {phase}" in caplog.text
    assert {p.name for p in (tmp_path / "run").iterdir()} - {LOCK} == {"config.json", "metrics.jsonl"}
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""
    train(PlantedTask(), REHEARSED, tmp_path / "run")  # mended: the run starts


def test_a_loss_without_a_gradient_fails_before_the_first_step(tmp_path, caplog):
    task = PlantedTask()
    task.loss = lambda model, batch, generator: (torch.tensor(1.0), {})
    with pytest.raises(RuntimeError, match="does not require grad"):
        train(task, REHEARSED, tmp_path / "run")
    assert "failed: loss and backward pass" in caplog.text


def test_only_a_fresh_run_is_rehearsed_and_the_switch_may_change(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "open4m"):
        train(first := PlantedTask(), REHEARSED, tmp_path / "run", stop_at=3)
        assert caplog.text.count("one batch went through everything") == 1
        train(second := PlantedTask(), REHEARSED, tmp_path / "run", stop_at=4)
        train(third := PlantedTask(), CONFIG, tmp_path / "run", stop_at=6)
    assert [len(task.saved) for task in (first, second, third)] == [1, 0, 0]
    assert caplog.text.count("one batch went through everything") == 1
