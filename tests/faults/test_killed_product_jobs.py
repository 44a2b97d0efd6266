"""Signals to what users run: tokenizing and labelling in two processes, and generation for a folder of images. The same
command, given again, does the rest, and nothing is left of the one that ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shard_job import wait_until
from slow_jobs import SHARDS, job, write_raw
from small_model import image, model

from open4m import modalities
from open4m.cli.main import main
from open4m.data.jobs.local import run
from open4m.generate import record
from open4m.generate.folder import FolderJob
from open4m.generate.request import Extract
from open4m.store import RawDataset, committed, verify
from open4m.store.tokens import TokenStore

__all__ = ["image", "model"]

TESTS = Path(__file__).parents[1]
DRIVER = (
    "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
    "import slow_jobs; from open4m.data.jobs.local import run; from open4m.types import Open4MError\n"
    "if __name__ == '__main__':\n"
    "    try:\n"
    "        run(slow_jobs.job(sys.argv[2], Path(sys.argv[3]))[0], 2)\n"
    "    except Open4MError as error:\n"
    "        sys.exit(str(error))\n"
)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers(driver: int) -> list[int]:
    """The processes that do the driver's shards; another one watches its semaphores."""
    found = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(driver)}
    return [child for child, line in found.items() if b"spawn_main" in line]


def is_alive(process: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while its file is read
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")
@pytest.mark.parametrize(
    ("kind", "victim", "number"),
    [
        ("tokenize", "a worker", signal.SIGKILL),
        ("tokenize", "the driver", signal.SIGKILL),
        pytest.param("tokenize", "the driver", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("label", "a worker", signal.SIGKILL, marks=pytest.mark.slow),
    ],
)
def test_a_job_of_two_processes_survives_signals(tmp_path, kind, victim, number):
    keys, (made, folder) = write_raw(tmp_path / "raw"), job(kind, tmp_path)
    (tmp_path / "driver.py").write_text(DRIVER)
    words = [sys.executable, tmp_path / "driver.py", TESTS, kind, tmp_path]
    driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: committed(folder.parent, folder.name), 120)
        started = [driver.pid, *children(driver.pid)]
        os.kill(workers(driver.pid)[0] if victim == "a worker" else driver.pid, number)
        said = driver.communicate(timeout=60)[1]
    finally:
        driver.kill()
        driver.wait()
    if victim == "a worker":
        assert "a worker process died after" in said
        assert "run the same command again to resume" in said
        assert driver.returncode == 1
    wait_until(lambda: not any(map(is_alive, started)), 30)
    before = committed(folder.parent, folder.name)
    finished = [shard for shard in before if all(link.is_recorded(shard) for link in made.links if link.exists)]
    kept = {path: path.stat().st_mtime_ns for n in before for path in folder.glob(f"shard-{n:05d}.*")}
    assert 1 <= len(before) < SHARDS
    assert run(made) == (SHARDS - len(finished), len(finished))  # the record of a shard comes after it
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert verify(folder.parent, folder.name) == SHARDS
    names = {path.name.partition(".")[0] for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"manifest", *(f"shard-{shard:05d}" for shard in range(SHARDS))}
    assert [path.name for path in folder.glob(".*")] == [".lock"]
    if kind == "label":
        raw = RawDataset(folder.parent, ["rgb", "canny_edge"])
        assert raw.keys == keys
        assert [raw[i]["canny_edge"].shape for i in range(len(raw))] == [(8 + i, 8 + i) for i in range(len(raw))]
    else:
        store = TokenStore(folder.parent, ["rgb_pixels"])
        assert list(store.keys(np.arange(len(store)))) == keys
        shown = map(modalities.get("rgb_pixels").read, store.pixels("rgb_pixels", np.arange(len(store))))
        assert [round(float(pixels.mean()) / 9) for pixels in shown] == list(range(len(keys)))


SLOWLY = """
import signal, sys, time
from open4m.cli.main import main
from open4m.generate.folder import FolderJob

fast = FolderJob.run

def slow(job, model):
    for line in fast(job, model):
        yield line
        time.sleep(0.3)

FolderJob.run = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's jobs in the background ignore it
sys.exit(main(sys.argv[1:]))
"""
"""The command line, with a pause after each image, so that a signal always finds it at work."""


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGINT))],
)
def test_a_job_on_a_folder_of_images_survives_signals(tmp_path, model, image, number, capsys):
    (tmp_path / "images").mkdir()
    for i in range(8):
        image.save(tmp_path / "images" / f"{i:02d}.png")
    model.save(tmp_path / "model")
    folders = ["--input-dir", tmp_path / "images", "--output-dir", tmp_path / "out", "--batch-size", "1"]
    words = ["extract", "--model", tmp_path / "model", "--to", "depth", "caption", "--device", "cpu", *folders]
    words, done = list(map(str, words)), lambda: len(list((tmp_path / "out").glob(f"[!.]*/{record.NAME}")))
    process = subprocess.Popen([sys.executable, "-c", SLOWLY, *words], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: done() > 1, 120)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGINT:
        assert (process.returncode, said.count("\n")) == (3, 1)
        assert "run the same command again to go on" in said
    before = done()
    assert 2 <= before < 8
    assert main(words) == 0
    assert f"{8 - before} of 8 images done now, {before} before" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(f"{i:02d}.png" for i in range(8)),
        "request.json",
        "results.jsonl",
        "index.html",
    }
    for i in range(8):
        found = record.read(tmp_path / "out" / f"{i:02d}.png" / record.NAME)
        assert set(found.results[0].tokens) == {"depth", "caption"}
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [f"{i:02d}.png" for i in range(8)]


def test_two_processes_may_share_a_folder_of_images(tmp_path, model, image):
    """What another one does meanwhile is done."""
    (tmp_path / "images").mkdir()
    for name in "abc":
        image.save(tmp_path / "images" / f"{name}.png")
    request = Extract(targets=("depth",))
    first, second = (FolderJob(request, tmp_path / "images", tmp_path / "out", 1).run(model) for _ in "12")
    assert next(first) == str(tmp_path / "out" / "a.png")
    assert next(second) == str(tmp_path / "out" / "b.png")
    assert list(first)[-1] == "2 of 3 images done now, 1 before"
    assert list(second)[-1] == "1 of 3 images done now, 2 before"
