"""The table of docs/reliability.md is that of the tests, and no fault is without one."""

import re
from pathlib import Path

import pytest
from docs_programs import program

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def builder():
    return program("build_reliability")


def test_the_last_column_is_made_from_the_tests(builder):
    page = builder.PAGE.read_text()
    assert builder.filled(page) == page, "run python docs/build_reliability.py"


def test_each_fault_has_an_owner_among_the_tests_of_faults(builder):
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", builder.PAGE.read_text(), re.MULTILINE)}
    assert rows == set(range(1, 31))
    owners = builder.owners()
    assert set(owners) == rows
    for number in rows:
        assert any(file.startswith("tests/faults/") for file, _ in owners[number]), number


def test_names_say_which_faults_they_are_of(builder, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "def test_fault_3_and_12_in_all(): pass\nclass A:\n    def test_fault_7_x(self): pass\ndef test_b(): pass\n"
    )
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    file = "tests/test_a.py"
    assert builder.owners() == {
        3: [(file, "test_fault_3_and_12_in_all")],
        12: [(file, "test_fault_3_and_12_in_all")],
        7: [(file, "test_fault_7_x")],
    }
