"""Bad steps: no update, no trace in buffers, an end when there are too many; and the scale of the loss in float16."""

import dataclasses
import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
from faulty_task import CONFIG, PlantedTask, lines, same, weights
from tiny_model import make_model

from open4m import checksums, reproduce
from open4m.cli.main import main
from open4m.config import Duration
from open4m.data.jobs import local as jobs
from open4m.data.render import Render
from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.rng import torch_stream
from open4m.store.shards import RawDataset
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.train import checkpoint
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.train.optim import build as build_optimizer
from open4m.train.schedules import cosine
from open4m.train.stability import Guard
from open4m.train.tasks.tokenizer import TokenizerTask
from open4m.types import Open4MError


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def plain(task, steps, without):
    """Training as a dozen lines, some steps of which do not take place."""
    model = task.build_model()
    optimizer = build_optimizer(model, CONFIG.optim)
    for step in range(steps):
        if step not in without:
            for group in optimizer.param_groups:
                group["lr"] = 0.64 * 8 / 256 * cosine(step, CONFIG.steps, CONFIG.warmup_steps)
            loss, _ = task.loss(model, task.batch(step, range(8)), torch_stream(CONFIG.seed, step))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.optim.clip)
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


@pytest.mark.parametrize("fault", ["nan batch", "nan loss", "inf gradient"])
@pytest.mark.parametrize("at", [0, 7, 15])
def test_a_bad_step_leaves_no_trace_in_weights_and_buffers(tmp_path, fault, at):
    task = PlantedTask({at: fault})
    train(task, CONFIG, tmp_path / "run")
    found = weights(task.model)
    assert same(found, plain(PlantedTask(), 16, without={at}))
    assert not same(found, plain(PlantedTask(), 16, without={}))
    assert found["1.num_batches_tracked"] == 15


def test_a_bad_step_is_counted_and_its_batch_written_down(tmp_path, caplog):
    task = PlantedTask({3: "nan batch", 4: "inf gradient", 9: "nan loss"})
    with caplog.at_level(logging.WARNING, "open4m"):
        train(task, dataclasses.replace(CONFIG, seed=5), tmp_path / "run")
    bad = lines(tmp_path / "run" / "bad_steps.jsonl")
    assert [(line["step"], line["batch"], line["what"]) for line in bad] == [(n + 1, n, "no update") for n in (3, 4, 9)]
    assert [line["loss"] for line in bad] == ["nan", bad[1]["loss"], "nan"]
    assert 0 < bad[1]["loss"] < 10
    assert all(line["seed"] == 5 for line in bad)
    recorded = {line["step"]: line for line in lines(tmp_path / "run" / "metrics.jsonl") if "lr" in line}
    assert [recorded[step]["skipped"] for step in (3, 4, 5, 9, 10, 16)] == [0, 1, 2, 2, 3, 3]
    assert ("loss" in recorded[3], "loss" in recorded[4]) == (True, False)
    assert recorded[16]["tokens"] == 130  # what was learned from
    messages = [r.message for r in caplog.records]
    assert len(messages) == 3
    assert "planted: step 4: loss nan, gradient norm nan: not finite; no update (1 in a row, 1 in all)" in messages[0]
    assert "(2 in a row, 2 in all)" in messages[1]
    assert "(1 in a row, 3 in all)" in messages[2]


@pytest.mark.parametrize(("limits", "last"), [({"max_skips_in_a_row": 2}, 9), ({"max_skips": 3}, 9), ({}, None)])
def test_too_many_bad_steps_stop_the_run_and_are_named(tmp_path, limits, last):
    faults = {2: "nan loss", 7: "nan loss", 8: "nan loss", 9: "nan loss"}
    config = dataclasses.replace(CONFIG, **limits)
    if last is None:
        train(PlantedTask(faults), config, tmp_path / "run")
        return
    with pytest.raises(Open4MError) as error:
        train(task := PlantedTask(faults), config, tmp_path / "run")
    message = str(error.value)
    for part in (f"planted: step {last + 1}: loss nan", "3 in a row, 4 in all", "bad_steps.jsonl", "optim.base_lr"):
        assert part in message
    assert [line["batch"] for line in lines(tmp_path / "run" / "bad_steps.jsonl")] == [2, 7, 8, 9]
    assert all(torch.isfinite(tensor).all() for tensor in weights(task.model).values())
    with pytest.raises(Open4MError):  # again: what the checkpoint knows counts
        train(PlantedTask(faults), config, tmp_path / "run")
    assert [line["batch"] for line in lines(tmp_path / "run" / "bad_steps.jsonl")] == [2, 7, 8, 9]
    train(again := PlantedTask(faults), dataclasses.replace(CONFIG, max_skips=4), tmp_path / "run")  # limits may change
    train(whole := PlantedTask(faults), CONFIG, tmp_path / "whole")
    assert same(weights(again.model), weights(whole.model))


def test_data_that_are_never_finite_end_the_command_with_an_error(tmp_path, monkeypatch, capsys):
    def run(*_, **__):
        train(PlantedTask(dict.fromkeys(range(4, 100), "nan batch")), CONFIG, tmp_path / "run")

    monkeypatch.setattr(reproduce.Line, "run", run)
    assert main(["reproduce", "debug"]) == 2
    assert "open4m: planted: step 15: loss nan, gradient norm nan: not finite" in capsys.readouterr().err


@pytest.mark.parametrize("stops", [[4, 5], [6], [21]])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resuming_among_bad_steps_is_bit_identical(tmp_path, stops, precision):
    faults = {3: "nan batch", 4: "nan loss", 5: "inf gradient", 20: "spike", 21: "spike"}
    config = dataclasses.replace(CONFIG, length=Duration(22, "steps"), precision=precision, ema=0.9)
    train(whole := PlantedTask(faults), config, tmp_path / "whole")
    for stop in [*stops, None]:
        train(task := PlantedTask(faults, seed=0 if stop == stops[0] else 9), config, tmp_path / "run", stop_at=stop)
    assert same(weights(task.model), weights(whole.model))
    assert same(task.saved[0], whole.saved[0])
    for name in ("metrics.jsonl", "bad_steps.jsonl"):
        assert lines(tmp_path / "run" / name) == lines(tmp_path / "whole" / name)
    assert {line["what"] for line in lines(tmp_path / "run" / "bad_steps.jsonl")} == {"no update", "loss spike"}


def test_a_loss_spike_is_learned_from_with_a_warning(tmp_path, caplog):
    task = PlantedTask({12: "spike", 13: "spike"})
    with caplog.at_level(logging.WARNING, "open4m"):
        train(task, dataclasses.replace(CONFIG, optim=OptimConfig(base_lr=0.0, clip=1.0)), tmp_path / "run")
    assert [r.message.split(" the median")[0] for r in caplog.records] == [
        f"planted: step 13: loss {r.args[2]:g} is more than 20 times" for r in caplog.records
    ]
    assert len(caplog.records) == 1  # of those in a row
    bad = lines(tmp_path / "run" / "bad_steps.jsonl")
    assert [(line["batch"], line["what"]) for line in bad] == [(12, "loss spike"), (13, "loss spike")]
    last = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "loss" in line][-1]
    assert (last["skipped"], last["loss_spikes"], last["tokens"]) == (0, 2, 160)


# ---- float16
HALF = dataclasses.replace(CONFIG, precision="fp16")


class Steep(PlantedTask):
    """Gradients ``steepness`` times larger: whether they overflow in float16 depends on the scale of the loss."""

    def __init__(self, steepness, **settings):
        super().__init__(**settings)
        self.steepness, self.dtypes = steepness, set()

    def build_model(self):
        model = super().build_model()
        model[0].register_forward_hook(lambda module, inputs, output: self.dtypes.add(output.dtype))
        return model

    def loss(self, model, batch, generator):
        loss, details = super().loss(model, batch, generator)
        return loss + self.steepness * (loss - loss.detach()), details


def test_in_float16_the_scale_falls_until_gradients_fit_and_that_is_no_bad_step(tmp_path):
    config = dataclasses.replace(HALF, max_skips=0, max_skips_in_a_row=0)
    train(task := Steep(30.0), config, tmp_path / "run")
    assert task.dtypes == {torch.float16}
    recorded = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "lr" in line]
    scales = [line["loss_scale"] for line in recorded]
    assert 1 <= scales[-1] < scales[0] <= 65536
    assert recorded[-1]["skipped"] == 0
    assert not (tmp_path / "run" / "bad_steps.jsonl").exists()
    skipped = 16 - recorded[-1]["tokens"] // 10
    assert skipped == round(math.log2(65536 / scales[-1])) > 0
    assert weights(task.model)["1.num_batches_tracked"] == 16 - skipped


def test_in_float16_gradients_that_no_scale_can_cure_stop_the_run(tmp_path):
    faults = dict.fromkeys(range(100), "inf gradient")
    config = dataclasses.replace(HALF, length=Duration(60, "steps"))
    with pytest.raises(Open4MError, match=r"step 27: .*gradient norm nan"):  # 16 halvings, then one more than 10
        train(PlantedTask(faults), config, tmp_path / "run")


def test_float16_learns_what_float32_learns(tmp_path):
    """The worst difference measured is 6e-5."""
    single, half, start = (
        Steep(-0.99),
        Steep(-0.99),
        weights(PlantedTask().build_model()),
    )  # so flat that no step overflows
    train(single, CONFIG, tmp_path / "single")
    train(half, HALF, tmp_path / "half")
    assert not same(weights(single.model), weights(half.model))
    for name in ("0.weight", "2.weight"):
        assert (weights(single.model)[name] - start[name]).abs().max() > 0.05
        torch.testing.assert_close(weights(half.model)[name], weights(single.model)[name], rtol=0, atol=5e-4)


def test_the_scale_is_checkpointed(tmp_path):
    train(Steep(30.0), HALF, tmp_path / "run", stop_at=6)
    state = json.loads((checkpoint.latest(tmp_path / "run") / "state.json").read_text())
    recorded = [line for line in lines(tmp_path / "run" / "metrics.jsonl") if "lr" in line]
    assert state["scaler"]["scale"] == recorded[-1]["loss_scale"] < 65536
    train(Steep(30.0, seed=9), HALF, tmp_path / "run")
    train(Steep(30.0), HALF, tmp_path / "whole")
    assert lines(tmp_path / "run" / "metrics.jsonl") == lines(tmp_path / "whole" / "metrics.jsonl")


def test_a_checkpoint_from_before_there_were_guards_is_resumed(tmp_path):
    train(PlantedTask(), CONFIG, tmp_path / "run", stop_at=5)
    path = checkpoint.latest(tmp_path / "run") / "state.json"
    path.write_text(json.dumps({"step": 5, "tokens": 50}))
    checksums.seal(path.parent, checksums.recorded(path.parent))
    saved = tmp_path / "run" / "config.json"
    config = json.loads(saved.read_text())
    for name in ("ema", "max_skips", "max_skips_in_a_row", "smoke_test"):
        del config["train"][name]
    saved.write_text(json.dumps(config))
    train(resumed := PlantedTask(seed=9), CONFIG, tmp_path / "run")
    train(whole := PlantedTask(), CONFIG, tmp_path / "whole")
    assert same(weights(resumed.model), weights(whole.model))


# ---- codebooks
class Values:
    """Smooth normals by index; those of one index are not finite."""

    def __init__(self, broken=None):
        self.broken = broken

    def samples(self, indices):
        out = []
        for i in indices:
            angle = np.linspace(0, 0.02 * (i + 1), 16, dtype=np.float32)[None].repeat(16, 0)
            out.append({"normals": np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], -1)})
        return out


class BrokenTokenizer(TokenizerTask):
    broken = ()

    def batch(self, step, rows):
        x = super().batch(step, rows)
        if step in self.broken:
            x.values[0, 0, 2, 3] = math.nan
        return x


def test_a_codebook_is_not_poisoned_by_a_bad_batch_even_the_one_that_initializes_it(tmp_path):
    jobs.run(Render(Values(), tmp_path / "raw", ["normals"], 12, shard_rows=6))
    raw = RawDataset(tmp_path / "raw", ["normals"])
    vit = ViTConfig(width=16, depth=1, heads=1)
    tokenizer = TokenizerConfig.of("normals", image_size=16, patch_size=8, codebook_size=8, encoder=vit, decoder=vit)

    def run(broken, name):
        task = BrokenTokenizer(tokenizer, raw, raw, batch_size=6)
        task.broken = broken
        config = dataclasses.replace(CONFIG, batch_size=6, evaluate_every=100)
        return weights(train(task, config, tmp_path / name, stop_at=6))

    whole, found = run((), "whole"), run((0, 3), "broken")
    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    assert found["quantizer.steps"] == 4
    assert whole["quantizer.steps"] == 6
    assert found["quantizer.initialized"]


def test_only_buffers_that_a_step_may_change_are_copied(tmp_path, monkeypatch):
    """4M's buffers follow from its configuration, and are as large as its positions: no step pays for them."""
    copied, clone = [], torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self: copied.append(self) or clone(self))
    mlp = MLPConfig(width=16, depth=1)
    tokenizer = VQVAE(TokenizerConfig.of("human_pose", codebook_size=4, encoder=mlp, decoder=mlp))
    for model, count in ((make_model(), 0), (tokenizer, len(dict(tokenizer.quantizer.named_buffers())))):
        guard = Guard("model", model, CONFIG, torch.amp.GradScaler("cpu", enabled=False), log=None)
        copied.clear()
        guard.watch()
        assert len(copied) == count < len(dict(model.named_buffers()))


@pytest.mark.parametrize(("usage", "warnings"), [(0.5, 0), (0.3, 4), (math.nan, 0)])
def test_a_codebook_that_is_hardly_used_is_warned_of_at_each_evaluation(tmp_path, caplog, usage, warnings):
    with caplog.at_level(logging.WARNING, "open4m"):
        train(PlantedTask(code_usage=usage), CONFIG, tmp_path / "run")
    messages = [r.message for r in caplog.records]
    assert len(messages) == warnings
    if warnings:
        assert messages[0] == "planted step 8: validation data use only 30% of the codebook: many codes are dead"
        assert messages[1] == "planted step 8: training data use only 30% of the codebook: many codes are dead"
