"""The files of the front-end: all that is imported exists, nothing comes from elsewhere, and what is
vendored is what was published."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from docs_programs import program
from PIL import Image

from open4m import modalities, studio
from open4m.serve.app import STATIC

VENDOR = STATIC / "vendor"
OWN = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
VENDORED = json.loads((VENDOR / "VENDORED.json").read_text())
MOST_LINES = 300
IMPORT = re.compile(r"""^(?:import|export)\b(?:[^;"']*\bfrom)?\s*["']([^"']+)["'];""", re.MULTILINE)
CHANGED = {"preact-hooks.mjs": (b'from"./preact.mjs"', b'from"preact"')}
"""What was changed in a vendored file: what stands there, and what the published one has."""


def names(paths):
    return [path.relative_to(STATIC).as_posix() for path in paths]


def test_the_files_are_those_of_the_package():
    assert STATIC.parent == Path(studio.__file__).parent
    assert {"index.html", "app.js", "api.js", "state.js", "style.css"} <= set(names(OWN))


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_what_a_module_imports_exists(path):
    for name in IMPORT.findall(path.read_text()):
        assert name.startswith("."), f"{name}: browsers know no package names"
        assert (path.parent / name).is_file(), name


def test_every_module_is_imported_by_one_that_the_page_loads():
    page = (STATIC / "index.html").read_text()
    open_, found = [STATIC / name for name in re.findall(r'src="\./([^"]+)"', page)], set()
    while open_:
        path = open_.pop().resolve()
        if path not in found:
            found.add(path)
            open_ += [path.parent / name for name in IMPORT.findall(path.read_text())] if path.suffix == ".js" else []
    assert {path.resolve() for path in SCRIPTS} <= found


def test_what_the_page_and_its_styles_refer_to_exists():
    page = (STATIC / "index.html").read_text()
    referred = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(referred) >= 4
    for name in referred:
        assert name.startswith("./")
        assert (STATIC / name).is_file(), name
    for path in OWN:
        if path.suffix == ".css":
            assert "url(" not in path.read_text()
            assert "@import" not in path.read_text()


@pytest.mark.parametrize("path", OWN, ids=names(OWN))
def test_nothing_comes_from_elsewhere(path):
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert not re.search(r"https?:|//cdn|\bwss?:", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_no_data_becomes_markup_or_code(path):
    text = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|dangerouslySet", text
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=names(SCRIPTS))
def test_no_modality_is_named(path):
    """What a modality can do is asked of the model: a new one needs no line here."""
    text = re.sub(r"//.*|/\*.*?\*/", "", path.read_text())
    quoted = set(re.findall(r"""["'`](\w+)["'`]""", text)) | set(re.findall(r"(?:values|use|given)\.(\w+)", text))
    assert quoted & (set(modalities.names()) - {"boxes", "caption"}) == set()
    assert not re.search(r"""(?:values|use|given)(?:\.|\[["'])(?:boxes|caption)\b""", text)


@pytest.mark.parametrize("path", OWN, ids=names(OWN))
def test_files_are_small_and_say_what_they_are_for(path):
    lines = path.read_text().splitlines()
    assert len(lines) < MOST_LINES
    if path.suffix in (".js", ".css"):
        assert lines[0].startswith(("// ", "/* "))


def test_what_is_vendored_is_what_was_published():
    kept = {path.name for path in VENDOR.iterdir()} - {"VENDORED.json"}
    assert kept == {one["file"] for one in VENDORED} | {one["license"] for one in VENDORED}
    for one in VENDORED:
        data = (VENDOR / one["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == one["sha256"], one["file"]
        assert bool(one["changed"]) == (one["file"] in CHANGED)
        if one["changed"]:
            data = data.replace(*CHANGED[one["file"]])
        assert hashlib.sha256(data).hexdigest() == one["original_sha256"], one["file"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", one["version"])
        assert "Copyright" in (VENDOR / one["license"]).read_text() or "Apache" in (VENDOR / one["license"]).read_text()


def test_the_demo_leads_to_the_studio():
    from open4m.studio.demo import NEXT, _page

    page = _page("scenes", ("caption", "rgb"), [Image.new("RGB", (2, 2))] * 2)
    assert NEXT in page
    assert "make studio" in page


def test_the_pictures_of_the_page_exist_and_are_small():
    build_screenshots = program("build_screenshots")
    page = (STATIC.parents[3] / "docs" / "studio.md").read_text()
    shown = re.findall(r"\]\(images/([\w-]+)\.png\)", page)
    assert sorted(shown) == sorted(build_screenshots.PICTURES)
    for name in shown:
        path = build_screenshots.IMAGES / f"{name}.png"
        assert path.stat().st_size <= build_screenshots.MOST_BYTES
        assert Image.open(path).width == build_screenshots.SIZE["width"]
