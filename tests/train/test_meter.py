"""What a training says of its speed, with a clock that the tests turn."""

import json
import mmap
import sys

import pytest
import torch
from line_task import CONFIG, LineTask

from open4m.train import meter, peak
from open4m.train.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A list whose only number is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    return now


def test_speeds_are_those_of_the_latest_steps(clock, monkeypatch):
    monkeypatch.setattr(peak, "of_device", lambda device, precision: 1000.0)
    ours = meter.Meter(CPU, "fp32")

    def source():
        for step in range(4):
            clock[0] += 0.5 if step else 7.0  # the first wait is before anything is measured
            yield step

    for _ in ours.timed(source()):
        clock[0] += 1.5
        ours.step(8, 60, 400.0)
    found = ours.metrics()
    assert found["samples_per_second"] == pytest.approx(8 / 2.0)
    assert found["tokens_per_second"] == pytest.approx(60 / 2.0)
    assert found["data_wait"] == pytest.approx(0.25)
    assert found["mfu"] == pytest.approx(400 / 2.0 / 1000)
    assert (ours.steps, ours.seconds_per_step) == (3, 2.0)


def test_an_evaluation_between_steps_is_no_step(clock):
    ours = meter.Meter(CPU, "fp32")
    for _ in range(3):
        clock[0] += 1
        ours.step(4, 4, 0.0)
    ours.pause()
    assert ours.steps == ours.samples_per_second == 0
    clock[0] += 1000
    for _ in range(2):
        clock[0] += 1
        ours.step(4, 4, 0.0)
    assert ours.samples_per_second == 4.0
    assert "mfu" not in ours.metrics()


def test_no_speed_is_told_before_the_first_is_known(clock):
    ours = meter.Meter(CPU, "fp32")
    for number, text in enumerate(("", ", 4 samples/s")):
        clock[0] += 2.0
        for _ in ours.timed(iter([None])):
            ours.step(8, 0, 0)
        assert ours.speed_text == text, number


def test_only_the_latest_steps_count(clock):
    ours = meter.Meter(CPU, "fp32")
    for step in range(2 * meter.LATEST_STEPS + 1):
        clock[0] += 10 if step < meter.LATEST_STEPS else 1
        ours.step(1, 1, 0.0)
    assert ours.steps == meter.LATEST_STEPS
    assert ours.seconds_per_step == 1.0


def test_memory_is_that_of_this_process():
    found = meter.memory(CPU)
    assert 2**26 < found["memory_gib"] <= found["peak_memory_gib"] < 2**40  # bytes: torch is loaded
    size = 512 << 20
    with mmap.mmap(-1, size) as block:  # from the system: what the process has freed before may be used for the rest
        for place in range(0, size, mmap.PAGESIZE):
            block[place] = 1
        # Linux counts per processor and adds up now and then: where it has many, tens of MiB are missing.
        assert meter.memory(CPU)["memory_gib"] > found["memory_gib"] + (256 << 20)


def test_a_run_records_speed_wait_and_memory(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr(LineTask, "flops", lambda self, batch: 1e6)
    train(LineTask(pause=0.002), CONFIG, tmp_path / "run", stop_at=6)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert 0 < last["data_wait"] < 1
    assert last["tokens_per_second"] == pytest.approx(last["samples_per_second"] * 10 / 8)
    assert 0 < last["mfu"] < 1
    assert {*meter.CLOCKS} - {*last} <= {"device_memory_gib"}
