"""What was written is what is read; damage is named."""

import hashlib
import json
import os

import pytest

from open4m import checksums
from open4m.types import Open4MError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second")
    checksums.seal(tmp_path, ["a", "b"])
    return tmp_path


def test_sums_are_those_of_sha256(folder):
    expected = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in "ab"}
    assert json.loads((folder / checksums.FILE).read_text()) == checksums.recorded(folder) == expected
    checksums.check(folder, "a", "b")
    assert checksums.changed(folder) == []


def test_sealing_adds_to_what_is_recorded(folder):
    (folder / "a").write_bytes(b"third")
    (folder / "c").write_bytes(b"")
    checksums.seal(folder, ["c"])
    assert sorted(checksums.recorded(folder)) == ["a", "b", "c"]
    assert checksums.changed(folder) == ["a"]


@pytest.mark.parametrize("bit", range(8 * len(b"first")))
def test_every_flipped_bit_is_found(folder, bit):
    data = bytearray((folder / "a").read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    (folder / "a").write_bytes(data)
    checksums.check(folder, "b")
    with pytest.raises(Open4MError, match=r"a: the content is not what sha256\.json recorded .*open4m verify"):
        checksums.check(folder, "a", "b")


def test_every_damage_of_the_sums_is_found_or_changes_nothing(folder):
    whole = (folder / checksums.FILE).read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            (folder / checksums.FILE).write_bytes(data)
            try:
                checksums.check(folder, "a", "b")
            except Open4MError:
                continue
            assert checksums.recorded(folder).keys() == {"a", "b"}


def test_a_file_that_is_gone_is_named(folder):
    (folder / "b").unlink()
    with pytest.raises(Open4MError, match=r"b: listed in sha256\.json, but not there"):
        checksums.check(folder, "a")
    assert checksums.changed(folder) == ["b"]


def test_a_change_is_found_after_the_file_was_read_once(folder):
    checksums.check(folder, "a")
    (folder / "a").write_bytes(b"other")
    with pytest.raises(Open4MError, match="a: the content"):
        checksums.check(folder, "a")


def test_nothing_is_known_of_folders_of_others(tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    checksums.check(tmp_path, "a")
    assert checksums.recorded(tmp_path) == {}


def test_names_that_were_not_recorded_are_not_checked(folder):
    checksums.check(folder, "README.md")


def test_checks_can_be_switched_off(folder, monkeypatch):
    (folder / "a").write_bytes(b"other")
    monkeypatch.setenv(checksums.VARIABLE, "0")
    checksums.check(folder, "a")
    checksums.check_shard(folder / "a", "0" * 64)


@pytest.fixture
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv(checksums.REMEMBERED, str(tmp_path / "memory"))
    return tmp_path / "memory"


def test_a_shard_is_hashed_once(tmp_path, memory, monkeypatch):
    path = tmp_path / "shard"
    path.write_bytes(b"content")
    os.utime(path, (0, 0))
    digest, hashed = hashlib.sha256(b"content").hexdigest(), []
    whole = checksums.files.sha256
    monkeypatch.setattr(checksums.files, "sha256", lambda path: hashed.append(path) or whole(path))
    checksums.check_shard(path, digest)
    checksums.check_shard(path, digest)
    assert hashed == [path]
    path.write_bytes(b"CONTENT")
    os.utime(path, (1, 1))
    with pytest.raises(Open4MError, match="shard was damaged or changed"):
        checksums.check_shard(path, digest)
    assert len(hashed) == 2


def test_of_a_shard_that_was_just_written_nothing_is_remembered(tmp_path, memory):
    """Two contents may have one time, where the clock of the file system is coarse."""
    path = tmp_path / "shard"
    path.write_bytes(b"content")
    state = path.stat()
    checksums.check_shard(path, hashlib.sha256(b"content").hexdigest())
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(Open4MError, match="shard was damaged or changed"):
        checksums.check_shard(path, hashlib.sha256(b"content").hexdigest())


def test_a_damaged_shard_is_not_remembered_as_whole(tmp_path, memory):
    path = tmp_path / "shard"
    path.write_bytes(b"damage")
    for _ in range(2):
        with pytest.raises(Open4MError, match="as its manifest lists it"):
            checksums.check_shard(path, hashlib.sha256(b"content").hexdigest())
    assert not memory.exists()


def test_where_nothing_can_be_remembered_shards_are_checked_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(checksums.REMEMBERED, str(tmp_path / "file"))
    checksums.check_shard(tmp_path / "file", hashlib.sha256(b"").hexdigest())
    (tmp_path / "file").write_bytes(b"damage")
    with pytest.raises(Open4MError, match="shard was damaged or changed"):
        checksums.check_shard(tmp_path / "file", hashlib.sha256(b"").hexdigest())
