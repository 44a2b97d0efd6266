"""Checkpoints: whole or not there, exact, and only the two newest."""

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from open4m.train import checkpoint
from open4m.train.optim import OptimConfig, build
from open4m.types import Open4MError


def make(seed=0, width=3):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.BatchNorm1d(width), torch.nn.Linear(width, 1))
    return model, build(model, OptimConfig())


def step(model, optimizer, seed):
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_a_restored_run_continues_bit_for_bit(tmp_path):
    model, optimizer = make()
    for i in range(3):
        step(model, optimizer, i)
    path = checkpoint.save(tmp_path, 3, model, optimizer, {"tokens": 77})
    expected = [step(model, optimizer, i) for i in range(3, 6)]
    other, its = make(seed=5)
    assert checkpoint.restore(path, other, its) == {"step": 3, "tokens": 77}
    assert [step(other, its, i) for i in range(3, 6)] == expected
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_the_two_newest_are_kept_and_the_newest_is_found(tmp_path):
    model, optimizer = make()
    assert checkpoint.latest(tmp_path) is None
    for at in (5, 100, 20, 7):
        checkpoint.save(tmp_path, at, model, optimizer, {})
    assert checkpoint.latest(tmp_path).name == "step-00000100"
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000020", "step-00000100"]


def test_what_a_dead_process_left_half_written_is_ignored_and_overwritten(tmp_path):
    model, optimizer = make()
    checkpoint.save(tmp_path, 5, model, optimizer, {})
    half = tmp_path / "checkpoints" / ".step-00000010.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path).name == "step-00000005"
    step(model, optimizer, 0)
    checkpoint.restore(checkpoint.save(tmp_path, 10, model, optimizer, {}), *make(1))
    assert not half.exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: disk full")])
@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_full_disk_leaves_the_earlier_checkpoint_intact(tmp_path, monkeypatch, error, fails_at):
    model, optimizer = make()
    step(model, optimizer, 0)
    first = checkpoint.save(tmp_path, 5, model, optimizer, {})
    real, calls = safetensors.torch.save_file, []

    def failing(tensors, path, **how):
        calls.append(path)
        if len(calls) > fails_at:
            raise error
        real(tensors, path, **how)

    monkeypatch.setattr(safetensors.torch, "save_file", failing)
    with pytest.raises(
        Open4MError, match=r"step-00000010: the checkpoint could not be written .*earlier ones are intact"
    ):
        checkpoint.save(tmp_path, 10, model, optimizer, {})
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    checkpoint.restore(first, *make(1))


@pytest.mark.parametrize("text", ["[]", "{}", '{"step": "5"}', '{"step": true}', "[" * 100_000])
def test_a_state_without_a_step_is_a_damaged_checkpoint(tmp_path, text):
    path = checkpoint.save(tmp_path, 5, *make(), {})
    (path / checkpoint.STATE).write_text(text)
    with pytest.raises(Open4MError, match="step-00000005: not a checkpoint of this run"):
        checkpoint.restore(path, *make())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_damaged_checkpoint_is_named(tmp_path, name, damage):
    model, optimizer = make()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    if damage == "gone":
        (path / name).unlink()
    else:
        (path / name).write_bytes((path / name).read_bytes()[:-7])
    with pytest.raises(Open4MError, match="step-00000005: not a checkpoint of this run"):
        checkpoint.restore(path, *make())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 5, *make(), {})
    with pytest.raises(Open4MError, match=r"not a checkpoint of this run [\s\S]*0.bias has shape"):
        checkpoint.restore(path, *make(width=4))


def test_nothing_in_a_checkpoint_needs_pickle(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    assert sorted(p.name for p in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
