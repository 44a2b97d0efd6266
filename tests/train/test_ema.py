"""Averaged weights: the right average, used where a model is judged or saved, and nowhere else."""

import dataclasses
import sys

import pytest
import torch
from faulty_task import CONFIG, PlantedTask, same, weights
from safetensors.torch import load_file

from open4m import checksums
from open4m.config import Duration
from open4m.train import checkpoint
from open4m.train.ema import Average
from open4m.train.loop import train
from open4m.types import Open4MError


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


AVERAGED = dataclasses.replace(CONFIG, ema=0.6)


def test_it_is_the_moving_average_of_the_definition():
    model = torch.nn.Linear(3, 2)
    average = Average(model, 0.6)
    expected = model.weight.detach().double()
    for step, decay in enumerate(
        [
            1 / 10,
            2 / 11,
            3 / 12,
            4 / 13,
            5 / 14,
            6 / 15,
            7 / 16,
            8 / 17,
            9 / 18,
            10 / 19,
            11 / 20,
            12 / 21,
            13 / 22,
            0.6,
            0.6,
        ]
    ):
        with torch.no_grad():
            model.weight.copy_(torch.sin(torch.arange(6.0) * (step + 1)).view(2, 3))
        average.update(step)
        expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.values["weight"].double(), expected, rtol=0, atol=1e-6)


def test_a_run_averages_its_weights_after_each_step(tmp_path):
    start = {n: p.detach().double() for n, p in PlantedTask().build_model().named_parameters()}
    expected = start
    for step in range(7):  # a checkpoint a step shows the weights
        task = PlantedTask()
        train(task, AVERAGED, tmp_path / "run", stop_at=step + 1)
        decay = min(0.6, (1 + step) / (10 + step))
        now = dict(task.model.named_parameters())
        expected = {n: decay * v + (1 - decay) * now[n].detach().double() for n, v in expected.items()}
    found = load_file(checkpoint.latest(tmp_path / "run") / "average.safetensors")
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=0, atol=1e-6)
        assert not torch.equal(value, now[name])


def test_it_changes_no_step_and_is_what_is_evaluated_and_saved(tmp_path):
    train(plain := PlantedTask(), CONFIG, tmp_path / "plain")
    train(averaged := PlantedTask(), AVERAGED, tmp_path / "averaged")
    assert same(weights(plain.model), weights(averaged.model))  # the trained weights are back, bit for bit
    values = load_file(checkpoint.latest(tmp_path / "averaged") / "average.safetensors")
    for shown in (averaged.saved[0], averaged.evaluated[-1]):
        assert same({name: shown[name] for name in values}, values)
        for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):  # buffers are the model's
            assert torch.equal(shown[name], plain.model.state_dict()[name])
    assert same(plain.saved[0], weights(plain.model))
    assert not same(plain.saved[0], averaged.saved[0])
    files = [p.name for p in checkpoint.latest(tmp_path / "plain").iterdir()]
    assert "average.safetensors" not in files


@pytest.mark.parametrize("stops", [[1], [5], [8, 13]])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_averages_bit_for_bit_as_an_uninterrupted_one(tmp_path, stops, precision):
    config = dataclasses.replace(AVERAGED, precision=precision)
    train(whole := PlantedTask(), config, tmp_path / "whole")
    for stop in [*stops, None]:
        train(task := PlantedTask(seed=0 if stop == stops[0] else 9), config, tmp_path / "run", stop_at=stop)
    assert same(weights(task.model), weights(whole.model))
    assert same(task.saved[0], whole.saved[0])
    assert same(task.evaluated[-1], whole.evaluated[-1])


def test_trained_weights_are_back_after_an_evaluation_that_failed():
    model = torch.nn.Linear(3, 2)
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.add_(1)
    before, seen = model.weight.detach().clone(), []

    def evaluate():
        with average.applied():
            seen.append(model.weight.detach().clone())
            raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        evaluate()
    assert torch.equal(model.weight, before)
    assert not torch.equal(seen[0], before)


def test_frozen_weights_are_not_averaged():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2).requires_grad_(False), torch.nn.Linear(2, 1))
    assert list(Average(model, 0.5).values) == ["1.weight", "1.bias"]


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(Open4MError, match=r"ema: expected (below 1|at least 0|a number at least 0 and below 1), got"):
        dataclasses.replace(CONFIG, ema=decay)


def test_a_checkpoint_without_an_average_is_refused_where_one_is_needed(tmp_path):
    train(PlantedTask(), AVERAGED, tmp_path / "run", stop_at=3)
    path = checkpoint.latest(tmp_path / "run")
    (path / "average.safetensors").unlink()
    names = checksums.recorded(path).keys() - {"average.safetensors"}
    (path / checksums.FILE).unlink()
    checksums.seal(path, names)
    with pytest.raises(Open4MError, match="step-00000003: not a checkpoint of this run"):
        train(PlantedTask(), AVERAGED, tmp_path / "run")


def test_a_tail_average_is_the_mean_of_the_last_weights_whatever_the_run_is_made_of(tmp_path):
    """Weights after each of the last 5 of 16 steps; before them, evaluations see the weights as they are."""
    config = dataclasses.replace(CONFIG, tail_average=Duration(5, "steps"))
    after = []
    for step in range(config.steps):
        after.append(weights(train(PlantedTask(), config, tmp_path / "run", stop_at=step + 1)))
    train(whole := PlantedTask(), config, tmp_path / "whole")
    saved = whole.saved[0]
    for name in dict(whole.model.named_parameters()):
        expected = torch.stack([one[name] for one in after[-5:]]).mean(0)
        torch.testing.assert_close(saved[name], expected, rtol=1e-5, atol=1e-6)
    assert (tmp_path / "run" / "model" / "weights").read_text() == (
        tmp_path / "whole" / "model" / "weights"
    ).read_text()
    assert same(whole.evaluated[0], after[7])


def test_there_is_one_average_at_most():
    with pytest.raises(Open4MError, match="ema and tail_average are two ways"):
        dataclasses.replace(CONFIG, ema=0.9, tail_average=Duration(5, "steps"))


def test_a_tail_that_begins_before_the_resumed_step_is_the_mean_of_the_steps_that_follow(tmp_path):
    """A run that is made shorter when it is resumed, so that its tail should have begun already."""
    long = dataclasses.replace(
        CONFIG, length=Duration(40, "steps"), decay=Duration(2, "steps"), tail_average=Duration(6, "steps")
    )
    train(PlantedTask(), long, tmp_path / "run", stop_at=12)
    short = dataclasses.replace(long, length=Duration(16, "steps"))
    seen = []

    class Seen(PlantedTask):
        def loss(self, model, batch, generator):
            seen.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
            return super().loss(model, batch, generator)

    train(Seen(), short, tmp_path / "run", stop_at=16)
    after = checkpoint.latest(tmp_path / "run")
    last = load_file(after / "model.safetensors")
    average = load_file(after / "average.safetensors")
    for name, mean in average.items():
        steps = [weights[name] for weights in seen[1:]] + [last[name]]  # after each of the four steps
        torch.testing.assert_close(mean, torch.stack(steps).mean(0))
