"""docs/generation.md: its commands work, its pictures are those of its commands, and its costs are what they are."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from open4m import FourM
from open4m.configs import fourm
from open4m.generate.cost import cost
from open4m.generate.plan import Step
from open4m.model.config import SIZES, FourMConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/generation.md").read_text()
PICTURES = re.findall(r"!\[[^]]+\]\(images/generation/(.+?)\)", PAGE)
CAPTION = 20  # tokens
SCHEMES = [("roar", 16), ("roar", 49), ("halton", 25), ("maskgit", 8), ("maskgit", 25), ("left_to_right", CAPTION)]


def test_every_picture_is_there_and_small():
    files = ROOT / "docs/images/generation"
    assert {path.name for path in files.iterdir()} == set(PICTURES)
    assert all((files / name).stat().st_size < 150_000 for name in PICTURES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_make_its_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.gallery", "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    assert "out/generate/result.json: the same again" in done.stdout


def table():
    shipped = FourM.from_pretrained("scenes").config
    base = FourMConfig.of(SIZES["B"], fourm.specs_4m7())
    lines = ["| scheme | scenes | guided | 4M-B, 224² | guided |", "|---|--:|--:|--:|--:|"]
    for scheme, steps in SCHEMES:
        sequence = scheme == "left_to_right"
        figures = []
        for config in (shipped, base):
            given = {"rgb_pixels": config.spec("rgb_pixels").length} if sequence else {"caption": CAPTION}
            step = Step(target="caption" if sequence else "rgb", scheme=scheme, steps=steps)
            plans = step, replace(step, guidance=3.0)
            figures += [cost(config, [plan], given).flops / 1e9 for plan in plans]
        shown = " | ".join(f"{figure:.{0 if figure > 100 else 1}f}" for figure in figures)
        lines.append(f"| {scheme}, {steps} {'tokens' if sequence else 'passes'} | {shown} |")
    return "\n".join(lines)


def test_the_costs_are_those_of_the_passes():
    shown = re.search(r"<!-- costs -->\n(.*?)\n<!-- /costs -->", PAGE, re.DOTALL)[1]
    assert shown == table()
