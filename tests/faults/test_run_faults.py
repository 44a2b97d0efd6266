"""What happens to runs of one process: killed while they save, preempted twice, with flipped bits, edited, spoiled."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import time

import numpy as np
import pytest
import torch
from faulty_task import CONFIG as FAULTY
from faulty_task import PlantedTask
from hypothesis import given, settings
from hypothesis import strategies as st
from line_task import CONFIG, LineTask, metrics
from safetensors.torch import save_file
from shard_job import wait_until
from tiny_task import make_parts, make_task

from open4m import checksums, weights
from open4m import config as configs
from open4m import configs as named
from open4m.config import Duration
from open4m.train import checkpoint
from open4m.train.config import TrainConfig
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.types import Open4MError, Preempted


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import; the loop goes without


SAVING = dataclasses.replace(CONFIG, length=Duration(30, "steps"), checkpoint_every=1, evaluate_every=10**6)


class Large(LineTask):
    """Its checkpoints take a while to write: 6 MB."""

    def build_model(self):
        model = super().build_model()
        model.register_parameter("ballast", torch.nn.Parameter(torch.zeros(500_000)))
        return model

    def loss(self, model, batch, generator):
        error, details = super().loss(model, batch, generator)
        return error + model.ballast.sum() * 0, details


def saving(directory):
    train(Large(), SAVING, directory)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        saving(directory)
    return metrics(directory)


def kill_while_it_saves(directory, seed, uninterrupted):
    rng = random.Random(seed)
    process = multiprocessing.get_context("fork").Process(target=saving, args=(directory,))
    process.start()
    at = rng.randrange(2, 15)
    wait_until(lambda: len(numbers := saved(directory)) > 0 and numbers[-1] >= at, 120)
    time.sleep(rng.uniform(0, 0.03))
    process.kill()
    process.join()
    before = saved(directory)
    train(Large(seed=9), SAVING, directory)
    assert before[-1] >= at
    assert metrics(directory) == uninterrupted
    names = {path.name for path in (directory / "checkpoints").iterdir() if not path.name.endswith(".lock")}
    assert names == {"step-00000029", "step-00000030"}


def saved(directory):
    return sorted(int(path.name[5:]) for path in (directory / "checkpoints").glob("step-*"))


def test_fault_1_a_run_killed_while_it_saves_goes_on_from_the_last_whole_checkpoint(tmp_path, uninterrupted):
    kill_while_it_saves(tmp_path / "run", 100, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_fault_1_at_random_moments(tmp_path, seed, uninterrupted):
    kill_while_it_saves(tmp_path / "run", seed, uninterrupted)


# ---- which samples are seen
SEEN = TrainConfig(
    length=Duration(9, "steps"),
    batch_size=8,
    precision="fp32",
    optim=OptimConfig(base_lr=0.02),
    workers=0,
    evaluate_every=10**6,
    smoke_test=False,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("tokens"))


def seen(task):
    """Has a task write down the keys of the samples of each step whose loss is computed."""
    order, plain = [], task.loss

    def loss(model, batch, *rest):
        order.append(task.samples_of(len(order) + task.began))
        if len(order) + task.began in task.asked:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(model, batch, *rest)

    task.loss, task.began, task.asked = loss, 0, ()
    return order


def test_fault_4_two_preemptions_in_an_epoch_lose_no_sample_and_repeat_none(tmp_path, parts):
    order, began = [], 0
    for asked in (2, 5, None):  # of 9 steps; an epoch has 3
        task = make_task(parts)
        found = seen(task)
        task.began, task.asked = began, (asked,)
        try:
            train(task, SEEN, tmp_path / "run")
        except Preempted:
            began = asked
        order += found
    assert len(order) == 9
    for epoch in range(3):
        keys = [key for step in order[3 * epoch : 3 * epoch + 3] for key in step]
        assert sorted(keys) == sorted(parts[0].keys(np.arange(24)))


def test_fault_6_the_order_of_samples_is_that_of_any_number_of_workers(tmp_path, parts):
    found = []
    for workers in (0, 2):
        directory = tmp_path / str(workers)
        train(make_task(parts), dataclasses.replace(SEEN, workers=workers, log_every=1), directory)
        lines = (directory / "metrics.jsonl").read_text().splitlines()
        found.append([json.loads(line)["loss"] for line in lines if '"gradient_norm"' in line])
    assert len(found[0]) == 9
    assert found[0] == found[1]


# ---- what is on disk
def test_fault_8_no_flipped_bit_of_a_checkpoint_is_trained_on(tmp_path):
    model = train(LineTask(), CONFIG, tmp_path, stop_at=8)
    optimizer = torch.optim.AdamW(model.parameters())
    newest = checkpoint.latest(tmp_path)
    rng = random.Random(0)
    for _ in range(100):
        path = rng.choice([p for p in newest.iterdir() if p.name != checksums.FILE])
        data = path.read_bytes()
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        with pytest.raises(Open4MError, match=rf"damaged checkpoint \(the content of {path.name} has changed\)"):
            checkpoint.restore(newest, model, optimizer)
        path.write_bytes(data)
    checkpoint.restore(newest, model, optimizer)


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 4), ("seed", 1), ("length", "40 steps"), ("precision", "fp32")]
)
def test_fault_9_an_edited_configuration_is_refused_with_what_differs(tmp_path, field, value):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=2)
    path = tmp_path / "run" / "config.json"
    held = json.loads(path.read_text())
    was, held["train"][field] = held["train"][field], value
    path.write_text(json.dumps(held))
    with pytest.raises(Open4MError, match=f"another configuration .train.{field}: {value} -> {was}"):
        train(LineTask(), CONFIG, tmp_path / "run")


def test_fault_11_a_spike_of_the_loss_is_a_warning_with_its_samples(tmp_path, parts, caplog):
    task = make_task(parts)
    plain, steps = task.loss, []

    def loss(model, batch, generator, counts=None):
        steps.append(len(steps))
        value, details = plain(model, batch, generator, counts)
        return value * (100 if steps[-1] == 15 else 1), details

    task.loss = loss
    config = dataclasses.replace(SEEN, length=Duration(18, "steps"))
    train(task, config, tmp_path / "run")
    (line,) = (tmp_path / "run" / "bad_steps.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["step"], entry["what"], entry["samples"]) == (16, "loss spike", task.samples_of(15))
    assert "step 16: loss" in caplog.text


def test_fault_10_steps_that_are_not_finite_change_nothing_and_end_the_run_if_there_are_many(tmp_path):
    faults = dict.fromkeys(range(4, 16), "nan loss")
    with pytest.raises(Open4MError, match="not finite, as in too many steps"):
        train(PlantedTask(faults), dataclasses.replace(FAULTY, max_skips_in_a_row=3), tmp_path / "run")
    assert (tmp_path / "run" / "bad_steps.jsonl").read_text().count("no update") == 4


@pytest.mark.parametrize(
    "word",
    [
        "train.length=1e400 steps",
        "train.batch_size=-1",
        "architecture.dim=1000000000000",
        "architecture.encoder_depth=-1",
        "train.optim.base_lr=nan",
        "train.workers=-1",
        "_target_=os.system",
        "train.__class__=x",
        "masking.input_budget=-5",
        "train.shards=0",
        "train.sharding=zero9",
        "train.micro_batch_size=0",
        "train.activation_checkpointing=sometimes",
    ],
)
def test_fault_22_hostile_fields_of_a_configuration_are_refused(word):
    with pytest.raises(Open4MError, match=word.partition("=")[0].rpartition(".")[2]):
        configs.override(named.get("4m-7-b"), [word])


def test_fault_22_a_model_that_fits_no_machine_is_refused_before_it_is_built(tmp_path):
    class Giant(LineTask):
        def build_model(self):
            return torch.nn.Linear(10**6, 10**6)

    with pytest.raises(Open4MError, match=r"1,000,001M parameters need .* GB to be trained"):
        train(Giant(), CONFIG, tmp_path / "run")


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_fault_23_tensors_that_are_missing_too_many_or_too_large_are_listed(tmp_path_factory, data):
    model = torch.nn.Linear(3, 2)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    name = data.draw(st.sampled_from(sorted(state)))
    how = data.draw(st.sampled_from(["missing", "unexpected", "bloated"]))
    if how == "missing":
        del state[name]
    elif how == "unexpected":
        state[f"{name}.more"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(data.draw(st.integers(4, 1000)))
    save_file(state, path)
    expected = {"missing": f"missing: {name}", "unexpected": f"unexpected: {name}.more", "bloated": f"{name} has shape"}
    with pytest.raises(Open4MError, match=expected[how]):
        weights.load_weights(path, model)
