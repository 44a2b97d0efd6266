"""Jobs over shards: what is not done is done, once. tests/faults has what is killed."""

from __future__ import annotations

import logging
import os

import pytest
from shard_job import SHARDS, Write, assert_complete, temporaries

from open4m.data.jobs.local import _share_cores, run
from open4m.store import committed, write_shard
from open4m.types import Open4MError


class WriteOrFail(Write):
    def run(self, shard):
        if shard == 2:
            raise Open4MError("shard 2 has no source")
        super().run(shard)


class WriteAndTell(Write):
    """Write beside each shard how many threads its process may use, the process, and the instance of the job."""

    def run(self, shard):
        super().run(shard)
        (self.root / str(shard)).write_text(f"{os.environ['OMP_NUM_THREADS']} {os.getpid()} {id(self)}")


def test_does_what_is_not_done(tmp_path):
    assert run(Write(tmp_path)) == (SHARDS, 0)
    assert_complete(tmp_path)
    (tmp_path / "caption" / "shard-00003.tar").unlink()  # in the manifest, but gone
    assert run(Write(tmp_path)) == (1, SHARDS - 1)
    assert_complete(tmp_path)


def test_processes_lose_no_line_of_the_manifest_and_share_the_cores(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with caplog.at_level(logging.INFO, logger="open4m"):
        assert run(WriteAndTell(tmp_path), 3) == (SHARDS, 0)
    assert_complete(tmp_path)
    assert f"write: {SHARDS} of {SHARDS} shards" in caplog.text
    told = [(tmp_path / str(shard)).read_text().split() for shard in range(SHARDS)]
    assert {threads for threads, _, _ in told} == {"2"}
    # a process keeps its job, and what that opened, for all its shards
    assert len({(process, job) for _, process, job in told}) == len({process for _, process, _ in told})


def test_torch_uses_a_process_s_share_of_the_cores(monkeypatch):
    import torch  # not on loading this file: spawned processes load it as well

    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    try:
        _share_cores(4)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
        _share_cores(100)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_living_writer_keeps_its_temporary_file(tmp_path):
    def items():
        yield "a", b"1"
        Write(tmp_path).run(1)  # another writer cleans up meanwhile
        yield "b", b"2"

    write_shard(tmp_path, "caption", 0, items())
    assert committed(tmp_path, "caption") == {0, 1}
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_the_work_ends_the_job_and_keeps_what_is_done(tmp_path, processes):
    with pytest.raises(Open4MError, match="shard 2 has no source"):
        run(WriteOrFail(tmp_path), processes)
    assert 2 not in committed(tmp_path, "caption")
    assert {0, 1} <= committed(tmp_path, "caption")
    run(Write(tmp_path))
    assert_complete(tmp_path)


def test_impossible_arguments(tmp_path):
    with pytest.raises(Open4MError, match="expected at least 1 process, got 0"):
        run(Write(tmp_path), 0)
