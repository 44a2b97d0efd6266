"""Run a notebook and write its cells and their results as a page: ``python docs/build_notebook.py NOTEBOOK FOLDER``.

The page is ``FOLDER/<name>.md``, its pictures lie beside it. Cells run one after another in this process, in the
working directory; no Jupyter is needed, so notebooks of the documentation have no magics. A result is shown as a
notebook shows it: what was printed, then the value of the last expression, a picture if it has one.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def cells(notebook: Path) -> list[tuple[str, str]]:
    """(type, text) of each cell."""
    found = json.loads(notebook.read_text())["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in found]


def value_of(code: str, names: dict[str, Any]) -> Any:
    """Run a cell with the names of those before; the value of its last expression, or None. Raises what it raises."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None


def shown(value: Any) -> str | bytes:
    """A value as text, or as the bytes of a PNG file."""
    if value is None:
        return ""
    picture = getattr(value, "_repr_png_", lambda: None)()
    return picture if picture is not None else repr(value)


def results(notebook: Path) -> Iterator[tuple[str, str, str, str | bytes]]:
    """(type, text, what was printed, what is shown) of each cell, as they run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for kind, text in cells(notebook):
        printed = io.StringIO()
        value = None
        if kind == "code":
            with contextlib.redirect_stdout(printed):
                value = value_of(text, names)
        yield kind, text, printed.getvalue(), shown(value)


def page(notebook: Path) -> tuple[str, Mapping[str, bytes]]:
    """The page of a notebook, and its pictures by name."""
    parts, pictures = [], {}
    for kind, text, printed, result in results(notebook):
        parts.append(text if kind == "markdown" else f"```python\n{text}\n```")
        if isinstance(result, bytes):
            name = f"{notebook.stem}_{len(pictures)}.png"
            pictures[name] = result
            result, end = "", f"![What the cell shows]({name})"
        else:
            end = ""
        if output := (printed + result).rstrip():
            parts.append(f"```text\n{output}\n```")
        if end:
            parts.append(end)
    return "\n\n".join(parts) + "\n", pictures


if __name__ == "__main__":
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    text, images = page(source)
    (folder / f"{source.stem}.md").write_text(text)
    for name, content in images.items():
        (folder / name).write_bytes(content)
