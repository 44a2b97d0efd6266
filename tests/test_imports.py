"""Imports point one way (docs/architecture.md, law 1), and light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import open4m

ROOT = Path(open4m.__file__).parent

# From top to bottom; modules of one layer may import each other, nothing imports what stands below it.
# docs/architecture.md is the map of these rooms.
LAYERS = [
    [
        "types",
        "files",
        "programs",
        "checksums",
        "ranges",
        "config",
        "rng",
        "ranks",
        "weights",
        "devices",
        "progress",
        "fonts",
        "pictures",
    ],
    ["nn"],
    ["modalities"],
    ["tokenizers", "labellers"],
    ["store"],
    ["datasets"],
    ["model"],
    ["masking"],
    ["data"],
    ["hub"],
    ["fourm"],
    ["generate"],
    ["train"],
    ["transfer", "evaluate"],
    ["stages"],
    ["reproduce", "super_resolution"],
    ["configs"],
    ["add_modality"],
    ["studio", "serve"],
    ["cli", "__main__"],
]
FILES = sorted(
    p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"
)  # which only loads FourM when it is asked for


def layer(module):
    """The place of ``open4m.<module>`` in the order: that of its longest listed prefix."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        for place, names in enumerate(LAYERS):
            if ".".join(parts[:end]) in names:
                return place
    raise AssertionError(f"open4m.{module} is in no layer: add it to LAYERS, and to docs/architecture.md")


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, package):
    """(line, module) of every import of open4m, wherever it stands, but for those that only type checkers follow."""
    tree = ast.parse(source)
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", None) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "open4m":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["open4m", *package.split(".")][: -node.level or None]
                base = ".".join([*above, base] if base else above)
            if base == "open4m" or base.startswith("open4m."):
                for alias in node.names:
                    inner = ROOT.joinpath(*base.split(".")[1:], alias.name)
                    is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                    yield node.lineno, f"{base}.{alias.name}" if is_module else base


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = name_of(path)
    for line, module in imports(path.read_text(), own):
        inner = module.removeprefix("open4m").removeprefix(".")
        if inner:  # names of the package itself, such as its version, are everyone's
            assert layer(inner) <= layer(own), f"{path}:{line}: open4m.{own} imports {module}, which is below it"


def test_the_reader_of_imports_sees_all_kinds():
    source = """
import open4m.model.fourm
from open4m import modalities, __version__
from open4m.model import config
from open4m.types import Boxes
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from open4m.train import loop
def f():
    from open4m.generate.engine import Engine
    from . import text
"""
    found = [module for _, module in imports(source, "tokenizers.network")]
    assert sorted(found) == sorted(
        [
            "open4m.model.fourm",
            "open4m.modalities",
            "open4m",
            "open4m.model.config",
            "open4m.types",
            "open4m.generate.engine",
            "open4m.tokenizers.text",
        ]
    )
    assert layer("nn.blocks") < layer("model.config") < layer("masking.batch") < layer("generate.engine")


def test_help_loads_neither_torch_nor_numpy():
    code = (
        "import sys; from open4m.cli.main import main; main([])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "open4m COMMAND --help explains a command" in done.stdout


@pytest.mark.parametrize("command", ["generate", "probe", "train"])
def test_help_of_a_command_loads_no_torch(command):
    code = (
        f"import sys; from open4m.cli.main import main\ntry: main(['{command}', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"usage: open4m {command}" in done.stdout or "usage: -c" in done.stdout


def test_what_needs_no_torch_needs_no_fcntl():
    """Windows has no ``fcntl``: with neither it nor torch, every module is imported or asks for torch."""
    modules = [f"open4m.{name_of(path)}" for path in FILES if path.name != "__main__.py"]
    code = f"""
import importlib, sys
sys.modules["fcntl"] = sys.modules["torch"] = None
done = []
for name in {modules}:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert error.name.partition(".")[0] == "torch", f"{{name}}: {{error}}"
    else:
        done.append(name)
missing = {{"open4m.store.manifest", "open4m.store.tokens", "open4m.data.render", "open4m.cli.main"}} - {{*done}}
assert not missing, missing
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_light_modules_load_no_torch():
    code = (
        "import sys, open4m, open4m.types, open4m.config, open4m.modalities, open4m.hub.locate, open4m.cli.main\n"
        "assert open4m.__version__\n"
        "for name in open4m.modalities.names(): open4m.modalities.get(name)\n"
        "heavy = {'torch', 'transformers', 'scipy', 'tokenizers', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
