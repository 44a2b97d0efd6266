"""Where data of others lies, on this machine and elsewhere: the layouts' tests read each by URL too."""

import os
import pickle
from contextlib import nullcontext

import fsspec
import pytest
from layout_trees import save

from open4m.datasets.source import Source
from open4m.types import Open4MError


@pytest.fixture(params=["local", "file", "memory"])
def source(request, tmp_path):
    """The same tree in three places."""
    for path in ("a.txt", "deep/er/b.txt", ".hidden", "deep/.git/c", "Thumbs.db", "ü/名.txt"):
        save(tmp_path / path, path.encode())
    if request.param != "memory":
        yield Source(str(tmp_path) if request.param == "local" else f"file://{tmp_path}")
        return
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path), "/source-tree", recursive=True)
    yield Source("memory://source-tree")
    system.rm("/source-tree", recursive=True)


def test_files_are_found_read_and_measured(source):
    found = {entry.path: entry.size for entry in source.walk()}
    assert found == {path: len(path.encode()) for path in ("a.txt", "deep/er/b.txt", "ü/名.txt")}
    assert all(source.read(path) == path.encode() for path in found)
    assert source.exists("deep/er/b.txt")
    assert not source.exists("deep/er")
    assert source.is_folder("deep/er")
    assert not source.exists("../a.txt")
    assert len(source.some(2)) == 2
    assert pickle.loads(pickle.dumps(source)).read("a.txt") == b"a.txt"


def test_a_file_that_goes_while_its_folder_is_listed_is_passed_over(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).write_bytes(b"1")

    def vanishing(folder, scandir=os.scandir):
        found = list(scandir(folder))
        (tmp_path / "b").unlink()
        return nullcontext(found)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert [entry.path for entry in Source(str(tmp_path)).entries()] == ["a"]


def test_what_cannot_be_read_is_an_error_that_names_it(source):
    with pytest.raises(Open4MError, match=r"nothing\.txt: no such file"):
        source.read("nothing.txt")
    with pytest.raises(Open4MError, match=r"a\.txt: larger than 3 bytes"):
        source.read("a.txt", limit=3)
    for path in ("../a.txt", "/etc/passwd", "deep/../../x", "c:/x"):
        with pytest.raises(Open4MError, match="leaves this folder"):
            source.read(path)


def test_a_single_file_is_its_own_entry(tmp_path):
    path = save(tmp_path / "x.tar", b"123")
    for url in (str(path), f"file://{path}"):
        source = Source(url)
        assert [tuple(entry) for entry in source.walk()] == [("x.tar", False, 3)]
        assert source.read("x.tar") == b"123"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("/no/such/place", "no such file or folder"),
        ("nosuchprotocol://x", "cannot be opened"),
        ("memory://nothing-here", "no such file or folder"),
        ("\0", "expected a folder"),
    ],
)
def test_a_source_that_is_not_there_is_an_error(url, message):
    with pytest.raises(Open4MError, match=message):
        Source(url)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Open4MError, match="no regular file"):
        Source(str(tmp_path)).read("pipe")
