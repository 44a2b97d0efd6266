"""SIGKILL to a job's driver or worker, by each executor: what is committed stays, and the same command does the rest.
Afterwards every file is, to the byte, what an uninterrupted job writes, and there is no other file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_cluster import cluster
from shard_job import SHARDS, Write, assert_complete, wait_until
from slow_jobs import job, write_raw

from open4m import files
from open4m.data.jobs import run
from open4m.data.jobs.local import InProcess, Processes
from open4m.data.jobs.ray import ATTEMPTS, RayData
from open4m.store import committed
from open4m.types import Open4MError

__all__ = ["cluster"]

pytestmark = [
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc"),
]

EXECUTORS = {"local": InProcess(), "process": Processes(2), "ray": RayData(2)}
KINDS = ("label", "tokenize")
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import slow_jobs
from open4m.data.jobs import run
from open4m.data.jobs.local import InProcess, Processes
from open4m.data.jobs.ray import RayData
if __name__ == "__main__":
    executor = {"local": InProcess(), "process": Processes(2), "ray": RayData(2, sys.argv[5])}[sys.argv[4]]
    run(slow_jobs.job(sys.argv[2], Path(sys.argv[3]))[0], executor)
"""


class WriteOrDie(Write):
    def run(self, shard):
        if shard == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(shard)


class WriteOrDieOnce(Write):
    def run(self, shard):
        if shard == 2 and not (self.root / "died").exists():
            (self.root / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().run(shard)


def content(root: Path) -> dict[str, str]:
    """The checksum of every file below a folder, but for the lock files of folders, which stay."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): files.sha256(path) for path in found}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the jobs write if nothing happens, by kind."""
    written = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp(kind)
        write_raw(root / "raw")
        run(job(kind, root)[0], InProcess())
        written[kind] = content(root)
    return written


def children(driver: int) -> list[int]:
    """The processes that a process started."""
    line = Path(f"/proc/{driver}/task/{driver}/children")
    return [*map(int, line.read_text().split())] if line.exists() else []


def actors() -> list[int]:
    """The workers of Ray, which the cluster started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter if it ends while its file is read
        return False


def kill_and_resume(
    tmp_path: Path, kind: str, executor: str, seed: int, address: str, expected: dict[str, str]
) -> None:
    """Kill the driver at a random moment, give the same command again, and compare what is there with ``expected``."""
    rng = random.Random(seed)
    write_raw(tmp_path / "raw")
    made, folder = job(kind, tmp_path)
    script = tmp_path.parent / f"{tmp_path.name}.py"
    script.write_text(DRIVER)
    words = [sys.executable, script, Path(__file__).parents[1], kind, tmp_path, executor, address]
    driver = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    enough = rng.randint(1, SHARDS - 2)
    try:
        wait_until(lambda: len(committed(folder.parent, folder.name)) >= enough, 300)
        time.sleep(rng.uniform(0, 0.5))  # of a shard that takes longer
        started = actors() if executor == "ray" else children(driver.pid)
    finally:
        driver.kill()
        driver.wait()
    wait_until(lambda: not any(map(is_alive, started)), 120)  # workers go with their driver
    before = committed(folder.parent, folder.name)
    assert enough <= len(before)
    counts = run(made, EXECUTORS[executor])
    assert sum(counts) == SHARDS
    at_work = 1 if executor == "local" else 2
    assert counts.skipped >= len(before) - at_work  # a process commits a shard before the digests of its rows
    assert content(tmp_path) == expected


@pytest.mark.parametrize(
    ("kind", "executor"),
    [("label", "local"), ("tokenize", "process"), pytest.param("label", "ray", marks=pytest.mark.slow)],
)
def test_fault_30_a_killed_driver_is_resumed_to_the_byte(tmp_path, kind, executor, uninterrupted, request):
    address = request.getfixturevalue("cluster") if executor == "ray" else ""
    kill_and_resume(tmp_path, kind, executor, 30, address, uninterrupted[kind])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_fault_30_drivers_that_are_killed_at_random_are_resumed_to_the_byte(tmp_path, seed, uninterrupted, request):
    """Each executor in turn, on each kind of job."""
    executor, kind = [*EXECUTORS][seed % 3], KINDS[seed // 3 % 2]
    address = request.getfixturevalue("cluster") if executor == "ray" else ""
    kill_and_resume(tmp_path, kind, executor, seed, address, uninterrupted[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_executors_write_the_same_bytes(tmp_path, kind, uninterrupted, cluster):
    for name in ("process", "ray"):
        write_raw(tmp_path / name / "raw")
        run(job(kind, tmp_path / name)[0], EXECUTORS[name])
        assert content(tmp_path / name) == uninterrupted[kind], name


def test_fault_13_a_killed_process_is_a_clear_error_and_the_job_resumable(tmp_path):
    with pytest.raises(Open4MError, match=r"write: a worker process died.*run the same command again to resume"):
        run(WriteOrDie(tmp_path), Processes(2))
    run(Write(tmp_path), Processes(2))
    assert_complete(tmp_path)


def test_fault_13_a_killed_actor_is_started_again_with_its_shard(tmp_path, cluster):
    tmp_path.joinpath("caption").mkdir()
    assert run(WriteOrDieOnce(tmp_path), RayData(2)) == (SHARDS, 0)
    assert (tmp_path / "died").exists()
    assert_complete(tmp_path)


@pytest.mark.slow
def test_fault_13_a_shard_that_kills_every_actor_ends_the_job(tmp_path, cluster):
    with pytest.raises(Open4MError, match=f"write: shard 2: its worker died {ATTEMPTS} times"):
        run(WriteOrDie(tmp_path), RayData(1))
    run(Write(tmp_path), RayData(1))
    assert_complete(tmp_path)
