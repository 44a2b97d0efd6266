"""Ranks that are killed, stopped or signalled in every phase of a run, NaN on one of them, a full disk: no rank hangs,
nothing is lost, and the same command goes on bit for bit."""

import contextlib
import dataclasses
import datetime
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from rank_processes import PROCESSES, run_ranks
from shard_job import wait_until
from tiny_task import load_parts, make_parts, make_task

from open4m import weights
from open4m.config import Duration
from open4m.train import checkpoint, sharded
from open4m.train.config import TrainConfig
from open4m.train.log import RunLog
from open4m.train.loop import train
from open4m.train.optim import OptimConfig
from open4m.train.tasks.fourm import FourMTask
from open4m.types import Open4MError, Preempted

CONFIG = TrainConfig(
    length=Duration(6, "steps"),
    batch_size=8,
    optim=OptimConfig(base_lr=0.02),
    precision="fp32",
    workers=0,
    log_every=1,
    evaluate_every=3,
    checkpoint_every=2,
)
PHASES = ("start", "data", "step", "evaluation", "pictures", "save", "resume")
KINDS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "asked": signal.SIGTERM}
TIMEOUT = 15.0
"""Seconds in which ranks notice that one is gone."""
STALL = 1.0
"""Seconds that a phase takes in which a rank is hit."""
PREEMPTED = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("ranks")
    make_parts(root)
    return root


@pytest.fixture(scope="module")
def uninterrupted(root):
    processes = start(root, "whole", CONFIG)
    assert [join(process) for process in processes] == [0, 0]
    return recorded(root / "whole")


def recorded(directory):
    """The bytes of the model, and the losses of all steps."""
    lines = [line for line in (directory / "metrics.jsonl").read_text().splitlines() if '"gradient_norm"' in line]
    losses = [line[line.index('"loss"') : line.index('"lr"')] for line in lines]
    return losses, (directory / "model" / "model.safetensors").read_bytes()


def start(root, name, config, phase=None, victim=0, timeout=60.0):
    """Two ranks of a run. The ``victim`` says so when it comes to a phase, which then takes a while."""
    processes = [PROCESSES.Process(target=run, args=(r, root, name, config, phase, victim, timeout)) for r in range(2)]
    (root / f"{name}.rendezvous").unlink(missing_ok=True)
    for process in processes:
        process.start()
    return processes


def join(process, seconds=120):
    process.join(seconds)
    assert process.exitcode is not None, "a rank hangs"
    return process.exitcode


def run(rank, root, name, config, phase, victim, timeout):
    torch.set_num_threads(1)
    sys.modules["torch.utils.tensorboard"] = None  # takes seconds to import
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # nobody reads what ranks say that are cut off
    seconds = datetime.timedelta(seconds=timeout)
    dist.init_process_group(
        "gloo", init_method=f"file://{root}/{name}.rendezvous", rank=rank, world_size=2, timeout=seconds
    )
    if rank == victim and phase:
        stall(phase, root / f"{name}.hit")
    try:
        train(make_task(load_parts(root)), config, root / name)
    except Preempted:
        os._exit(PREEMPTED)
    os._exit(0)  # without waiting for ranks that are gone


def stall(phase, hit):
    """Have a phase say that it is reached, and take a while, when it has come so many times."""
    place, name, due = {
        "start": (FourMTask, "evaluate", 1),  # in the rehearsal
        "data": (FourMTask, "batch", 3),
        "step": (FourMTask, "loss", 4),
        "evaluation": (FourMTask, "evaluate", 2),
        "pictures": (RunLog, "pictures", 1),
        "save": (checkpoint, "_write_files", 2) if not sharded_run(hit) else (sharded, "write", 2),
        "resume": (checkpoint, "_restore", 1),
    }[phase]
    plain, calls = getattr(place, name), []

    def slow(*args, **options):
        calls.append(name)
        if len(calls) == due:
            hit.touch()
            until = time.monotonic() + STALL  # a signal ends a sleep early
            while time.monotonic() < until:
                time.sleep(0.05)
        return plain(*args, **options)

    setattr(place, name, slow)


def sharded_run(hit):
    return "zero3" in hit.name


def trial(root, uninterrupted, kind, phase, victim, sharding="none", label="every"):
    name = f"{label}-{kind}-{phase}-{victim}-{sharding}"
    config = dataclasses.replace(CONFIG, sharding=sharding)
    if phase in ("pictures", "save") and sharding == "none":
        victim = 0  # the others do not do it
    if phase == "resume":
        processes = start(root, name, config, "step", victim)
        wait_until((root / f"{name}.hit").exists, 120)
        for process in processes:
            os.kill(process.pid, signal.SIGTERM)
        assert [join(process) for process in processes] == [PREEMPTED, PREEMPTED]
        (root / f"{name}.hit").unlink()
    processes = start(root, name, config, phase, victim, TIMEOUT if kind == "stopped" else 60.0)
    wait_until((root / f"{name}.hit").exists, 120)
    hit, other = processes[victim], processes[1 - victim]
    os.kill(hit.pid, KINDS[kind])
    if kind == "asked" and phase != "resume":  # before its first step a rank that is asked ends at once
        assert [join(process) for process in processes] == [PREEMPTED, PREEMPTED]
    else:
        assert join(other) not in (0, PREEMPTED)
        hit.kill()
        join(hit)
    again = start(root, name, config)
    assert [join(process) for process in again] == [0, 0]
    assert recorded(root / name) == uninterrupted
    left = [path.name for path in (root / name / "checkpoints").iterdir() if not path.name.endswith(".lock")]
    assert len(left) == 2
    assert max(left) == "step-00000006"


@pytest.mark.parametrize("kind", KINDS)
def test_fault_12_a_rank_that_is_hit_stops_the_others_and_the_run_goes_on(root, uninterrupted, kind):
    rng = random.Random(f"{kind} 17")
    trial(root, uninterrupted, kind, rng.choice(PHASES), rng.randrange(2), label="one")


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", KINDS)
def test_fault_3_and_12_in_every_phase(root, uninterrupted, kind, phase):
    victim = (PHASES.index(phase) + list(KINDS).index(kind)) % 2
    trial(root, uninterrupted, kind, phase, victim)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_fault_12_of_a_sharded_run_while_it_is_saved(root, kind):
    config = dataclasses.replace(CONFIG, sharding="zero3")
    processes = start(root, f"{kind}-whole-zero3", config)
    assert [join(process) for process in processes] == [0, 0]
    trial(root, recorded(root / f"{kind}-whole-zero3"), kind, "save", 1, "zero3")


LAUNCHED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.modules["torch.utils.tensorboard"] = None
import dataclasses, os
from open4m import ranks
from open4m.config import Duration
from open4m.train.loop import train
from open4m.types import Preempted
from test_rank_faults import CONFIG
from tiny_task import load_parts, make_task
root = Path(sys.argv[2])
config = dataclasses.replace(CONFIG, length=Duration(100_000, "steps"), evaluate_every=10**6, checkpoint_every=10**6)
with ranks.joined("cpu", 60):
    (root / f"pid-{ranks.rank()}").write_text(str(os.getpid()))
    try:
        train(make_task(load_parts(root)), config, root / "launched")
    except Preempted as stopped:
        (root / f"said-{ranks.rank()}").write_text(str(stopped))
        sys.exit(3)
"""


@pytest.mark.parametrize("whom", ["the launcher", "one rank"])
def test_fault_2_sigterm_to_torchrun_or_to_one_rank_saves_the_same_step_on_all(root, whom):
    (root / "launched.py").write_text(LAUNCHED)
    tests = Path(__file__).parents[1]
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--rdzv-backend=c10d",
    ]
    words += ["--rdzv-endpoint=localhost:0", root / "launched.py", f"{tests}:{tests}/faults", root]
    paths = os.pathsep.join([str(tests), str(tests / "faults"), *sys.path])
    launcher = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL)
    metrics = root / "launched" / "metrics.jsonl"
    before = metrics.read_text().count("\n") if metrics.exists() else 0
    try:
        wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > before + 3, 300)
        process = launcher.pid if whom == "the launcher" else int((root / "pid-1").read_text())
        os.kill(process, signal.SIGTERM)
        launcher.wait(120)
    finally:
        launcher.kill()
        for path in root.glob("pid-*"):  # which have sessions of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)
            path.unlink()
    said = {(root / f"said-{rank}").read_text() for rank in range(2)}
    assert len(said) == 1
    assert "stopped at step" in said.pop()
    saved = max((root / "launched" / "checkpoints").glob("step-*"))
    assert int(saved.name[5:]) == metrics.read_text().count('"gradient_norm"')


class OneNaN(FourMTask):
    """The loss of the second half of a batch is NaN in steps 2 and 3."""

    def batch(self, step, rows):
        self.step = step
        return super().batch(step, rows)

    def loss(self, model, batch, generator, counts=None):
        loss, details = super().loss(model, batch, generator, counts)
        return loss * (float("nan") if self.step in (2, 3) and generator.first_row >= 4 else 1), details


def nan_on_one(rank, root):
    task = make_task(load_parts(root))
    task.__class__ = OneNaN
    model = train(task, dataclasses.replace(CONFIG, evaluate_every=100, smoke_test=False), root / "nan")
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_fault_10_nan_on_one_rank_is_a_step_that_no_rank_takes(root):
    first, second = run_ranks(nan_on_one, 2, root)
    assert all(torch.equal(first[name], second[name]) and first[name].isfinite().all() for name in first)
    lines = (root / "nan" / "bad_steps.jsonl").read_text().splitlines()
    assert ['"what": "no update"' in line for line in lines] == [True, True]
    assert '"samples": ["' in lines[0]


def disk_full_on_one(rank, root):
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    plain = HuggingFaceStorageWriter.write_data

    def full(self, plan, planner):
        if rank == 1 and "step-00000004" in str(self.path):
            raise OSError(28, "No space left on device", str(self.path))
        return plain(self, plan, planner)

    HuggingFaceStorageWriter.write_data = full
    config = dataclasses.replace(CONFIG, sharding="zero2", smoke_test=False, evaluate_every=100)
    try:
        train(make_task(load_parts(root)), config, root / "full")
    except Open4MError as error:
        said = str(error)
    HuggingFaceStorageWriter.write_data = plain
    return said, [path.name for path in sorted((root / "full" / "checkpoints").glob("step-*"))]


def test_fault_7_a_full_disk_of_one_rank_is_said_by_all_and_the_earlier_checkpoint_stays(root):
    found = run_ranks(disk_full_on_one, 2, root)
    for said, left in found:
        assert "step-00000004: the checkpoint could not be written (rank 1: " in said
        assert "No space left on device" in said
        assert left == ["step-00000002"]


def test_a_checkpoint_of_tensors_that_cannot_be_written_names_the_disk(root, monkeypatch):
    def full(*_, **__):
        raise Open4MError("cannot be written (No space left on device)")

    monkeypatch.setattr(weights, "write_tensors", full)
    config = dataclasses.replace(CONFIG, smoke_test=False, evaluate_every=100)
    with pytest.raises(Open4MError, match=r"step-0000000.: the checkpoint could not be written .*No space left"):
        train(make_task(load_parts(root)), config, root / "alone")
