"""Benchmarks are run by hand and take minutes; what they use of open4m is there."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest
from benchmarks.transfers import table

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks").glob("*.py"))


def modules_in(tree):
    """The modules of open4m that a file imports, by the names it gives them."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "open4m":
            for alias in node.names:
                try:
                    found[alias.asname or alias.name] = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"
    return found


def missing(source):
    """``module.name`` of what a source uses of the modules that it imports, and they do not have."""
    tree = ast.parse(source)
    modules = modules_in(tree)
    uses = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    return {
        f"{use.value.id}.{use.attr}"
        for use in uses
        if use.value.id in modules and not hasattr(modules[use.value.id], use.attr)
    }


def test_what_is_missing_is_found():
    source = "from open4m import ranks, config as c\nranks.count()\nranks.nothing()\nc.override\nc.gone\n"
    assert missing(source) == {"ranks.nothing", "c.gone"}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_what_a_benchmark_uses_is_there(file):
    assert missing(file.read_text()) == set()


def test_an_interval_of_the_table_of_transfers_holds_the_true_mean_19_times_of_20():
    """Of models with three, three and two seeds, each result drawn around the truth."""
    random, truth, seeds = np.random.default_rng(0), {"4m": 0.7, "rgb": 0.6, "scratch": 0.4}, (3, 3, 2)
    inside = []
    for _ in range(1000):
        results = [
            {"task": "count", "figure": "top1", "examples": 50, "model": model, "value": random.normal(mean, 0.03)}
            for (model, mean), count in zip(truth.items(), seeds, strict=True)
            for _ in range(count)
        ]
        for cell, mean in zip(table(results).splitlines()[2].split(" | ")[4:], truth.values(), strict=True):
            middle, half = map(float, cell.strip("| ").split(" ± "))
            inside.append(abs(middle - mean) <= half)
    assert 0.94 < np.mean(inside) < 0.96


def test_a_row_of_one_seed_has_no_interval_and_a_model_without_results_a_dash():
    results = [
        {"task": "count", "figure": "top1", "examples": 50, "model": "4m", "value": 0.5},
        {"task": "floor", "figure": "top1", "examples": 500, "model": "rgb", "value": 0.25},
    ]
    assert table(results).splitlines()[2:] == [
        "| count | top1 | 50 | 1 | 0.500 | – |",
        "| floor | top1 | 500 | 1 | – | 0.250 |",
    ]
