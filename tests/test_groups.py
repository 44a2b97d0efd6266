"""Tests of a group run in one process: what they share takes minutes to make."""

import subprocess
import sys

FILES = """
import os

import pytest

pytestmark = pytest.mark.xdist_group("shared")


@pytest.mark.parametrize("number", range(20))
def test_where(number):
    open(f"{os.getpid()}.ran", "a").write("x")
"""


def test_groups_are_honored(tmp_path):
    for name in ("test_one.py", "test_two.py"):
        (tmp_path / name).write_text(FILES)
    words = ["-q", "-p", "no:cacheprovider", "--numprocesses", "2", "--dist", "loadgroup", "-c", "/dev/null"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words, "."], cwd=tmp_path, capture_output=True, text=True)
    assert "40 passed" in done.stdout, done.stdout + done.stderr
    assert [path.stat().st_size for path in tmp_path.glob("*.ran")] == [40]
