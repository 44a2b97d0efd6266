"""Which words of a command line are whose."""

from argparse import Namespace
from dataclasses import dataclass

from open4m.cli import overrides


def test_overrides_behind_only_are_no_stages():
    options = Namespace(only=["tokenize", "lr=1", "train"], overrides=["steps=2"])
    overrides.separate_stages(options)
    assert options.only == ["tokenize", "train"]
    assert options.overrides == ["steps=2", "lr=1"]


def test_nothing_changes_without_only():
    options = Namespace(only=None, overrides=["steps=2"])
    overrides.separate_stages(options)
    assert (options.only, options.overrides) == (None, ["steps=2"])


def test_overrides_are_divided_by_who_has_the_field():
    @dataclass
    class Settings:
        lr: float = 1.0

    assert overrides.divided(Settings(), ["train.lr=2", "lr=3", "length=5"]) == (["lr=3"], ["train.lr=2", "length=5"])
