"""Make the pictures of ``docs/generation.md`` again, by the page's own commands: ``python -m examples.gallery``.

Every command that the page marks ``<!-- test: run -->`` is run in a temporary folder. Where the page shows
``images/generation/NAME.png`` or ``NAME.gif``, that is ``grid.png`` or ``passes.gif`` of the one with
``--out out/NAME``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from open4m.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURES = ROOT / "docs/generation.md", ROOT / "docs/images/generation"


def commands(page: str) -> list[list[str]]:
    """The arguments of the marked commands, in order; a line that ends with a backslash goes on."""
    blocks = re.findall(r"<!-- test: run -->\n```bash\n(.*?)```", page, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def make(out: Path) -> None:
    """Run the page's commands and write their pictures, in 256 colors. Raises if one fails."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for part in ("docs", "examples"):
            os.symlink(ROOT / part, part)
        page = PAGE.read_text()
        for arguments in commands(page):
            if code := main(arguments):
                raise SystemExit(f"exit code {code}: open4m {shlex.join(arguments)}")
            folder = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else Path("nowhere")
            if f"images/generation/{folder.name}.png" in page:
                picture = Image.open(folder / "grid.png").quantize(256, Image.Quantize.FASTOCTREE)  # keeps rare colors
                picture.save(out / f"{folder.name}.png", optimize=True)
            if f"images/generation/{folder.name}.gif" in page:
                shutil.copy(folder / "passes.gif", out / f"{folder.name}.gif")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the pictures of docs/generation.md again.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="default: docs/images/generation")
    make(parser.parse_args().out.resolve())
