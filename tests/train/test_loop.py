"""The training loop: resuming changes nothing, stopping loses nothing, and what cannot go on says so."""

import dataclasses
import json
import os
import sys

import pytest
import torch
from line_task import CONFIG, LineTask, metrics
from safetensors.torch import load_file

from open4m.config import Duration
from open4m.train.config import FORMAT, TrainConfig
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.train.schedules import cosine
from open4m.types import Open4MError


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # seconds to import; the loop goes without it


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        task = LineTask()
        model = train(task, CONFIG, directory)
    return directory, task, model


def test_a_run_records_everything(uninterrupted):
    directory, task, _ = uninterrupted
    recorded = metrics(directory)
    losses = {line["step"]: line for line in recorded if "loss" in line}
    assert sorted(losses) == list(range(1, 24))
    for done, line in losses.items():
        assert line["lr"] == 0.32 * 8 / 256 * cosine(done - 1, 23, 5)
        assert line["tokens"] == 10 * done
        assert line["half"] == pytest.approx(line["loss"] / 2)
    assert [line["step"] for line in recorded if "validation/bias" in line] == [10, 20, 23]
    assert sorted(p.name for p in (directory / "pictures").iterdir()) == [f"dot-{n:07d}.png" for n in (10, 20, 23)]
    assert task.steps == list(range(23))
    assert set(task.modes) == {(True, True)}  # bf16 autocast, and back in training mode after each evaluation
    assert (directory / "model" / "weights").exists()
    config = json.loads((directory / "config.json").read_text())
    assert (config["train"]["length"], config["format"]) == ("23 steps", FORMAT)


@pytest.mark.parametrize("stops", [[4], [5], [7, 10], [1, 2, 22]])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, uninterrupted, stops):
    for stop in [*stops, None]:
        task = LineTask(seed=0 if stop == stops[0] else 99)  # what a resumed run starts with does not matter
        model = train(task, CONFIG, tmp_path / "run", stop_at=stop)
        assert (tmp_path / "run" / "model").exists() == (stop is None)
    assert metrics(tmp_path / "run") == metrics(uninterrupted[0])
    assert torch.equal(model[0].weight, uninterrupted[2][0].weight)
    assert (tmp_path / "run" / "model" / "weights").read_text() == (uninterrupted[0] / "model" / "weights").read_text()


def test_steps_after_the_last_checkpoint_are_computed_again_and_recorded_once(tmp_path, uninterrupted):
    """A process that is killed leaves metrics of steps that no checkpoint holds, and perhaps half a line."""
    directory = tmp_path / "run"
    train(LineTask(), CONFIG, directory, stop_at=8)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 123.0}\n{"step": 10, "lo')
    train(LineTask(), CONFIG, directory)
    assert metrics(directory) == metrics(uninterrupted[0])


def test_batches_are_made_in_order_by_worker_processes_and_change_nothing(tmp_path, uninterrupted):
    task = LineTask(pause=0.001)
    config = dataclasses.replace(CONFIG, workers=2)
    train(task, config, tmp_path / "run", stop_at=9)
    train(task, config, tmp_path / "run")
    assert task.steps == list(range(23))
    assert metrics(tmp_path / "run") == metrics(uninterrupted[0])


def test_a_finished_run_does_nothing_more(tmp_path, uninterrupted):
    task = LineTask()
    config = dataclasses.replace(CONFIG, length=Duration(3, "steps"), warmup=Duration(1, "steps"))
    train(task, config, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    train(task, config, tmp_path / "run")
    assert (task.saved, len(task.steps)) == (1, 3)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    train(LineTask(), CONFIG, tmp_path / "run", task_config={"width": 4}, stop_at=2)
    other = dataclasses.replace(CONFIG, batch_size=4, optim=OptimConfig(base_lr=0.32, clip=None))
    with pytest.raises(Open4MError) as error:
        train(LineTask(), other, tmp_path / "run", task_config={"width": 5})
    for part in ("train.batch_size: 8 -> 4", "train.optim.clip: 0.5 -> None", "task.width: 4 -> 5"):
        assert part in str(error.value)
    assert "base_lr" not in str(error.value)
    assert len(metrics(tmp_path / "run")) == 2


def test_a_directory_that_only_some_systems_can_name_is_refused_before_any_work(tmp_path):
    directory = tmp_path / os.fsdecode(b"run\xff")
    with pytest.raises(Open4MError, match="run directory: expected the path of a file or folder"):
        train(LineTask(), CONFIG, directory)
    assert not list(tmp_path.iterdir())


def test_a_run_of_a_newer_format_is_refused(tmp_path):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=1)
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(Open4MError, match=rf"config.json: has format {FORMAT + 1}, this open4m reads .*update open4m"):
        train(LineTask(), CONFIG, tmp_path / "run")


def test_a_run_from_before_there_were_formats_is_resumed(tmp_path, uninterrupted):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=6)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["format"], config["train"]["activation_checkpointing"]
    config["train"]["recompute"] = True
    path.write_text(json.dumps(config))
    train(LineTask(), CONFIG, tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(uninterrupted[0])


def test_what_changes_no_result_may_change_when_a_run_is_resumed(tmp_path, uninterrupted):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=6)
    train(LineTask(), dataclasses.replace(CONFIG, checkpoint_every=9, workers=1), tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(uninterrupted[0])


def test_gradients_are_clipped_to_the_configured_norm(tmp_path):
    """AdamW's first moment after one step is 0.1 of the gradient that the step used."""
    for clip, expected in ((0.5, 0.5), (None, None)):
        directory = tmp_path / str(clip)
        train(LineTask(), dataclasses.replace(CONFIG, optim=OptimConfig(clip=clip)), directory, stop_at=1)
        moments = load_file(directory / "checkpoints" / "step-00000001" / "optimizer.safetensors")
        used = 10 * torch.cat([m.flatten() for name, m in moments.items() if name.endswith("exp_avg")]).norm().item()
        before = metrics(directory)[0]["gradient_norm"]
        assert before > 0.6
        assert used == pytest.approx(expected or before, rel=1e-4)


def test_a_model_is_saved_whole_or_not_at_all(tmp_path):
    class Fails(LineTask):
        def save(self, model, folder):
            super().save(model, folder)
            raise OSError(28, "No space left on device")

    config = dataclasses.replace(CONFIG, length=Duration(3, "steps"), warmup=Duration(1, "steps"))
    with pytest.raises(Open4MError, match=r"model: cannot be written \(No space.*free some space"):
        train(Fails(), config, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    train(LineTask(), config, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "model").iterdir()] == ["weights"]


def test_full_precision_is_not_autocast(tmp_path):
    task = LineTask()
    train(
        task,
        dataclasses.replace(CONFIG, precision="fp32", length=Duration(2, "steps"), warmup=Duration(1, "steps")),
        tmp_path / "run",
    )
    assert set(task.modes) == {(True, False)}


def test_lengths_in_tokens_and_samples():
    config = TrainConfig(
        length=Duration.parse("1M tokens"), warmup=Duration.parse("1000 samples"), batch_size=64, tokens_per_sample=100
    )
    assert (config.steps, config.warmup_steps) == (157, 16)  # 156.25 and 15.6, rounded up


STABLE = dataclasses.replace(CONFIG, decay=Duration(6, "steps"))  # of 23 steps


def of_length(steps):
    return dataclasses.replace(STABLE, length=Duration(steps, "steps"))


@pytest.mark.parametrize("stop", [3, 14, 17])
def test_a_run_with_a_decay_can_be_made_longer_until_the_decay_begins(tmp_path, stop):
    """As if it had been so long from the start; 14 is between two evaluations."""
    expected = train(LineTask(), of_length(31), tmp_path / "whole")
    train(LineTask(), STABLE, tmp_path / "run", stop_at=stop)
    model = train(LineTask(), of_length(31), tmp_path / "run")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert torch.equal(model[0].weight, expected[0].weight)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["length"] == "31 steps"


@pytest.mark.parametrize(
    ("stop", "steps", "hint"),
    [(18, 31, "step 23 only"), (18, 22, "step 23 only"), (12, 17, "step 18 or later")],
)
def test_a_length_that_what_is_done_does_not_fit_is_refused(tmp_path, stop, steps, hint):
    train(LineTask(), STABLE, tmp_path / "run", stop_at=stop)
    with pytest.raises(Open4MError, match=hint):
        train(LineTask(), of_length(steps), tmp_path / "run")
    train(LineTask(), STABLE, tmp_path / "run")  # nothing is lost
    assert (tmp_path / "run" / "model").exists()


def test_without_a_decay_the_length_is_compared(tmp_path):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=3)
    with pytest.raises(Open4MError, match="length: 23 steps -> 31 steps"):
        train(LineTask(), dataclasses.replace(CONFIG, length=Duration(31, "steps")), tmp_path / "run")


def test_an_empty_folder_of_a_model_is_no_finished_run(tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    train(LineTask(), CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "model" / "weights").exists()


def test_a_record_that_is_removed_meanwhile_ends_the_run(tmp_path):
    class Removes(LineTask):
        def batch(self, step, rows):
            if step == 6:
                (tmp_path / "run" / "metrics.jsonl").unlink()
            return super().batch(step, rows)

    with pytest.raises(Open4MError, match=r"metrics\.jsonl: was removed or replaced while the run wrote to it"):
        train(Removes(), CONFIG, tmp_path / "run")


def test_named_steps_are_evaluated_and_a_task_hears_of_each(tmp_path):
    """With the weights that were measured."""

    class Heard(LineTask):
        def __init__(self):
            super().__init__()
            self.heard = []

        def after_evaluation(self, step, values, model):
            self.heard.append((step, values["bias"], float(model[1].bias)))

    task = Heard()
    train(task, dataclasses.replace(CONFIG, ema=0.9, evaluate_at=(3, 7, 22)), tmp_path / "run")
    recorded = {
        line["step"]: line["validation/bias"] for line in metrics(tmp_path / "run") if "validation/bias" in line
    }
    assert [*recorded] == [3, 7, 22]
    assert task.heard == [(step, value, value) for step, value in recorded.items()]


@pytest.mark.parametrize("end", [20, 23])
def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path, uninterrupted, end):
    """The checkpoint of its step was written before it; of the last step, there is nothing left to train."""

    class Failing(LineTask):
        def evaluate(self, model):
            if len(self.steps) == end:
                raise KeyError("the machine is gone")
            return super().evaluate(model)

    with pytest.raises(KeyError):
        train(Failing(), CONFIG, tmp_path / "run")
    task = LineTask()
    train(task, CONFIG, tmp_path / "run")
    assert task.steps == list(range(end, 23))
    assert metrics(tmp_path / "run") == metrics(uninterrupted[0])
    assert (tmp_path / "run" / "model" / "weights").exists()
