"""docs/generation.md: its commands work, its pictures are those of its commands, and its costs are what they are."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from open4m import hub
from open4m.config import load
from open4m.generate.plan import Step
from open4m.model.config import SIZES, FourMConfig, ModalitySpec
from open4m.model.flops import decoder_flops, encoder_flops

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/generation.md").read_text()
PICTURES = re.findall(r"!\[[^]]+\]\(images/generation/(.+?)\)", PAGE)
CAPTION = 20  # tokens
SCHEMES = [("roar", 16), ("roar", 49), ("halton", 25), ("maskgit", 8), ("maskgit", 25), ("left_to_right", CAPTION)]


def test_every_picture_is_there_and_small():
    files = ROOT / "docs/images/generation"
    assert {path.name for path in files.iterdir()} == set(PICTURES)
    assert all((files / name).stat().st_size < 150_000 for name in PICTURES)


@pytest.mark.timeout(900)
def test_the_commands_of_the_page_make_its_pictures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.gallery", "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == set(PICTURES)
    assert "out/generate/result.json: the same again" in done.stdout


def passes(config, scheme, steps, length, shown):
    """(visible tokens, queries, tokens that a query sees of its own) of each pass."""
    step = Step(target="rgb", scheme=scheme, steps=steps)
    if scheme == "left_to_right":
        return [(shown, 1, place + 1) for place in range(steps)]
    left = [step.remaining(n, length) for n in range(steps + 1)]
    asked = [now if scheme == "maskgit" else now - then for now, then in itertools.pairwise(left)]
    return [(length - now + shown, m, m * m) for now, m in zip(left, asked, strict=False)]


def floor(config, scheme, steps, guided, image, source, vocabularies):
    """The least operations for one sample, in 10⁹: an image from a caption, or a caption from ``source`` pixels."""
    sequence = scheme == "left_to_right"
    total = 0.0
    for shown in ([0] if guided else []) + [source if sequence else CAPTION]:
        for place, (visible, queries, pairs) in enumerate(passes(config, scheme, steps, image, shown)):
            n, m, seen = (torch.tensor([float(value)]) for value in (visible, queries, pairs))
            total += float(decoder_flops(config, m, n, seen))
            if place == 0 or not sequence:  # a sequence's context is encoded once
                total += float(encoder_flops(config, n))
    queries = sum(m for _, m, _ in passes(config, scheme, steps, image, 0))
    return (total + 2 * config.dim * queries * vocabularies[sequence]) / 1e9


def table():
    shipped = load(FourMConfig, hub.SHIPPED / "scenes" / hub.CONFIG)
    base = FourMConfig.of(SIZES["B"], (ModalitySpec(key="rgb", family="grid", vocab_size=16_384, grid=(14, 14)),))
    image, pixels, caption = (shipped.spec(key) for key in ("rgb", "rgb_pixels", "caption"))
    columns = [
        (shipped, image.length, pixels.length, (image.vocab_size, caption.vocab_size)),
        (base, 196, 196, (16_384, 30_000)),
    ]
    lines = ["| scheme | scenes | guided | 4M-B, 224² | guided |", "|---|--:|--:|--:|--:|"]
    for scheme, steps in SCHEMES:
        what = f"{steps} tokens" if scheme == "left_to_right" else f"{steps} passes"
        figures = [floor(column[0], scheme, steps, guided, *column[1:]) for column in columns for guided in (0, 1)]
        shown = " | ".join(f"{figure:.{0 if figure > 100 else 1}f}" for figure in figures)
        lines.append(f"| {scheme}, {what} | {shown} |")
    return "\n".join(lines)


def test_the_costs_are_those_of_the_passes():
    shown = re.search(r"<!-- costs -->\n(.*?)\n<!-- /costs -->", PAGE, re.DOTALL)[1]
    assert shown == table()
