"""docs/gallery.md: every picture of the pages, none too large, with the command that makes it."""

import re
from pathlib import Path

import pytest
from docs_programs import program
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build():
    return program("build_gallery")


def test_the_page_is_that_of_the_pictures_of_the_pages(build):
    assert build.PAGE.read_text() == build.gallery(), "run python docs/build_gallery.py"


def test_no_page_with_pictures_is_missing(build):
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if path != build.PAGE]
    assert {page for page in [*pages, "README.md"] if build.pictures(page)} == set(build.PAGES)


def test_no_picture_is_larger_than_300_kb_and_no_copy_is_left_over(build):
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", build.PAGE.read_text())
    assert len(shown) > 20
    assert [name for name in shown if (ROOT / "docs" / name).stat().st_size > 300_000] == []
    copies = {f"images/gallery/{path.name}" for path in build.COPIES.iterdir()}
    assert copies == {name for name in shown if name.startswith("images/gallery/")}


def test_a_copy_shows_the_picture(build):
    for path in build.COPIES.iterdir():
        (file,) = {
            picture.file
            for page in build.PAGES
            for picture in build.pictures(page)
            if Path(picture.file).stem == path.stem
        }
        small, large = (
            Image.open(path).convert("RGB"),
            Image.open(ROOT / file).convert("RGB").resize(Image.open(path).size),
        )
        differences = [abs(a - b) for a, b in zip(small.tobytes(), large.tobytes(), strict=True)]
        assert sum(differences) / len(differences) < 4  # of 255; measured: 1.5


def test_pictures_have_the_command_that_writes_them_and_the_heading_above(build):
    found = {Path(picture.file).stem: picture for picture in build.pictures("docs/generation.md")}
    assert "open4m inpaint" in found["inpaint"].command
    assert found["inpaint"].command.endswith("--out out/inpaint")
    assert build.slug(found["inpaint"].heading) == "inpaint-outpaint-a-part-of-an-image-or-map"
    assert found["upscale"].command == ""
