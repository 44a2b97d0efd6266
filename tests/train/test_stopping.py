"""Ctrl-C and SIGTERM: at once where nothing would be lost, after the step where something would be."""

import contextlib
import dataclasses
import gc
import json
import multiprocessing
import os
import re
import signal
import sys
import threading

import pytest
from line_task import CONFIG, LineTask, metrics
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from open4m.train import loop
from open4m.train.loop import _batches, train
from open4m.types import Open4MError, Preempted


@pytest.fixture(autouse=True)
def _no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # takes seconds to import; the loop goes without


def interrupt(times=1, number=signal.SIGINT):
    for _ in range(times):
        os.kill(os.getpid(), number)


def checkpoints(directory):
    return [path.name for path in sorted((directory / "checkpoints").glob("step-*"))]


class InWait(LineTask):
    """Stopped while the batch of a step is awaited."""

    at = 6

    def batch(self, step, rows):
        if step == self.at:
            interrupt()
            pytest.fail("the wait went on")
        return super().batch(step, rows)


def test_a_wait_for_data_ends_at_once_and_what_is_done_is_saved(tmp_path):
    with pytest.raises(Preempted, match=r"line: stopped at step 6; saved in .*run again to resume"):
        train(InWait(), CONFIG, tmp_path / "run")
    assert checkpoints(tmp_path / "run") == ["step-00000004", "step-00000006"]
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=9)
    train(LineTask(), CONFIG, tmp_path / "whole", stop_at=9)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_before_the_first_step_nothing_is_lost_and_nothing_saved(tmp_path):
    task = InWait()
    task.at = 0
    with pytest.raises(Preempted, match="line: stopped at step 0; nothing is lost"):
        train(task, CONFIG, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_evaluation_ends_at_once_and_the_weights_are_those_of_training(tmp_path, number):
    class InEvaluation(LineTask):
        def evaluate(self, model):
            interrupt(number=number)
            pytest.fail("the evaluation went on")

    config = dataclasses.replace(CONFIG, ema=0.5)  # which an evaluation puts in the place of the weights
    with pytest.raises(Preempted, match="line: stopped at step 10; saved in"):
        train(InEvaluation(), config, tmp_path / "run")
    train(LineTask(), config, tmp_path / "run", stop_at=14)
    train(LineTask(), config, tmp_path / "whole", stop_at=14)
    losses = [[m["loss"] for m in metrics(tmp_path / name) if "loss" in m] for name in ("run", "whole")]
    assert losses[0] == losses[1]


def test_a_step_is_finished_and_the_second_ctrl_c_stops_now(tmp_path, caplog):
    class InStep(LineTask):
        presses = 1

        def loss(self, model, batch, generator):
            if batch["step"] == 2:
                interrupt(self.presses)
            return super().loss(model, batch, generator)

    with pytest.raises(Preempted, match="stopped at step 3"):
        train(InStep(), CONFIG, tmp_path / "once")
    assert [r.getMessage() for r in caplog.records if "press Ctrl-C again to stop now" in r.getMessage()]
    task = InStep()
    task.presses = 2
    with pytest.raises(KeyboardInterrupt, match="resume from the last checkpoint"):
        train(task, CONFIG, tmp_path / "twice")
    assert checkpoints(tmp_path / "twice") == []


def test_schedulers_may_send_sigterm_twice(tmp_path):
    class InStep(LineTask):
        def loss(self, model, batch, generator):
            if batch["step"] == 2:
                interrupt(2, signal.SIGTERM)
            return super().loss(model, batch, generator)

    with pytest.raises(Preempted, match="stopped at step 3"):
        train(InStep(), CONFIG, tmp_path / "run")


def test_a_lock_that_a_killed_worker_holds_is_not_waited_for():
    batches = _batches(LineTask(), [range(4)], range(5), 1)
    next(batches)
    (iterator,) = (
        each for each in gc.get_objects() if type(each) is _MultiProcessingDataLoaderIter
    )  # others' proxies may be dead
    iterator._workers_done_event._cond.acquire()
    del iterator
    ending = threading.Thread(target=batches.close, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive()
    gc.collect()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_cannot_do_is_said_as_it_is(tmp_path, workers):
    class Unreadable(LineTask):
        def batch(self, step, rows):
            if step == 3:
                raise Open4MError("shard-00000.tar: key b, modality rgb: not a readable image")
            return super().batch(step, rows)

    with pytest.raises(Open4MError, match=r"^(step 4: )?shard-00000\.tar: key b, modality rgb: not a readable image$"):
        train(Unreadable(), dataclasses.replace(CONFIG, workers=workers), tmp_path / "run")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(5, "a disk")])
def test_an_error_in_a_worker_is_no_death(tmp_path, error):
    class Wrong(LineTask):
        def batch(self, step, rows):
            raise error

    with pytest.raises(type(error), match=r"(?s)worker process 0.*in batch\n.*raise error"):
        train(Wrong(), dataclasses.replace(CONFIG, workers=1), tmp_path / "run")


@pytest.mark.parametrize("place", ["batch", "loss"])
def test_a_worker_that_dies_is_said_in_words_and_the_run_goes_on(tmp_path, place):
    """Also if it dies while the run is in the middle of a step."""

    class Dies(LineTask):
        def batch(self, step, rows):
            if place == "batch" and step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(step, rows)

        def loss(self, model, batch, generator):
            if place == "loss" and batch["step"] == 5:
                for worker in multiprocessing.active_children():
                    worker.kill()
                    worker.join()
            return super().loss(model, batch, generator)

    before = signal.getsignal(signal.SIGCHLD)
    config = dataclasses.replace(CONFIG, workers=1)
    with pytest.raises(Open4MError, match=r"a process that makes batches died .*train.workers lower"):
        train(Dies(), config, tmp_path / "run")
    assert signal.getsignal(signal.SIGCHLD) == before
    assert place == "batch" or checkpoints(tmp_path / "run") == ["step-00000004"]
    train(LineTask(), config, tmp_path / "run", stop_at=9)
    train(LineTask(), CONFIG, tmp_path / "whole", stop_at=9)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def stopped_while(wait, directory):
    """A training whose only worker is stopped before the seventh batch; what ``wait`` did meanwhile, and its error."""

    class Stops(LineTask):
        def batch(self, step, rows):
            if step == 6:
                os.kill(os.getpid(), signal.SIGSTOP)
            return super().batch(step, rows)

    children = {*multiprocessing.active_children()}
    with pytest.raises((Open4MError, Preempted)) as caught, wait():
        train(Stops(), dataclasses.replace(CONFIG, workers=1), directory)
    assert {*multiprocessing.active_children()} <= children
    return str(caught.value)


def test_a_stopped_worker_is_said_to_hang_and_is_gone_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STALLED_SECONDS", 3)
    message = stopped_while(contextlib.nullcontext, tmp_path / "run")
    assert message.startswith("no batch was made in 3 seconds: a process that makes them was stopped")
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=9)
    train(LineTask(), CONFIG, tmp_path / "whole", stop_at=9)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_sigterm_is_obeyed_while_a_stopped_worker_is_waited_for(tmp_path):
    @contextlib.contextmanager
    def asked():
        timer = threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        yield
        timer.join()

    message = stopped_while(asked, tmp_path / "run")
    (step,) = re.findall(r"stopped at step (\d); saved in", message)  # batches that were made may not have arrived
    assert checkpoints(tmp_path / "run")[-1] == f"step-0000000{step}"


def test_time_and_pictures_are_recorded(tmp_path):
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=10)
    train(LineTask(), CONFIG, tmp_path / "run", stop_at=11)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)  # it goes on where the part before stopped
    (pictures,) = [line["pictures"] for line in lines if "pictures" in line]
    assert (tmp_path / "run" / pictures["dot"]).is_file()
