"""Fault 9: a run directory belongs to one process and one configuration."""

import multiprocessing
import sys
import time

import pytest
from line_task import CONFIG, LineTask, metrics
from shard_job import wait_until

from open4m.configs import get
from open4m.stages import Stages
from open4m.train.log import LOCK
from open4m.train.loop import train
from open4m.types import Open4MError


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import


def slow(directory):
    train(LineTask(pause=0.2), CONFIG, directory)


def started(work, *arguments):
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


def test_fault_9_a_second_training_in_a_run_is_refused_and_harms_nothing(tmp_path):
    first = started(slow, tmp_path / "run")
    try:
        wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), 60)
        with pytest.raises(Open4MError, match="run: another process works on it now; wait until it ends"):
            train(LineTask(), CONFIG, tmp_path / "run")
        assert first.is_alive()
    finally:
        first.kill()
        first.join()
    train(LineTask(), CONFIG, tmp_path / "run")  # the lock of a killed process is free
    train(LineTask(), CONFIG, tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


class Slow(Stages):
    """A line whose stages only wait."""

    def tokenizers(self):
        (self.directory / "begun").touch()
        time.sleep(60)

    def assemble(self):
        (self.directory / "assembled").touch()


def tokenizers(directory):
    Slow(get("debug"), directory / "raw", directory).run(only=["tokenizers"])


def test_fault_9_a_stage_is_done_by_one_process_others_may_be_done_beside_it(tmp_path):
    first = started(tokenizers, tmp_path)
    try:
        wait_until(lambda: (tmp_path / "begun").exists(), 60)
        with pytest.raises(Open4MError, match="another process works on it now"):
            tokenizers(tmp_path)
        Slow(get("debug"), tmp_path / "raw", tmp_path).run(only=["assemble"])
    finally:
        first.kill()
        first.join()
    assert (tmp_path / "assembled").exists()


def test_a_file_system_without_locks_holds_nothing(tmp_path, monkeypatch):
    def none(self, *_arguments, **_options):
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    train(LineTask(), CONFIG, tmp_path / "run")
    assert (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / LOCK).exists()
