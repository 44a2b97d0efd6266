"""Signals to a run: it finishes its step, saves, and can be resumed."""

import dataclasses
import multiprocessing
import os
import signal
import sys
import time

import pytest
from line_task import CONFIG, LineTask, metrics

from open4m.config import Duration
from open4m.train.loop import train
from open4m.types import Preempted


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import; the loop goes without


LONG = dataclasses.replace(
    CONFIG, length=Duration(100_000, "steps"), evaluate_every=10**6, checkpoint_every=10**6, workers=1
)


def long_run(directory):
    """A run in a session of its own, as a scheduler starts one, that notes how it was stopped."""
    os.setsid()
    try:
        train(LineTask(pause=0.005), LONG, directory)
    except Preempted as stopped:
        (directory / "stopped").write_text(str(stopped))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_run_saves_it_and_it_can_be_resumed(tmp_path, number):
    """Schedulers and Ctrl-C signal all processes of a run: its workers too."""
    directory = tmp_path / "run"
    process = multiprocessing.get_context("fork").Process(target=long_run, args=(directory,))
    process.start()
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.is_alive():
        if (directory / "metrics.jsonl").exists() and (directory / "metrics.jsonl").read_text().count("\n") > 3:
            break
        time.sleep(0.02)
    os.killpg(process.pid, number)
    process.join(120)
    assert "line: stopped at step" in (directory / "stopped").read_text()
    lines = metrics(directory)
    done = lines[-1]["step"]
    assert [p.name for p in (directory / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    train(LineTask(seed=99), LONG, directory, stop_at=done + 5)
    train(LineTask(), LONG, tmp_path / "whole", stop_at=done + 5)
    resumed = {line["step"]: line for line in metrics(directory)}
    assert resumed == {line["step"]: line for line in metrics(tmp_path / "whole")}


def test_signals_are_handled_as_before_after_a_run(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_signal_in_the_middle_of_a_step_lets_it_finish(tmp_path):
    class Interrupted(LineTask):
        def loss(self, model, batch, generator):
            if batch["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(model, batch, generator)

    with pytest.raises(Preempted, match="stopped at step 3; saved in"):
        train(Interrupted(), CONFIG, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
