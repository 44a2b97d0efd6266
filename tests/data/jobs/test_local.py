"""Jobs over shards: killed at any instant and run again, every row is there exactly once."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from open4m.data.jobs.local import run_shards
from open4m.store import RawDataset, committed, verify, write_shard
from open4m.types import Open4MError

SHARDS, ROWS = 6, 20


def write_slowly(root: Path, seconds: float, shard: int) -> None:
    def items():
        for row in range(ROWS):
            time.sleep(seconds)
            yield f"s{shard}r{row}", f"row {row} of {shard}".encode()

    write_shard(root, "caption", shard, items())


def write_or_die(root: Path, shard: int) -> None:
    if shard == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write_slowly(root, 0, shard)


def write_or_fail(root: Path, shard: int) -> None:
    if shard == 2:
        raise Open4MError("shard 2 has no source")
    write_slowly(root, 0, shard)


def write_threads(root: Path, shard: int) -> None:
    import torch

    (root / str(shard)).write_text(str(torch.get_num_threads()))


def job(root: Path, seconds: float, processes: int):
    done = committed(root, "caption").__contains__
    return run_shards(
        range(SHARDS), partial(write_slowly, root, seconds), done=done, processes=processes, description="write"
    )


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
    assert job(tmp_path, 0, 1) == (SHARDS, 0)
    assert_complete(tmp_path)
    (tmp_path / "caption" / "shard-00003.tar").unlink()  # in the manifest, but gone
    assert job(tmp_path, 0, 1) == (1, SHARDS - 1)
    assert_complete(tmp_path)


def test_processes_lose_no_line_of_the_manifest(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="open4m"):
        assert job(tmp_path, 0, 3) == (SHARDS, 0)
    assert_complete(tmp_path)
    assert f"write: {SHARDS} of {SHARDS} shards" in caplog.text


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_driver_is_resumed(tmp_path, processes):
    """SIGKILL to the driver in the middle of a shard, after some were committed (fault 30)."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_local import job\n"
        "if __name__ == '__main__': job(Path(sys.argv[2]), 0.01, int(sys.argv[3]))\n"
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
    assert job(tmp_path, 0, 1) == (SHARDS - len(before), len(before))
    assert_complete(tmp_path)


def is_abandoned(temporary: Path) -> bool:
    """Whether no living process writes the file."""
    try:
        with temporary.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def test_a_living_writer_keeps_its_temporary_file(tmp_path):
    def items():
        yield "a", b"1"
        write_slowly(tmp_path, 0, 1)  # another writer cleans up meanwhile
        yield "b", b"2"

    write_shard(tmp_path, "caption", 0, items())
    assert committed(tmp_path, "caption") == {0, 1}
    assert not temporaries(tmp_path)


def test_a_killed_worker_is_a_clear_error_and_resumable(tmp_path):
    with pytest.raises(Open4MError, match=r"write: a worker process died.*run the same command again to resume"):
        run_shards(
            range(SHARDS), partial(write_or_die, tmp_path), done=lambda _: False, processes=2, description="write"
        )
    job(tmp_path, 0, 1)
    assert_complete(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_ends_the_job_and_keeps_what_is_done(tmp_path, processes):
    with pytest.raises(Open4MError, match="shard 2 has no source"):
        run_shards(
            range(SHARDS), partial(write_or_fail, tmp_path), done=lambda _: False, processes=processes, description="w"
        )
    assert 2 not in committed(tmp_path, "caption")
    assert {0, 1} <= committed(tmp_path, "caption")
    job(tmp_path, 0, 1)
    assert_complete(tmp_path)


def test_impossible_arguments():
    with pytest.raises(Open4MError, match="at least 1 process"):
        run_shards([0], print, done=lambda _: False, processes=0, description="write")


def test_processes_share_the_cores(tmp_path):
    run_shards(range(2), partial(write_threads, tmp_path), done=lambda _: False, processes=2, description="count")
    cores = len(os.sched_getaffinity(0))
    assert all(int((tmp_path / str(shard)).read_text()) <= max(1, cores // 2) for shard in range(2))
