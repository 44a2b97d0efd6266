"""Files that are read in place."""

import os

import pytest

from open4m.store.mapped import mapped
from open4m.types import Open4MError


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    return tmp_path / "file"


def test_a_file_is_read_and_outlives_its_name(path):
    file = mapped(path)
    assert file.content.to_pybytes() == b"content"
    file.check()
    path.unlink()
    file.check()
    assert file.content.to_pybytes() == b"content"


def test_a_file_that_became_shorter_is_an_error_one_that_grew_is_not(path):
    file = mapped(path)
    with path.open("ab") as more:
        more.write(b"more")
    file.check()
    os.truncate(path, 3)
    with pytest.raises(Open4MError, match="truncated to 3 bytes while it was read, expected 7"):
        file.check()


def test_a_missing_file_is_the_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path / "none")
