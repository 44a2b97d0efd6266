"""Jobs over shards: killed at any instant and run again, every row is there exactly once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from open4m.data.jobs import Job
from open4m.data.jobs.local import run
from open4m.store import RawDataset, committed, verify, write_shard
from open4m.store.manifest import is_committed
from open4m.types import Open4MError

SHARDS, ROWS = 6, 20


@dataclass(frozen=True)
class Write(Job):
    """Write captions, ``seconds`` per row."""

    root: Path
    seconds: float = 0.0
    description = "write"

    def shards(self):
        return range(SHARDS)

    def is_done(self, shard):
        return is_committed(self.root, "caption", shard)

    def run(self, shard):
        def items():
            for row in range(ROWS):
                time.sleep(self.seconds)
                yield f"s{shard}r{row}", f"row {row} of {shard}".encode()

        write_shard(self.root, "caption", shard, items())


class WriteOrDie(Write):
    def run(self, shard):
        if shard == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(shard)


class WriteOrFail(Write):
    def run(self, shard):
        if shard == 2:
            raise Open4MError("shard 2 has no source")
        super().run(shard)


class WriteThreads(Write):
    """Write how many threads torch uses, and which instance of the job it is."""

    def shards(self):
        return range(4)

    def is_done(self, shard):
        return False

    def run(self, shard):
        import torch

        (self.root / str(shard)).write_text(f"{torch.get_num_threads()} {os.getpid()} {id(self)}")


def temporaries(root: Path) -> list[Path]:
    return list(root.glob("caption/.*.tmp"))


def assert_complete(root: Path) -> None:
    dataset = RawDataset(root, ["caption"])
    assert dataset.keys == [f"s{shard}r{row}" for shard in range(SHARDS) for row in range(ROWS)]
    assert verify(root, "caption") == SHARDS
    assert sorted(path.name for path in (root / "caption").iterdir()) == sorted(
        [".lock", "manifest.json", *(f"shard-{shard:05d}.tar" for shard in range(SHARDS))]
    )


def wait_until(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the job did not get there in time"
        time.sleep(0.005)


def test_does_what_is_not_done(tmp_path):
    assert run(Write(tmp_path)) == (SHARDS, 0)
    assert_complete(tmp_path)
    (tmp_path / "caption" / "shard-00003.tar").unlink()  # in the manifest, but gone
    assert run(Write(tmp_path)) == (1, SHARDS - 1)
    assert_complete(tmp_path)


def test_processes_lose_no_line_of_the_manifest(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="open4m"):
        assert run(Write(tmp_path), 3) == (SHARDS, 0)
    assert_complete(tmp_path)
    assert f"write: {SHARDS} of {SHARDS} shards" in caplog.text


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_driver_is_resumed(tmp_path, processes):
    """SIGKILL to the driver in the middle of a shard, after some were committed (fault 30)."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_local import Write, run\n"
        "if __name__ == '__main__': run(Write(Path(sys.argv[2]), 0.01), int(sys.argv[3]))\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, script, Path(__file__).parent, tmp_path, str(processes)])
    try:
        wait_until(lambda: len(committed(tmp_path, "caption")) >= 2 and temporaries(tmp_path))
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == -signal.SIGKILL
    wait_until(lambda: all(map(is_abandoned, temporaries(tmp_path))))  # workers go with their driver
    before = committed(tmp_path, "caption")
    assert 2 <= len(before) < SHARDS
    assert run(Write(tmp_path)) == (SHARDS - len(before), len(before))
    assert_complete(tmp_path)


def is_abandoned(temporary: Path) -> bool:
    """Whether no living process writes the file."""
    try:
        FileLock(temporary.with_suffix(".lock"), timeout=0).acquire().lock.release()
    except Timeout:
        return False
    return True


def test_a_living_writer_keeps_its_temporary_file(tmp_path):
    def items():
        yield "a", b"1"
        Write(tmp_path).run(1)  # another writer cleans up meanwhile
        yield "b", b"2"

    write_shard(tmp_path, "caption", 0, items())
    assert committed(tmp_path, "caption") == {0, 1}
    assert not temporaries(tmp_path)


def test_a_killed_worker_is_a_clear_error_and_resumable(tmp_path):
    with pytest.raises(Open4MError, match=r"write: a worker process died.*run the same command again to resume"):
        run(WriteOrDie(tmp_path), 2)
    run(Write(tmp_path))
    assert_complete(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_ends_the_job_and_keeps_what_is_done(tmp_path, processes):
    with pytest.raises(Open4MError, match="shard 2 has no source"):
        run(WriteOrFail(tmp_path), processes)
    assert 2 not in committed(tmp_path, "caption")
    assert {0, 1} <= committed(tmp_path, "caption")
    run(Write(tmp_path))
    assert_complete(tmp_path)


def test_impossible_arguments(tmp_path):
    with pytest.raises(Open4MError, match="write: expected at least 1 process, got 0"):
        run(Write(tmp_path), 0)


def test_processes_share_the_cores_and_keep_their_job(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    run(WriteThreads(tmp_path), 2)
    made = [(tmp_path / str(shard)).read_text().split() for shard in range(4)]
    assert {threads for threads, _, _ in made} == {"2"}
    assert len({(process, job) for _, process, job in made}) == len({process for _, process, _ in made})
