"""Jobs over shards: what is not done is done, once. tests/faults has what is killed."""

from __future__ import annotations

import logging
import os

import pytest
from shard_job import SHARDS, Write, assert_complete, temporaries

from open4m.data.jobs.local import run
from open4m.store import committed, write_shard
from open4m.types import Open4MError


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
    with pytest.raises(Open4MError, match="write: expected at least 1 process, got 0"):
        run(Write(tmp_path), 0)


def test_processes_share_the_cores_and_keep_their_job(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    run(WriteThreads(tmp_path), 2)
    made = [(tmp_path / str(shard)).read_text().split() for shard in range(4)]
    assert {threads for threads, _, _ in made} == {"2"}
    assert len({(process, job) for _, process, job in made}) == len({process for _, process, _ in made})
