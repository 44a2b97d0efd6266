"""Checkpoints: whole or not there, exact, and only the two newest."""

import contextlib
import shutil
import threading

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from open4m import checksums
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
    checksums.seal(path, checksums.recorded(path))
    with pytest.raises(Open4MError, match="step-00000005: a damaged checkpoint"):
        checkpoint.restore(path, *make())


FILES = ["model.safetensors", "optimizer.safetensors", "sha256.json", "state.json"]


def damage(path, how):
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[:-7])
    else:
        at = len(data) - 3  # a value of the last tensor, a digit of the last sum or step
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["gone", "cut", "one bit"])
def test_of_a_damaged_checkpoint_nothing_is_read_and_the_one_before_it_is_used(tmp_path, name, how, caplog):
    model, optimizer = make()
    step(model, optimizer, 0)
    checkpoint.save(tmp_path, 5, model, optimizer, {})
    expected = [tensor.clone() for tensor in model.state_dict().values()]
    step(model, optimizer, 1)
    path = checkpoint.save(tmp_path, 10, model, optimizer, {})
    damage(path / name, how)
    other, its = make(3)
    before = [tensor.clone() for tensor in other.state_dict().values()]
    with pytest.raises(Open4MError, match="step-00000010: a damaged checkpoint"):
        checkpoint.restore(path, other, its)
    assert all(map(torch.equal, other.state_dict().values(), before))
    assert not its.state
    assert checkpoint.resume(tmp_path, other, its)["step"] == 5
    assert all(map(torch.equal, other.state_dict().values(), expected))
    assert "step-00000010 is damaged" in caplog.text
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-00000005", "damaged-step-00000010"}
    checkpoint.restore(checkpoint.save(tmp_path, 10, model, optimizer, {}), other, its)


def test_a_run_of_damaged_checkpoints_does_not_silently_begin_again(tmp_path):
    model, optimizer = make()
    for at in (5, 10):
        damage(checkpoint.save(tmp_path, at, model, optimizer, {}) / "state.json", "cut")
    for _ in range(2):
        with pytest.raises(Open4MError, match=r"step-00000010 is damaged \(.*\), as are all others; remove them"):
            checkpoint.resume(tmp_path, model, optimizer)
    for path in list((tmp_path / "checkpoints").glob("step-*")):  # as older versions left them
        path.rename(path.with_name(f"damaged-{path.name}"))
    with pytest.raises(Open4MError, match="damaged-step-00000010: the run has damaged checkpoints only"):
        checkpoint.resume(tmp_path, model, optimizer)


def test_a_copy_of_a_checkpoint_under_another_number_is_none(tmp_path, caplog):
    model, optimizer = make()
    step(model, optimizer, 0)
    first = checkpoint.save(tmp_path, 5, model, optimizer, {})
    shutil.copytree(first, first.with_name("step-99999999"))
    (first.parent / "damaged-step-99999999").write_text("a file in the way")
    assert checkpoint.resume(tmp_path, *make())["step"] == 5
    assert "step-99999999 is damaged (it is a copy of that of step 5)" in caplog.text
    (first.parent / "step-88888888").mkdir()  # takes the place of none that is kept
    (first.parent / f"step-{10**26}").mkdir()
    for at in (10, 15):
        checkpoint.save(tmp_path, at, model, optimizer, {})
    assert checkpoint.newest_intact(tmp_path).name == "step-00000015"
    assert {"step-00000010", "step-00000015"} <= {path.name for path in first.parent.iterdir()}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "text", ['{"step": -5}', '{"step": 5, "tokens": "x"}', '{"step": 5, "guard": []}', '{"step": 5, "scaler": 3}']
)
def test_what_no_run_has_written_is_damage_where_no_sums_are_read(tmp_path, text):
    model, optimizer = make()
    checkpoint.save(tmp_path, 3, model, optimizer, {})
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    (path / checkpoint.STATE).write_text(text)
    assert checkpoint.resume(tmp_path, *make())["step"] == 3


@pytest.mark.usefixtures("unchecked")
def test_an_optimizer_of_other_shapes_is_refused(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    held = safetensors.torch.load_file(path / checkpoint.OPTIMIZER)
    name = next(name for name, tensor in held.items() if tensor.numel() > 1)
    safetensors.torch.save_file({**held, name: torch.zeros(7)}, path / checkpoint.OPTIMIZER)
    with pytest.raises(Open4MError, match=rf"not a checkpoint of this run .*{name} has another shape"):
        checkpoint.restore(path, *make())


def test_what_else_lies_among_checkpoints_disturbs_nothing(tmp_path):
    model, optimizer = make()
    folder = tmp_path / "checkpoints"
    for stray in ("step-99", "step-00000099.old", "step-latest"):
        (folder / stray).mkdir(parents=True)
    (folder / "step-00000098").write_text("a file")
    assert checkpoint.resume(tmp_path, model, optimizer) is None
    for at in (5, 10, 15):
        checkpoint.save(tmp_path, at, model, optimizer, {})
    assert checkpoint.latest(tmp_path).name == "step-00000015"
    assert checkpoint.resume(tmp_path, model, optimizer)["step"] == 15
    strays = {"step-99", "step-00000099.old", "step-latest", "step-00000098"}
    assert {p.name for p in folder.iterdir()} == strays | {"step-00000010", "step-00000015"}


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 5, *make(), {})
    with pytest.raises(Open4MError, match=r"not a checkpoint of this run [\s\S]*0.bias has shape"):
        checkpoint.restore(path, *make(width=4))


def test_nothing_in_a_checkpoint_needs_pickle(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    assert sorted(p.name for p in path.iterdir()) == FILES


def test_multiples_of_keep_every_are_kept_beside_the_newest(tmp_path):
    model, optimizer = make()
    checkpoints = checkpoint.Checkpoints(tmp_path, kept=1, keep_every=10)
    for at in range(5, 45, 5):
        checkpoints.save(at, model, optimizer, {})
    assert [int(p.name[5:]) for p in sorted((tmp_path / "checkpoints").glob("step-*"))] == [10, 20, 30, 40]


def test_in_the_background_the_state_of_that_moment_is_written(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 0)
    checkpoints = checkpoint.Checkpoints(tmp_path, background=True)
    release = threading.Event()
    checkpoints._executor.submit(release.wait)  # what writes is busy, and comes to it later
    path = checkpoints.save(1, model, optimizer, {})
    assert not path.exists()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = [step(model, optimizer, i) for i in range(1, 4)]
    release.set()
    checkpoints.wait()
    other, its = make(seed=5)
    checkpoint.restore(path, other, its)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())
    assert [step(other, its, i) for i in range(1, 4)] == losses
    checkpoints.close()


def test_what_fails_in_the_background_is_said_by_the_next_call(tmp_path, monkeypatch):
    model, optimizer = make()
    checkpoints = checkpoint.Checkpoints(tmp_path, background=True)
    checkpoints.save(1, model, optimizer, {})
    checkpoints.wait()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    checkpoints.save(2, model, optimizer, {})
    with pytest.raises(
        Open4MError, match=r"step-00000002: the checkpoint could not be written .*earlier ones are intact"
    ):
        checkpoints.save(3, model, optimizer, {})
    monkeypatch.undo()
    checkpoints.save(3, model, optimizer, {})
    checkpoints.wait()
    assert [p.name for p in sorted((tmp_path / "checkpoints").glob("step-*"))] == ["step-00000001", "step-00000003"]


def test_an_optimizer_without_entries_is_a_damaged_checkpoint(tmp_path):
    model, optimizer = make()
    step(model, optimizer, 0)
    path = checkpoint.save(tmp_path, 5, model, optimizer, {})
    safetensors.torch.save_file({}, path / checkpoint.OPTIMIZER)
    with pytest.raises(Open4MError, match=r"the content of optimizer\.safetensors has changed"):
        checkpoint.restore(path, *make())


def test_a_copy_with_a_higher_number_never_takes_the_place_of_what_was_just_written(tmp_path):
    model, optimizer = make()
    with contextlib.closing(checkpoint.Checkpoints(tmp_path, kept=1)) as checkpoints:
        first = checkpoints.save(5, model, optimizer, {})
        shutil.copytree(first, first.with_name("step-99999999"))
        checkpoints.save(10, model, optimizer, {})
    assert checkpoint.newest_intact(tmp_path).name == "step-00000010"
    assert not first.exists()


def test_what_is_left_of_a_removal_that_was_interrupted_is_removed(tmp_path):
    model, optimizer = make()
    for at in (5, 10, 15):
        checkpoint.save(tmp_path, at, model, optimizer, {})
    part = tmp_path / "checkpoints" / "step-00000003"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"the rest")
    checkpoint.save(tmp_path, 20, model, optimizer, {})
    assert [path.name for path in sorted((tmp_path / "checkpoints").glob("step-*"))] == [
        "step-00000015",
        "step-00000020",
    ]
