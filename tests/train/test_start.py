"""What a run says before its first step, and what it refuses before it takes memory."""

import dataclasses
import logging

import pytest
import torch
from line_task import CONFIG, LineTask

from open4m.config import Duration
from open4m.train import start
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.types import Open4MError


@pytest.fixture
def said(monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)  # takes seconds to import
    caplog.set_level(logging.INFO, logger="open4m")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_run_says_what_it_trains_and_where_it_resumes(said, tmp_path):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=5)
    first = next(line for line in said() if line.startswith("line: cpu"))
    assert "fp32" in first or "bf16" in first
    for part in ("parameters, 100 training samples, batch of 8", "learning rate up to", "steps"):
        assert part in first
    assert "resuming" not in first
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=7)
    assert any(line.endswith("resuming from step 4") or line.endswith("resuming from step 5") for line in said())


def test_a_batch_that_is_larger_than_the_data_is_a_warning(said, tmp_path):
    task = LineTask()
    task.samples = 5
    train(task, CONFIG, tmp_path / "run", stop_at=1)
    assert any("batch_size 8 is larger than the data, 5 samples" in line for line in said())


def test_no_data_are_refused(tmp_path):
    task = LineTask()
    task.samples = 0
    with pytest.raises(Open4MError, match="line: no training samples"):
        train(task, CONFIG, tmp_path / "run")


def test_a_rate_that_is_low_since_the_batch_is_small_is_a_warning(said, tmp_path):
    config = dataclasses.replace(CONFIG, optim=OptimConfig(base_lr=5e-5))
    train(LineTask(), config, tmp_path / "run", stop_at=1)
    (line,) = [line for line in said() if "learning rate is low" in line]
    assert "base_lr 5e-05 is that of batches of 256" in line
    assert "train.optim.base_lr, to 0.03" in line


@pytest.mark.parametrize(
    ("precision", "has", "warns"), [("bf16", False, True), ("bf16", True, False), ("fp32", False, False)]
)
def test_a_precision_that_the_cpu_must_emulate_is_a_warning(said, tmp_path, monkeypatch, precision, has, warns):
    monkeypatch.setattr(start, "multiplies_bfloat16", lambda: has)
    train(LineTask(), dataclasses.replace(CONFIG, precision=precision), tmp_path / "run", stop_at=1)
    assert any("no instructions for bf16" in line and "train.precision=fp32" in line for line in said()) == warns


def test_a_training_without_end_is_a_warning(said, tmp_path):
    config = dataclasses.replace(CONFIG, length=Duration(1e12, "steps"))
    train(LineTask(), config, tmp_path / "run", stop_at=1)
    assert any("days on this CPU" in line and "--device cuda" in line for line in said())


def test_memory_for_what_is_trained_is_that_of_a_rank_and_of_what_is_trained(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(1000, 1000, bias=False), torch.nn.Linear(1000, 1000, bias=False))
    needs = 2 * 16e6  # bytes
    monkeypatch.setattr(start, "memory", lambda device: needs - 1)
    with pytest.raises(Open4MError, match=r"2M parameters need 0 GB to be trained, cpu has .*train\.sharding=zero3"):
        start.check_fits(LineTask(), model, CONFIG)
    model[0].requires_grad_(False)
    start.check_fits(LineTask(), model, CONFIG)
    model[0].requires_grad_(True)
    monkeypatch.setattr("open4m.ranks.count", lambda: 2)
    start.check_fits(LineTask(), model, dataclasses.replace(CONFIG, sharding="zero3"))
    with pytest.raises(Open4MError, match="need 0 GB to be trained"):
        start.check_fits(LineTask(), model, CONFIG)


def test_a_model_that_memory_cannot_hold_is_refused_before_it_is_made():
    class Huge(LineTask):
        made = 0

        def build_model(self):
            layer = torch.nn.Linear(10**6, 10**6)
            assert layer.weight.is_meta
            return layer

    with pytest.raises(Open4MError, match=r"line: 1,000,001M parameters need 4,000 GB to be trained, cpu has"):
        start.built(Huge(), "cpu")


def test_a_warm_up_of_most_of_the_run_is_a_warning(caplog):
    config = dataclasses.replace(CONFIG, length=Duration(20, "steps"), warmup=Duration(11, "steps"))
    model = torch.nn.Linear(1, 1)
    start.announce(LineTask(), config, model, 0)
    assert "warms up for 11 of 20 steps" in caplog.text
    caplog.clear()
    start.announce(LineTask(), dataclasses.replace(config, warmup=Duration(10, "steps")), model, 0)
    assert "warms up" not in caplog.text
