"""Files are whole or not there: on a full disk, and with several writers of the same one."""

import errno
import os
import threading

import pytest
import safetensors.torch
import torch

from open4m import files, weights
from open4m.cli import main
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
