"""Fill the reference of docs/api.md in from signatures and docstrings: ``python docs/build_api.py``.

What lies between ``<!-- api: open4m.FourM.generate -->`` and ``<!-- /api -->`` is written here, all else by hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "api.md"
MARKED = re.compile(r"(<!-- api: ([\w.]+) -->\n).*?(<!-- /api -->)", re.DOTALL)
WIDTH = 100


def filled(page: str) -> str:
    """The page with the reference of each marked object."""
    return MARKED.sub(lambda found: f"{found[1]}{reference(found[2])}\n{found[3]}", page)


def reference(path: str) -> str:
    """Heading, signature and docstring of a class, function, property or constant, as Markdown."""
    thing, module = resolve(path)
    name = path.removeprefix(f"{module}.").removeprefix("open4m.")
    parts = [f"#### `{name}`"]
    if signature := signature_of(thing, name.rpartition(".")[2]):
        parts.append(f"```python\n{signature}\n```")
    parts.append(f"<sub>`{module}`</sub>")
    parts.append(markdown(documentation(path, thing)))
    return "\n\n".join(parts)


def resolve(path: str) -> tuple[Any, str]:
    """The object of a dotted path, and the module that defines it."""
    words = path.split(".")
    for end in range(len(words), 0, -1):
        name = ".".join(words[:end])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        for word in words[end:]:
            found = inspect.getattr_static(found, word) if inspect.isclass(found) else getattr(found, word)
        function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        return function, getattr(getattr(function, "fget", None) or function, "__module__", name)
    raise ModuleNotFoundError(path)


def documentation(path: str, thing: Any) -> str:
    """The docstring; an object without one has no place in the reference."""
    text = inspect.getdoc(thing)
    if not text:
        raise ValueError(f"{path} has no docstring")
    return text


def signature_of(thing: Any, name: str) -> str:
    """The signature, one parameter per line if it is long; the fields of a data class; nothing of a property."""
    if isinstance(thing, property):
        return ""
    shown = [_parameter(p) for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
    kinds = [p.kind for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        shown.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    returned = inspect.signature(thing).return_annotation
    end = "" if returned is inspect.Signature.empty or inspect.isclass(thing) else f" -> {_type(returned)}"
    line = f"{name}({', '.join(shown)}){end}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + textwrap.indent(",\n".join(shown), "    ") + f",\n){end}"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}"
    if parameter.annotation is not inspect.Parameter.empty:
        text += f": {_type(parameter.annotation)}"
    if parameter.default is not inspect.Parameter.empty:
        has_factory = type(parameter.default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS"
        default = "..." if has_factory or parameter.default is dataclasses.MISSING else repr(parameter.default)
        text += f" = {default}" if parameter.annotation is not inspect.Parameter.empty else f"={default}"
    return text


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def markdown(docstring: str) -> str:
    """A docstring as Markdown: names in backquotes, tables and examples in fences."""
    blocks = [_block(block) for block in re.split(r"\n\n+", docstring)]
    return "\n\n".join(blocks)


def _block(block: str) -> str:
    if block.startswith(">>> "):
        lines = [re.sub(r"^(>>>|\.\.\.) ?", "", line) for line in block.splitlines()]
        return "```python\n" + "\n".join(lines) + "\n```"
    if re.match(r"=+ +=+", block):
        return f"```text\n{block}\n```"
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].rpartition('.')[2]}`", block)
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
