"""docs/token_transfers.md: its commands are those there are, and its numbers those of the configurations."""

import re
import shlex
from pathlib import Path

import pytest

from open4m.cli.main import _parser, main
from open4m.configs.transfers_tokens import COLORED, DATA, RESIZED, TASKS, VIEWS

PAGE = (Path(__file__).parents[2] / "docs" / "token_transfers.md").read_text()
LINES = [
    shlex.split(line, comments=True)
    for block in re.findall(r"<!-- test: parse -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


def test_the_commands_are_those_there_are():
    assert len(LINES) >= 4
    for program, *words in LINES:
        assert program == "open4m"
        _, unknown = _parser(words[0]).parse_known_args(words)
        assert unknown == []


@pytest.mark.parametrize("flag", ["--list", "--dry-run"])
def test_what_only_prints_is_printed(flag, capsys):
    (words,) = [words for _, *words in LINES if flag in words]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_columns_have_the_tasks_that_the_page_says():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| ")
    ]
    said = {row[0]: row[1] for row in rows if row[0] in {task.group for task in TASKS}}
    for group, words in said.items():
        sets = [task.data for task in TASKS if task.group == group]
        counts = [sets.count(name) for name in dict.fromkeys(sets)]
        assert words == " + ".join(map(str, counts)), group
    assert len(said) == 5


def test_what_is_ours_is_what_is_configured():
    assert f"{VIEWS} stored views" in PAGE
    assert f"by up to {COLORED.color:.0%}" in PAGE
    low, high = RESIZED.resized
    assert f"factors of {low:g} to {high:g}" in PAGE
    (stage,) = DATA["taskonomy"]().tokenizers["curvature"].stages
    assert f"{stage.train.length.amount:.0f}, on crops of {stage.crop_scale[0]:.0%} to 100%" in PAGE
    assert f"{DATA['taskonomy']().tokenizers['edges_2d'].codebook_size:,} codes, ViT decoder" in PAGE
