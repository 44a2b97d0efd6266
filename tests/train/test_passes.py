"""Several processes, and several parts of a batch, train as one process does; any number of them resumes a run."""

import dataclasses
import sys
from functools import partial

import pytest
import torch
from line_task import CONFIG as LINE
from line_task import LineTask
from rank_processes import run_ranks
from tiny_runs import CONFIG, MUON, STEPS, close, run, trained
from tiny_task import make_parts, make_task
from torch._dynamo.testing import CompileCounter

from open4m import ranks
from open4m.nn.vit import ViTConfig
from open4m.rng import seeded
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.train import distributed
from open4m.train.loop import train
from open4m.train.passes import check_divisible
from open4m.types import Open4MError


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import


WAYS = {
    "micro": (1, {"micro_batch_size": 3}),
    "two": (2, {}),
    "four of one row at a time": (4, {"micro_batch_size": 1, "activation_checkpointing": True}),
    "zero2": (2, {"sharding": "zero2", "micro_batch_size": 2}),
    "zero3": (4, {"sharding": "zero3", "activation_checkpointing": "selective"}),
    "hybrid": (4, {"sharding": "zero3", "shards": 2, "micro_batch_size": 1}),
}


SLOW = ("four of one row at a time-adamw", "zero2-muon", "zero3-adamw", "hybrid-muon")
"""Those whose parts other ways try, too."""

BOTH = ("two", "zero3")
"""The ways that are tried with both optimizers; of the others, those that shard are tried with Muon."""


@pytest.mark.parametrize(
    ("way", "optimizer"),
    [
        pytest.param(way, optimizer, marks=[pytest.mark.slow] * (f"{way}-{optimizer}" in SLOW))
        for way, (_, fields) in WAYS.items()
        for optimizer in ("adamw", "muon")
        if way in BOTH or (optimizer == "muon") == ("sharding" in fields)
    ],
)
def test_all_ways_give_the_losses_of_one_process(tmp_path, parts, way, optimizer):
    """Rows of a rank have unequal numbers of targets, and stochastic depth drops branches of single rows."""
    config = dataclasses.replace(CONFIG, optim=MUON if optimizer == "muon" else CONFIG.optim)
    expected = run(trained, 1, tmp_path, parts=parts, config=config, name="whole", drop_path=0.3)
    count, fields = WAYS[way]
    rehearsed = dataclasses.replace(config, smoke_test=True, **fields)
    found = run(trained, count, tmp_path, parts=parts, config=rehearsed, name="way", drop_path=0.3)
    losses = {key: value for key, value in expected.items() if "loss" in key[1]}
    assert len({round(value, 3) for (_, name), value in losses.items() if name == "loss"}) > 10  # it learns
    close({key: found[key] for key in losses}, losses)
    assert (tmp_path / "way" / "model").is_dir()


def vq(rank, root, *, kind, name, stop_at=None):
    """Five steps of a tokenizer, on this rank's rows of each batch; the loss of each step, and what it holds then."""
    vit = ViTConfig(width=16, depth=1, heads=1)
    config = TokenizerConfig.of(
        "rgb",
        image_size=32,
        patch_size=8,
        codebook_size=24,
        encoder=vit,
        decoder=vit,
        quantizer=kind,
        decay=0.5,
        stale_coefficient=2.0,
    )
    model = VQVAE(config, seeded(0)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(5):
        images = torch.randn(6, 3, 32, 32, generator=seeded(step))
        rows = ranks.rows_of_rank(6) if name != "unequal" else (range(4), range(4, 6))[rank]
        loss, logged = model.loss(images[rows.start : rows.stop], seeded(100 + step))
        (loss * len(rows) / 6).backward()
        ranks.add_up([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(ranks.summed([float(loss.detach()) * len(rows) / 6])[0])
    return losses, {name: tensor.clone() for name, tensor in model.state_dict().items()}, logged["code_usage"]


def test_fp16_scales_and_skips_as_one_process_does(tmp_path, parts):
    """Each rank sees the whole gradient, so that all find the same overflows."""
    config = dataclasses.replace(CONFIG, precision="fp16", evaluate_every=STEPS)
    expected = run(trained, 1, tmp_path, parts=parts, config=config, name="whole")
    found = run(trained, 2, tmp_path, parts=parts, config=config, name="way")
    scales = {key: value for key, value in expected.items() if key[1] in ("loss_scale", "skipped")}
    assert {key: found[key] for key in scales} == scales
    losses = {key: value for key, value in expected.items() if key[1] == "loss"}
    close({key: found[key] for key in losses}, losses, tolerance=2e-3)


@pytest.mark.parametrize("kind", ["vq", "fsq"])
def test_codebooks_of_all_ranks_are_that_of_one_process(tmp_path, kind):
    """k-means of the first batch, moving averages and restarts see the whole batch, whoever has which rows."""
    losses, state, usage = vq(0, tmp_path, kind=kind, name="whole")
    for count, name in ((2, "equal"), (2, "unequal"), (3, "three")):
        action = partial(vq, kind=kind, name=name)
        action.__name__ = f"{kind}-{name}"
        found = run_ranks(action, count, tmp_path)
        for own_losses, own_state, own_usage in found:
            assert own_losses == pytest.approx(losses, rel=1e-5)
            assert own_usage == pytest.approx(usage, abs=1e-6)
            for tensor, first in zip(own_state.values(), found[0][1].values(), strict=True):
                assert torch.equal(tensor, first)
            for key, tensor in own_state.items():
                torch.testing.assert_close(tensor, state[key], rtol=1e-4, atol=1e-5)
    if kind == "vq":
        assert state["quantizer.restarted_total"] > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"micro_batch_size": 2}, "codebook or batch norm learns from the whole batch"),
        ({"sharding": "zero3", "shards": 2}, "shards: expected a divisor of the number of ranks, 1"),
        ({"shards": 1}, "with sharding none"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_the_run_begins(tmp_path, parts, fields, message):
    task = make_task(parts)
    task.learns_in_forward = "micro_batch_size" in fields
    with pytest.raises(Open4MError, match=message):
        train(task, dataclasses.replace(CONFIG, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fp16_of_sharded_models_is_refused(parts, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    check_divisible(make_task(parts), dataclasses.replace(CONFIG, precision="fp16"))
    with pytest.raises(Open4MError, match=r"fp16 cannot be sharded, .* use bf16, or sharding=none"):
        check_divisible(make_task(parts), dataclasses.replace(CONFIG, precision="fp16", sharding="zero3"))


def test_a_task_without_counts_is_for_one_process(tmp_path):
    with pytest.raises(Open4MError, match="line: its batches cannot be divided"):
        train(LineTask(), dataclasses.replace(LINE, micro_batch_size=2), tmp_path / "run")


def test_compiled_blocks_are_compiled_once_and_compute_the_same(tmp_path, parts, monkeypatch):
    """By the front end of torch.compile alone: what it makes of a block on a GPU is not a matter of this test."""
    counter = CompileCounter()
    monkeypatch.setattr(
        distributed, "compile_blocks", lambda model: [b.compile(backend=counter) for b in distributed.blocks(model)]
    )
    expected = run(trained, 1, tmp_path, parts=parts, config=CONFIG, name="whole")
    config = dataclasses.replace(CONFIG, compile=True)
    found = run(trained, 1, tmp_path, parts=parts, config=config, name="compiled")
    close(found, expected)
    assert 2 <= counter.frame_count <= 8  # not anew in each step


def test_blocks_that_are_gathered_in_bf16_train_as_one_process_in_bf16_does(tmp_path, parts):
    """Weights stay in float32: their sum of 20 small steps is not lost. The tolerance is that of bf16, 2⁻⁸."""
    config = dataclasses.replace(CONFIG, precision="bf16", evaluate_every=STEPS)
    expected = run(trained, 1, tmp_path, parts=parts, config=config, name="whole")
    found = run(trained, 2, tmp_path, parts=parts, config=dataclasses.replace(config, sharding="zero3"), name="way")
    losses = {key: value for key, value in expected.items() if key[1] == "loss"}
    close({key: found[key] for key in losses}, losses, tolerance=2**-8)
    assert expected[STEPS, "loss"] < expected[1, "loss"] - 0.1
