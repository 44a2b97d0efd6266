"""Jobs on a Ray cluster. What is killed there: tests/faults/test_killed_jobs.py, in the same process, as it needs Ray
too."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_cluster import cluster
from shard_job import SHARDS, Write, assert_complete

from open4m.data.jobs import run
from open4m.data.jobs.ray import RayData
from open4m.types import Open4MError

__all__ = ["cluster"]

pytestmark = pytest.mark.xdist_group("ray")


@dataclass(frozen=True)
class WriteOrFail(Write):
    error: type[Exception] = Open4MError

    def run(self, shard):
        if shard == 2:
            raise self.error("shard 2 has no source")
        super().run(shard)


def test_a_job_is_done_and_resumed_and_paths_may_be_relative(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(Write(Path("out")), RayData(2)) == (SHARDS, 0)
    assert_complete(tmp_path / "out")
    (tmp_path / "out" / "caption" / "shard-00003.tar").unlink()
    assert run(Write(Path("out")), RayData(2, cpus=4)) == (1, SHARDS - 1)
    assert_complete(tmp_path / "out")


@pytest.mark.parametrize("error", [Open4MError, pytest.param(ValueError, marks=pytest.mark.slow)])
def test_an_error_in_the_work_ends_the_job_and_keeps_what_is_done(cluster, tmp_path, error):
    """The user's mistakes come as such, others with their traceback."""
    expected = Open4MError if error is Open4MError else RuntimeError
    with pytest.raises(expected, match="shard 2 has no source"):
        run(WriteOrFail(tmp_path, error=error), RayData(1))
    run(Write(tmp_path), RayData(2))
    assert_complete(tmp_path)


def test_workers_that_no_node_can_hold_are_refused(cluster, tmp_path):
    with pytest.raises(Open4MError, match="each worker needs 1 CPUs and 1 GPUs of one node"):
        run(Write(tmp_path), RayData(1, gpus=1))


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Open4MError, match=r"pip install 'open4m\[ray\]'"):
        run(Write(tmp_path), RayData(1))


def test_nothing_is_started_for_a_job_that_is_done(tmp_path, monkeypatch):
    for shard in range(SHARDS):
        Write(tmp_path).run(shard)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(Write(tmp_path), RayData(1)) == (0, SHARDS)
