"""The laws of the tree that a reader would have to check by eye: sizes, names, and that every file is tested."""

import ast
from pathlib import Path

import pytest

import open4m

ROOT = Path(__file__).parents[1]
SOURCE = Path(open4m.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES = 450

FORMATTED_BY_HAND = {
    "src/open4m/datasets/scenes/world.py": "a table of numbers",
    "src/open4m/datasets/scenes/render.py": "a table of numbers",
    "tests/datasets/scenes/test_render.py": "a table of numbers",
}
NAMES_MODALITIES = {
    "modalities/": "a modality's own file",
    "evaluate/suites/": "a suite measures what one data set holds",
    "configs/": "a configuration chooses modalities",
    "datasets/captions.py": "the field of COCO's annotations",
    "datasets/labelled/": "what an example holds is called like the modality that it is",
    "datasets/layouts/folder.py": "what others call the file that describes their data",
    "hub/ml4m/": "our names for those in the authors' checkpoints",
    "labellers/": "a labeller says what it reads and what it makes",
    "transfer/vision_transformers/": "types of networks in transformers",
    "train/tasks/clip.py": "the task is called after the network that it trains",
    "transfer/heads/": "a head is called after what it predicts",
    "reproduce.py": "a folder, called after the network that it holds",
}
"""Where a modality's name may stand in a comparison, a default or a constant, and why."""

TESTED_THROUGH = {
    "modalities/": "tests/modalities/test_conformance.py",
    "configs/": "tests/test_config.py",
    "cli/": "tests/cli",
    "tokenizers/quantizers/": "tests/tokenizers/quantizers/test_quantizers.py",
    "datasets/captions.py": "tests/cli/test_tokenizer_fit_text.py",
    "evaluate/imported.py": "tests/cli/test_import.py",
    "generate/index.py": "tests/generate/test_folder.py",
    "generate/folder.py": "tests/cli/test_generate.py",
    "generate/request_base.py": "tests/generate/test_request.py",
    "generate/results.py": "tests/generate/test_pipeline.py",
    "labellers/base.py": "tests/labellers/test_clip.py",
    "labellers/networks.py": "tests/labellers/test_depth.py",
    "masking/spans.py": "tests/masking/test_batch.py",
    "nn/config.py": "tests/nn/test_blocks.py",
    "reproduce.py": "tests/integration/test_reproduce.py",
    "stages.py": "tests/integration/test_reproduce.py",
    "store/manifest.py": "tests/store/test_shards.py",
    "store/columns.py": "tests/store/test_tokens.py",
    "studio/demo.py": "tests/integration/test_reproduce.py",
    "train/log.py": "tests/train/test_loop.py",
    "train/task.py": "tests/train/test_loop.py",
}
"""Tests of modules that they need not import: commands, files that are discovered, and parts of what is tested."""


def path_of(file):
    return file.relative_to(SOURCE).as_posix()


def modality_names():
    """Of the files that define one."""
    files = (SOURCE / "modalities").glob("*.py")
    return {file.stem for file in files if "\nMODALITY = " in file.read_text()}


def names_in(source, names):
    """(line, name) of those of ``names`` in comparisons, in defaults, and in constants of modules and classes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        places = []
        if isinstance(node, ast.Compare):
            places = [node]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            places = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        elif isinstance(node, (ast.Module, ast.ClassDef)):
            places = [s.value for s in node.body if isinstance(s, (ast.Assign, ast.AnnAssign)) and s.value]
        for place in places:
            for inner in ast.walk(place):
                if isinstance(inner, ast.Constant) and inner.value in names:
                    found.add((inner.lineno, inner.value))
    return sorted(found)


def imported(source):
    """Modules of open4m that a file imports, names imported from a module included: they may be modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_reader_of_names_sees_comparisons_defaults_and_constants():
    source = """
A = {"depth": 1}
class B:
    b: str = "rgb"
    def f(self, c, d="caption", *, e=("clip",)):
        local = "depth"
        return c == "boxes" or c in ("normals", "else")
"""
    names = {"depth", "rgb", "caption", "clip", "boxes", "normals"}
    assert names_in(source, names) == [
        (2, "depth"),
        (4, "rgb"),
        (5, "caption"),
        (5, "clip"),
        (7, "boxes"),
        (7, "normals"),
    ]
    assert {"rgb", "depth", "caption"} <= modality_names()
    assert "families" not in modality_names()


@pytest.mark.parametrize("file", FILES, ids=path_of)
def test_a_modality_is_named_only_where_there_is_a_reason(file):
    """Law 2: dispatch on family, never on a modality's name, constants and defaults included."""
    if not path_of(file).startswith(tuple(NAMES_MODALITIES)):
        assert names_in(file.read_text(), modality_names()) == []


@pytest.mark.parametrize("place", NAMES_MODALITIES)
def test_every_reason_is_needed(place):
    sources = [file.read_text() for file in FILES if path_of(file).startswith(place)]
    assert any(names_in(source, modality_names()) for source in sources)


@pytest.mark.parametrize("file", FILES, ids=path_of)
def test_a_file_is_no_longer_than_a_reader_s_patience(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


def test_code_is_formatted_by_hand_only_where_a_table_is_kept_readable():
    marker = "# fmt: " + "skip"
    found = {file.relative_to(ROOT).as_posix() for file in [*FILES, *TESTS] if marker in file.read_text()}
    assert found <= set(FORMATTED_BY_HAND)


IMPORTED = {module for test in TESTS for module in imported(test.read_text())}


@pytest.mark.parametrize("file", [f for f in FILES if f.name not in ("__init__.py", "__main__.py")], ids=path_of)
def test_every_module_is_tested(file):
    inner = file.relative_to(SOURCE)
    mirror = ROOT / "tests" / inner.with_name(f"test_{file.name}")
    module = f"open4m.{inner.with_suffix('').as_posix().replace('/', '.')}"
    through = [test for place, test in TESTED_THROUGH.items() if path_of(file).startswith(place)]
    assert mirror.exists() or module in IMPORTED or any((ROOT / test).exists() for test in through)


def test_files_of_tests_have_the_place_and_the_name_of_what_they_test():
    """Of the rooms of src; tests of the whole program have folders of their own."""
    own = {"docs", "integration", "parity", "faults"}
    rooms = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms - own <= {path.name for path in SOURCE.iterdir() if path.is_dir()}


@pytest.mark.parametrize("file", [f for f in TESTS if not f.name.startswith("test_")], ids=lambda f: f.stem)
def test_helper_modules_say_what_they_are(file):
    assert ast.get_docstring(ast.parse(file.read_text())), f"{file}: the first line says what it holds"


# ---- every test asserts


def asserts(function, asserting=()):
    """Whether a function has an assertion, expects an error, or calls one of the ``asserting`` functions."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("raises", "warns", "fail") or name.startswith("assert_") or name in asserting:
                return True
    return False


def functions(trees):
    return [
        node for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def idle_tests(sources):
    """Names of tests that assert nothing, neither by themselves nor by a helper of the same files."""
    found = functions(map(ast.parse, sources))
    helpers = [f for f in found if not f.name.startswith("test")]
    asserting: set[str] = set()
    while more := {f.name for f in helpers if asserts(f, asserting)} - asserting:
        asserting |= more
    return [f.name for f in found if f.name.startswith("test") and not asserts(f, asserting)]


def vacuous(source):
    """Lines of assertions that hold whatever the code does: ``... or True``."""
    return [
        node.lineno
        for statement in ast.walk(ast.parse(source))
        if isinstance(statement, ast.Assert)
        for node in ast.walk(statement)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or)
        if any(isinstance(value, ast.Constant) and value.value for value in node.values)
    ]


def test_the_reader_of_assertions_follows_helpers():
    source = """
def check(x):
    assert x
def twice(x):
    check(x)
def test_a():
    twice(1)
def test_b():
    run()
def test_c():
    with pytest.raises(ValueError): run()
def test_d():
    assert all(x or True for x in ())
"""
    assert idle_tests([source]) == ["test_b"]
    assert vacuous(source) == [13]


def test_every_test_asserts_something():
    sources = [test.read_text() for test in TESTS]
    assert idle_tests(sources) == []
    assert [test for test, source in zip(TESTS, sources, strict=True) if vacuous(source)] == []
