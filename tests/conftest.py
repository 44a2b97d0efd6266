"""What all tests share. Helpers are the modules beside this file: pytest puts its folder on the path."""

import os
import tempfile

import hypothesis
import pytest

from open4m import checksums
from open4m.cli.main import main

# A test fails because of a change, not by luck: examples are the same in every run, but with
# HYPOTHESIS_PROFILE=random.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("random")
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Which shards were checked is remembered for the tests alone, not in the folder of whoever runs them.
os.environ.setdefault("OPEN4M_VERIFIED", tempfile.mkdtemp(prefix="open4m-verified-"))


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for processes that they start, for locks and for files."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture
def unchecked(monkeypatch):
    """No checksums are read: for tests that change what was written, to see what else would be noticed."""
    monkeypatch.setenv(checksums.VARIABLE, "0")


@pytest.fixture(scope="session")
def debug_run(tmp_path_factory):
    """The finished line of the debug configuration, made once per process by the command that users type.

    Tests that take it are marked ``xdist_group("line")``, so that they all run in one process. None changes it.
    """
    directory = tmp_path_factory.mktemp("line") / "debug"
    assert main(["reproduce", "debug", "--out", str(directory)]) == 0
    return directory
