"""Files are whole or not there: on a full disk, and with several writers of the same one."""

import errno
import os
import threading

import pytest
import safetensors.torch
import torch

from open4m import files, weights
from open4m.cli import main
from open4m.store.mapped import mapped
from open4m.types import Open4MError


def full(*_arguments, **_how):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make_folder(folder):
    folder.mkdir()
    (folder / "a").write_text("new")


@pytest.mark.parametrize("write", [lambda p: files.write_text(p, "new"), lambda p: files.write_folder(p, make_folder)])
def test_a_full_disk_names_the_file_and_leaves_what_was_there(tmp_path, monkeypatch, write):
    old, new = tmp_path / "old.json", tmp_path / "new"
    files.write_text(old, "old")
    monkeypatch.setattr(os, "fsync", full)
    for path in (old, new):
        with pytest.raises(Open4MError, match=r"No space left on device.*free some space") as error:
            write(path)
        assert str(error.value).startswith(f"{path}: cannot be written (")
    monkeypatch.undo()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old.json", "old")]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), safetensors.SafetensorError("I/O error: full")])
def test_weights_that_do_not_fit_leave_those_of_before(tmp_path, monkeypatch, error):
    path = tmp_path / "model.safetensors"
    weights.write_tensors(path, {"a": torch.ones(3)})

    def cut(tensors, path, **_how):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", cut)
    with pytest.raises(Open4MError, match=r"model\.safetensors: cannot be written \(.*full"):
        weights.write_tensors(path, {"a": torch.zeros(3)})
    assert weights.read_tensors(path)["a"].tolist() == [1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127], ids=["ascii", "letters"])
def test_names_may_be_as_long_as_the_file_system_allows(tmp_path, name):
    files.write_text(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "whole"


def test_writers_of_the_same_file_do_not_disturb_each_other(tmp_path):
    path, failures = tmp_path / "a", []
    contents = [bytes([n]) * 200_000 for n in range(4)]
    files.write_bytes(path, contents[0])

    def write(content):
        try:
            for _ in range(20):
                files.write_bytes(path, content)
                assert files.read_bytes(path) in contents
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(("code", "message"), [(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "quota")])
def test_the_command_line_says_in_one_line_that_the_disk_is_full(monkeypatch, capsys, code, message):
    def run(*_arguments):
        raise OSError(code, os.strerror(code))  # as file.write does: without a name

    monkeypatch.setattr(main, "_run", run)
    assert main.main(["generate"]) == 2
    assert capsys.readouterr().err.startswith("open4m: cannot write: ")
    assert message in os.strerror(code)


def test_writers_of_the_same_folder_leave_it_whole(tmp_path):
    refused, broken = [], []

    def fill(folder):
        folder.mkdir()
        for n in range(20):
            files.write_bytes(folder / str(n), b"x")

    def write():
        for n in range(10):
            try:
                files.write_folder(tmp_path / f"f{n}", fill)
            except Open4MError as error:
                known = any(words in str(error) for words in ("another process is writing it", "Directory not empty"))
                (refused if known else broken).append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not broken
    assert len(refused) == 20
    assert {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir()} == {f"f{n}": 20 for n in range(10)}


def test_a_lock_that_was_left_is_removed_and_one_that_is_held_stays(tmp_path):
    folder, lock = tmp_path / "done", tmp_path / ".done.lock"
    files.unlock(folder)
    lock.touch()
    files.unlock(folder)
    assert not lock.exists()

    def write(own):
        files.unlock(folder)
        assert lock.exists()
        own.mkdir()

    files.write_folder(folder, write)
    assert not lock.exists()


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    for name in (".metrics.jsonl.0a1b2c3d.tmp", ".a.tmp", "b.0a1b2c3d.tmp", ".c.0a1b2c3d.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".d.0a1b2c3d.tmp").mkdir()
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".a.tmp",
        ".c.0a1b2c3d.txt",
        ".d.0a1b2c3d.tmp",
        "b.0a1b2c3d.tmp",
    ]


def test_a_cache_is_where_the_user_says_at_home_or_among_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("OPEN4M_X", str(tmp_path))
    assert files.cache("x", "OPEN4M_X") == tmp_path
    monkeypatch.delenv("OPEN4M_X")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache("x", "OPEN4M_X") == tmp_path / ".cache" / "open4m" / "x"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(files.Path, "home", homeless)
    assert files.cache("x", "OPEN4M_X").parts[-2:] == ("open4m", "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (files.sha256, files.read_bytes, files.check_regular, mapped, weights.read_tensors, weights.shapes):
        with pytest.raises(Open4MError, match="pipe: cannot be read, it is not a regular file"):
            read(tmp_path / "pipe")
    files.check_regular(tmp_path / "none")


def test_a_filled_folder_is_one_with_something_in_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    found = [files.is_filled(path) for path in (tmp_path, tmp_path / "empty", tmp_path / "file", tmp_path / "none")]
    assert found == [True, False, False, False]
