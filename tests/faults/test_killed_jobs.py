"""SIGKILL to a job's driver or worker: what is committed stays, and the same call does the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from shard_job import SHARDS, Write, assert_complete, temporaries, wait_until

from open4m.data.jobs.local import run
from open4m.store import committed
from open4m.types import Open4MError


class WriteOrDie(Write):
    def run(self, shard):
        if shard == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(shard)


def is_abandoned(temporary: Path) -> bool:
    """Whether no living process writes the file."""
    try:
        FileLock(temporary.with_suffix(".lock"), timeout=0).acquire().lock.release()
    except Timeout:
        return False
    return True


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_driver_is_resumed(tmp_path, processes):
    """SIGKILL to the driver in the middle of a shard, after some were committed (fault 30)."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from shard_job import Write; from open4m.data.jobs.local import run\n"
        "if __name__ == '__main__': run(Write(Path(sys.argv[2]), 0.01), int(sys.argv[3]))\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, script, Path(__file__).parents[1], tmp_path, str(processes)])
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


def test_a_killed_worker_is_a_clear_error_and_resumable(tmp_path):
    with pytest.raises(Open4MError, match=r"write: a worker process died.*run the same command again to resume"):
        run(WriteOrDie(tmp_path), 2)
    run(Write(tmp_path))
    assert_complete(tmp_path)
