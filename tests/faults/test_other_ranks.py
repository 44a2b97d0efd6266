"""Runs that are resumed: by other numbers of ranks, by the same, and from sharded checkpoints with a flipped bit."""

import dataclasses
import sys

import pytest
from tiny_runs import CONFIG, MUON, close, run, trained
from tiny_task import make_parts


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return make_parts(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import


def test_fault_5_any_number_of_ranks_resumes_a_run(tmp_path, parts):
    """2, then 1, then 4, sharded and not: the same samples in the same order, and the same losses."""
    expected = run(trained, 1, tmp_path, parts=parts, config=CONFIG, name="whole")
    ways = [(2, 6, {"sharding": "zero3"}), (1, 12, {}), (4, 16, {"sharding": "zero3", "shards": 2}), (2, None, {})]
    for count, stop_at, fields in ways:
        config = dataclasses.replace(CONFIG, checkpoint_every=4, **fields)
        found = run(trained, count, tmp_path, parts=parts, config=config, name="parts", stop_at=stop_at)
    losses = {key: value for key, value in expected.items() if "loss" in key[1] or key[1] == "tokens"}
    close({key: found[key] for key in losses}, losses)
    checkpoints = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))
    assert [path.name for path in checkpoints] == ["step-00000016", "step-00000020"]
    assert (checkpoints[0] / "shards").is_dir()
    assert not (checkpoints[1] / "shards").exists()


@pytest.mark.parametrize("sharding", [pytest.param("none", marks=pytest.mark.slow), "zero3"])
def test_fault_5_the_same_number_of_ranks_resumes_bit_for_bit(tmp_path, parts, sharding):
    config = dataclasses.replace(CONFIG, sharding=sharding, optim=MUON)
    expected = run(trained, 2, tmp_path, parts=parts, config=config, name="whole")
    for stop_at in (7, None):
        found = run(trained, 2, tmp_path, parts=parts, config=config, name="parts", stop_at=stop_at)
    close(found, {key: value for key, value in expected.items() if key in found}, tolerance=0)
    assert {key for key in expected if key[1] == "loss"} <= found.keys()
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole/model" / name).read_bytes() == (tmp_path / "parts/model" / name).read_bytes()


def test_fault_8_a_damaged_part_of_a_sharded_checkpoint_is_noticed_and_the_one_before_serves(tmp_path, parts):
    config = dataclasses.replace(CONFIG, sharding="zero2", checkpoint_every=3)
    expected = run(trained, 2, tmp_path, parts=parts, config=config, name="whole")
    run(trained, 2, tmp_path, parts=parts, config=config, name="parts", stop_at=7)
    newest = sorted((tmp_path / "parts" / "checkpoints").glob("step-*"))[-1]
    shard = next((newest / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)
    found = run(trained, 2, tmp_path, parts=parts, config=config, name="parts")
    assert (newest.parent / f"damaged-{newest.name}").is_dir()
    close(found, expected, tolerance=0)
