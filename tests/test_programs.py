"""open4m.programs: files of users."""

import pickle
import sys

import pytest

from open4m import programs
from open4m.types import Open4MError

NAME = "open4m_user_of_this_test"


@pytest.fixture(autouse=True)
def forgotten():
    yield
    sys.modules.pop(NAME, None)


def test_what_a_file_defines_is_found_by_its_name(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    size: 'int' = 3\n")
    module = programs.run(path, NAME)
    assert pickle.loads(pickle.dumps(module.Mine(4))) == module.Mine(4)


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError"), ("import sys; sys.exit(3)", "SystemExit: 3")],
)
def test_a_file_that_cannot_be_run_is_not_known_and_neither_is_what_it_was_before(tmp_path, text, said):
    path = tmp_path / "mine.py"
    with pytest.raises(Open4MError, match=r"mine\.py: no such file"):
        programs.run(path, NAME)
    path.write_text("VALUE = 1")
    assert programs.run(path, NAME).VALUE == 1
    path.write_text(text)
    with pytest.raises(Open4MError, match=rf"mine\.py: cannot be run \({said}"):
        programs.run(path, NAME)
    assert NAME not in sys.modules
