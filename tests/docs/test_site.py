"""The documentation site: its navigation has every page, its links lead where those of the repository lead, it builds
without a warning and takes nothing from a network."""

import os
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest
from docs_programs import program

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "mkdocs.yml").read_text()
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = [*PAGES, "README.md", "CHANGELOG.md", "docs/tutorials/first_steps.ipynb"]


@pytest.fixture(scope="module")
def hooks():
    return program("site_hooks")


@pytest.fixture(scope="module")
def gallery():
    return program("build_gallery")


def test_the_navigation_names_every_page_once_and_nothing_else():
    named = re.findall(r"^ +- [^:\n]+: (\S+\.md)$", CONFIG.partition("\nnav:\n")[2], re.MULTILINE)
    notebooks = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.ipynb")]
    there = [page.removeprefix("docs/") for page in PAGES]
    there += ["index.md", "changelog.md", *(path.with_suffix(".md").as_posix() for path in notebooks)]
    assert sorted(named) == sorted(there)


@pytest.mark.parametrize("file", TEXTS)
def test_a_link_to_a_part_of_a_page_names_one_of_its_headings(file, hooks, gallery):
    for link in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", (ROOT / file).read_text()):
        path = (hooks.place(link, file) or file) if not link.startswith("#") else file
        if "://" in link or not path.endswith(".md"):
            continue
        text = gallery.FENCE.sub("", (ROOT / path).read_text())
        anchors = {gallery.slug(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h)) for h in gallery.HEADING.findall(text)}
        assert link.partition("#")[2] in anchors, link


@pytest.mark.parametrize(
    ("link", "file", "page", "expected"),
    [
        ("data.md", "docs/api.md", "api.md", "data.md"),
        ("data.md#labels", "docs/api.md", "api.md", "data.md#labels"),
        ("docs/data.md#labels", "README.md", "index.md", "data.md#labels"),
        ("docs/images/grid.png", "README.md", "index.md", "images/grid.png"),
        ("CHANGELOG.md", "README.md", "index.md", "changelog.md"),
        ("../README.md#install", "docs/data.md", "data.md", "index.md#install"),
        ("../../README.md", "docs/tutorials/a.md", "tutorials/a.md", "../index.md"),
        ("../data.md", "docs/tutorials/a.md", "tutorials/a.md", "../data.md"),
        ("tutorials/first_steps.ipynb", "docs/api.md", "api.md", "tutorials/first_steps.md"),
        ("#here", "docs/api.md", "api.md", "#here"),
        ("https://4m.epfl.ch", "README.md", "index.md", "https://4m.epfl.ch"),
        ("mailto:a@b.c", "README.md", "index.md", "mailto:a@b.c"),
    ],
)
def test_a_link_of_the_repository_becomes_one_of_the_site(link, file, page, expected, hooks):
    for source in ("", "https://host/open4m/blob/main"):
        assert hooks.translated(f"See [it]({link}).", file, page, source) == f"See [it]({expected})."


@pytest.mark.parametrize(
    ("link", "file", "path"),
    [
        ("../src/open4m/rng.py", "docs/data.md", "src/open4m/rng.py"),
        ("../../examples/edges", "docs/tutorials/a.md", "examples/edges"),
        ("constraints.txt", "README.md", "constraints.txt"),
        ("build_api.py#L3", "docs/api.md", "docs/build_api.py"),
    ],
)
def test_a_link_to_another_file_leads_to_the_repository_or_to_a_page_of_it(link, file, path, hooks):
    page, part = hooks.site_page(file), "#L3" if "#" in link else ""
    there = hooks.translated(f"[`it`]({link})", file, page, "https://host/open4m/blob/main/")
    assert there == f"[`it`](https://host/open4m/blob/main/{path}{part})"
    here = re.fullmatch(r"\[`it`\]\(([^)#]*)(#L3)?\)", hooks.translated(f"[`it`]({link})", file, page))[1]
    assert posixpath.normpath(posixpath.join(posixpath.dirname(page), here)) == f"source/{path}.md"
    assert hooks.links(f"[`it`]({link})", file) == [path]


def test_code_is_left_as_it_is(hooks):
    text = "`f[0](../a.py)`\n\n```python\nx = y[0](../a.py)\n<!-- no comment -->\n```\n"
    assert hooks.translated(text, "docs/api.md", "api.md") == text
    assert hooks.readable(text) == text
    assert hooks.links(text, "docs/api.md") == []


def test_marks_of_tests_are_not_shown(hooks):
    assert hooks.readable("a\n\n<!-- test: run -->\n```bash\nb\n```\n") == "a\n\n\n```bash\nb\n```\n"


def test_references_are_made_from_the_docstrings(hooks):
    page = (ROOT / "docs/api.md").read_text()
    made = hooks.references(page)
    names = re.findall(r"<!-- api: ([\w.]+) -->", page)
    assert re.findall(r"^::: ([\w.]+)$", made, re.MULTILINE) == names
    assert 'heading: "FourM.generate"' in made
    assert "<!-- /api -->" not in made
    assert "####" not in made


def test_linked_files_and_folders_have_pages_of_what_is_in_them(hooks):
    assert "def generator" in hooks.source_page("src/open4m/rng.py") or "def " in hooks.source_page("src/open4m/rng.py")
    folder = hooks.source_page("examples/edges")
    assert "(config.py)" in folder
    assert "(modalities/edges.py)" in folder
    with pytest.raises(FileNotFoundError):
        hooks.source_page("src/nowhere.py")


def built(tmp_path):
    for library in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(library, reason="pip install '.[docs]'")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return tmp_path / "site"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_takes_nothing_from_a_network(tmp_path):
    site = built(tmp_path)
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?https?:|<link[^>]*stylesheet[^>]*https?:")
    pages = {path.relative_to(site).as_posix(): path.read_text() for path in site.rglob("*.html")}
    assert {"index.html", "changelog.html", "gallery.html", "tutorials/first_steps.html"} <= set(pages)
    assert [name for name, text in pages.items() if loaded.search(text)] == []
    assert not re.search(r"url\(\"?https?:", "".join(path.read_text() for path in site.rglob("*.css")))
    assert 'id="open4m.FourM.generate"' in pages["api.html"]
    assert pages["tutorials/first_steps.html"].count("first_steps_") >= 3
    assert "FourM.from_pretrained" in (site / "search/search_index.json").read_text()
