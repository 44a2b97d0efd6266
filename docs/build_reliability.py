"""Fill the last column of the table of docs/reliability.md in from the tests: ``python docs/build_reliability.py``.

A test of a fault is named after its number: ``test_fault_8_in_token_shards``. All else is written by hand.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(r"^(\| (\d+) \|[^|]*\|[^|]*\| ).*\|$", re.MULTILINE)
NUMBERS = re.compile(r"test_fault_(\d+)(?:_and_(\d+))?_")


def owners() -> dict[int, list[tuple[str, str]]]:
    """The tests of each fault: (file, name), the file relative to the repository."""
    found: dict[int, list[tuple[str, str]]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (numbers := NUMBERS.match(node.name)):
                for number in filter(None, numbers.groups()):
                    found.setdefault(int(number), []).append((path.relative_to(ROOT).as_posix(), node.name))
    return found


def filled(page: str) -> str:
    """The page with the tests of each row of the table."""
    tests = owners()

    def links(row: re.Match) -> str:
        found = tests.get(int(row[2]), [])
        return row[1] + "<br>".join(f"[{name.removeprefix('test_')}](../{file})" for file, name in found) + " |"

    return ROW.sub(links, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
