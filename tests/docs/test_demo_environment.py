"""Makefile: the environment of ``make demo`` is the one in which the first tutorial trains and evaluates."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_environment_has_what_a_whole_line_needs():
    recipe = re.search(r"^\.venv/demo\.done:.*\n(?:\t.*\n)+", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    extras = set(re.search(r"'\.\[(.+?)\]'", recipe)[1].split(","))
    assert {"labellers", "evaluate", "serve"} <= extras  # CLIP features, AP of boxes, the studio
    said = re.search(r"`make demo` installs (.+?);", (ROOT / "README.md").read_text())[1]
    assert set(re.findall(r"`(\w+)`", said)) == extras
