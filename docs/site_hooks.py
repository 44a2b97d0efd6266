"""What MkDocs calls while it builds the site: pages that are not in ``docs/``, and links that work on both sides.

The pages of ``docs/`` are read in the repository too, so their links are those of files: ``../src/open4m/rng.py``,
``../README.md``. On the site the README is the first page, CHANGELOG.md and the notebooks have pages, and any other
file outside of ``docs/`` is linked where ``extra.source`` of mkdocs.yml says the repository is. If it says nothing, the
site carries a page of each linked file, so that no link leads nowhere.
"""

from __future__ import annotations

import importlib.util
import os
import posixpath
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    import griffe
    from mkdocs.structure.files import File
except ImportError:  # tests of links need neither
    griffe, File = None, None

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that are files outside of docs/."""
HISTORY = ("log.md", "changelog.md")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".md": "markdown", ".cff": "yaml"}
LINK = re.compile(r"(```.*?\n```|`[^`\n]+`)|(\]\()([^)\s]+)(\))", re.DOTALL)
COMMENT = re.compile(r"(```.*?\n```)|^<!--.*?-->[ ]*$", re.DOTALL | re.MULTILINE)
API = re.compile(r"<!-- api: ([\w.]+) -->\n#### `([\w.]+)`\n.*?<!-- /api -->", re.DOTALL)


# Links


def place(link: str, file: str) -> str | None:
    """The path in the repository that a link of a file names, or None if it names an address or a part of the page."""
    if re.match(r"[a-z][a-z0-9+.-]*:|#", link):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), link.partition("#")[0]))


def site_page(path: str) -> str | None:
    """Where a file of the repository is on the site, as the path of its source, or None if it is not there."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/") and not path.endswith(".py"):
        return re.sub(r"\.ipynb$", ".md", path.removeprefix("docs/"))
    return None


def links(markdown: str, file: str) -> list[str]:
    """Paths in the repository of the files that are linked but are no pages of the site."""
    found = (place(match[3], file) for match in LINK.finditer(markdown) if match[3])
    return [path for path in dict.fromkeys(found) if path is not None and site_page(path) is None]


def translated(markdown: str, file: str, page: str, source: str = "") -> str:
    """The text of ``file``, a path in the repository, with the links of the site's page ``page``.

    ``source``: what links to files that are not on the site begin with; if empty, these are pages of the site.
    """

    def link(match: re.Match) -> str:
        path = match[3] and place(match[3], file)
        if not path:
            return match[0]
        target = site_page(path)
        _, mark, part = match[3].partition("#")
        if target is None and source:
            return f"{match[2]}{source.rstrip('/')}/{path}{mark}{part}{match[4]}"
        to = posixpath.relpath(target or carried(path), posixpath.dirname(page) or ".")
        return f"{match[2]}{to}{mark}{part}{match[4]}"

    return LINK.sub(link, markdown)


def carried(path: str) -> str:
    """The page that the site carries of a file or folder of the repository."""
    return f"source/{path}" if path.endswith(".md") else f"source/{path}.md"


def source_page(path: str) -> str:
    """A file as Markdown, a folder as the list of its files. Raises FileNotFoundError for what is not there."""
    thing = ROOT / path
    head = f"---\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    if thing.is_dir():
        files = sorted(file for file in thing.rglob("*.py") if file.is_file())
        return head + "\n".join(f"- [`{file.relative_to(thing)}`]({file.relative_to(thing)})" for file in files) + "\n"
    text = thing.read_text()
    if thing.suffix == ".md":
        return f"---\nsearch:\n  exclude: true\n---\n\n{text}"
    return f"{head}````{LANGUAGES.get(thing.suffix, 'text')}\n{text}\n````\n"


# Pages


def readable(markdown: str) -> str:
    """Without the comments that tests and builders read."""
    return COMMENT.sub(lambda match: match[1] or "", markdown)


def references(markdown: str) -> str:
    """Of docs/api.md: each part that is made of a docstring becomes one that mkdocstrings makes."""
    return API.sub(
        lambda found: f'::: {found[1]}\n    options:\n      heading: "{found[2]}"\n      toc_label: "{found[2]}"\n',
        markdown,
    )


@cache
def executed(notebook: Path, content: bytes) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook with its results, and its pictures; a notebook runs again when it has changed.

    Raises CalledProcessError, after the traceback, if a cell fails.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").symlink_to(ROOT / "docs")
        (folder / "page").mkdir()
        program = [sys.executable, str(ROOT / "docs/build_notebook.py"), str(notebook), "page"]
        where = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
        threads = os.environ.get("OMP_NUM_THREADS", "1")  # the shipped model gains nothing from more
        environment = {**os.environ, "PYTHONPATH": where, "OMP_NUM_THREADS": threads}
        subprocess.run(program, cwd=folder, check=True, env=environment)
        made = {path.name: path.read_bytes() for path in (folder / "page").iterdir()}
    return made.pop(f"{notebook.stem}.md").decode(), made


def on_files(files: Any, config: Any) -> Any:
    """Add the README, the changelog, the notebooks with their results, and pages of linked files."""

    def add(page: str, content: str | bytes) -> None:
        files.append(File.generated(config, page, content=content))

    texts = {file: (ROOT / file).read_text() for file in PAGES}
    texts |= {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for notebook in sorted((ROOT / "docs").rglob("*.ipynb")):
        path = notebook.relative_to(ROOT / "docs").as_posix()
        texts[f"docs/{path}"], pictures = executed(notebook, notebook.read_bytes())
        add(site_page(f"docs/{path}"), texts[f"docs/{path}"])
        for name, content in pictures.items():
            add(posixpath.join(posixpath.dirname(path), name), content)
    for file, page in PAGES.items():
        add(page, texts[file])
    waiting = [path for file, text in texts.items() for path in links(text, file)]
    done: set[str] = set()
    while waiting and not config.extra["source"]:
        if (path := waiting.pop()) in done:
            continue
        done.add(path)
        text = source_page(path)
        add(carried(path), text)
        waiting += links(text, path if path.endswith(".md") else f"{path}/")
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page of the repository as one of the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        path = uri.removeprefix("source/")
        file = path if (ROOT / path).is_file() else f"{path.removesuffix('.md')}/"
    else:
        file = {page: file for file, page in PAGES.items()}.get(uri, f"docs/{uri}")
    if page.parent is None:
        page.meta.setdefault("hide", ["navigation"])  # alone in its tab: the text takes the room
    if uri in HISTORY:
        page.meta.setdefault("search", {"boost": 0.3})  # whoever searches wants what is
    if uri == "api.md":
        markdown = references(markdown)
    return translated(readable(markdown), file, uri, config.extra["source"])


# Docstrings


@cache
def _builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_api", ROOT / "docs/build_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Prose(griffe.Extension if griffe else object):
    """Docstrings as docs/build_api.py writes them: roles become names in backquotes, examples become fences."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            to_markdown: Callable[[str], str] = _builder().markdown
            obj.docstring.value = to_markdown(obj.docstring.value)
