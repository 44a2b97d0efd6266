"""Write docs/gallery.md from the pictures that the pages show: ``python docs/build_gallery.py``.

Each picture of a page appears with its text, the page's command that makes it, and a link to where it is explained.
A picture above 300 kB gets a smaller copy in ``images/gallery``, as WebP.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/gallery.md"
COPIES = ROOT / "docs/images/gallery"
PAGES = (
    "README.md",
    "docs/tutorials/first_model.md",
    "docs/studio.md",
    "docs/generation.md",
    "docs/add_modality.md",
    "docs/data.md",
    "docs/tokenizers.md",
    "docs/diagnose.md",
    "docs/transfer.md",
)
"""Pages in the gallery's order; tests/docs/test_gallery.py says if one with pictures is missing."""
MAX_BYTES = 300_000
HEAD = """# Gallery

All pictures of these pages, with the commands that make them. Each leads to its explanation. Made by
`python docs/build_gallery.py`.
"""
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
FENCE = re.compile(r"```.*?\n```", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a page: its text, its file and its page in the repository, its heading, its command or ''."""

    text: str
    file: str
    page: str
    heading: str
    command: str


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def commands(text: str) -> list[str]:
    """The command lines of a page; those that go on after a backslash are one."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [line.strip() for block in blocks for line in re.split(r"(?<!\\)\n", block) if "open4m" in line]


def pictures(page: str) -> list[Picture]:
    """The pictures of a page, in order."""
    text = (ROOT / page).read_text()
    prose = FENCE.sub(lambda block: " " * len(block[0]), text)  # a comment in a command is no heading
    lines = commands(text)
    found = []
    for image in IMAGE.finditer(prose):
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), image[2]))
        name = Path(file).stem
        made = [line for line in lines if re.search(rf"--out out/{name}(?![\w-])", line)]
        heading = HEADING.findall(prose, 0, image.start())[-1]
        found.append(Picture(text=image[1], file=file, page=page, heading=heading, command=made[0] if made else ""))
    return found


def shown(file: str) -> str:
    """The path of a picture, or of its copy if it is too large, beside the gallery."""
    path = ROOT / file
    if path.stat().st_size > MAX_BYTES:
        return f"images/gallery/{path.stem}.webp"
    return posixpath.relpath(file, "docs")


def gallery() -> str:
    """The page."""
    parts = [HEAD]
    for page in PAGES:
        if found := pictures(page):
            title = HEADING.search((ROOT / page).read_text())[1]
            parts.append(f"## {title if page != 'README.md' else 'The shipped model'}\n")
        for picture in found:
            link = posixpath.relpath(page, "docs")
            words = re.sub(r"[`*]", "", picture.heading)
            parts.append(f"**{picture.text}** ([{words}]({link}#{slug(picture.heading)}))\n")
            if picture.command:
                parts.append(f"```bash\n{picture.command}\n```\n")
            parts.append(f"![{picture.text}]({shown(picture.file)})\n")
    return "\n".join(parts)


def copy(file: str) -> None:
    """Write the smaller copy of a picture."""
    from PIL import Image

    target = ROOT / "docs" / shown(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.open(ROOT / file).convert("RGB").save(target, quality=88, method=6)


if __name__ == "__main__":
    for page in PAGES:
        for picture in pictures(page):
            if (ROOT / picture.file).stat().st_size > MAX_BYTES:
                copy(picture.file)
    PAGE.write_text(gallery())
