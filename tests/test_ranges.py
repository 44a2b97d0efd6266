"""Every number of every configuration has a range, and is checked when the configuration is made."""

import dataclasses
import importlib
import pkgutil
import typing

import numpy as np
import pytest
from hostile import LEAVES
from hypothesis import given, settings
from hypothesis import strategies as st

import open4m
from open4m import config as configs
from open4m.config import Duration, from_dict, override
from open4m.configs import get
from open4m.evaluate.diagnose import Options
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import FourMConfig
from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.ranges import Range, Size, check_ranges
from open4m.reproduce import LineConfig
from open4m.serve.limits import Limits
from open4m.store.tokens import TokenHeader
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.text import Settings
from open4m.train.config import TrainConfig
from open4m.train.recipes.pretrain import PretrainConfig
from open4m.train.recipes.tokenizer import TokenizerRun
from open4m.transfer.config import TransferConfig
from open4m.transfer.heads import classification, depth, detection, maps, semseg
from open4m.transfer.transferred import TransferredConfig
from open4m.types import Open4MError

HEADS = (classification, depth, detection, maps, semseg)
ROOTS = (
    *(LineConfig, PretrainConfig, TokenizerRun, FourMConfig, TokenizerConfig, TokenHeader, Settings, Options, Limits),
    *(TransferConfig, TransferredConfig, *(head.Config for head in HEADS)),
)
"""What is read from files and from the command line; all other configurations are parts of these."""

WITHOUT = {"palette"}
"""Fields of numbers with a check of their own."""


def parts(hint, found):
    """All configurations that a type is made of."""
    for argument in typing.get_args(hint):
        parts(argument, found)
    if dataclasses.is_dataclass(hint) and hint is not Duration and hint not in found:
        found.add(hint)
        for inner in typing.get_type_hints(hint).values():
            parts(inner, found)
    return found


CLASSES = sorted(set.union(*(parts(root, set()) for root in ROOTS)), key=lambda cls: cls.__name__)


def has_free_number(hint):
    """Whether a type has a number without a range."""
    if typing.get_origin(hint) is typing.Annotated:
        return not any(isinstance(about, Range) for about in hint.__metadata__)
    return hint in (int, float) or any(has_free_number(argument) for argument in typing.get_args(hint))


def test_every_configuration_is_known_to_these_tests():
    for module in pkgutil.walk_packages(open4m.__path__, "open4m."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert len(CLASSES) > 15
    assert {ViTConfig, UNetConfig, MLPConfig, TrainConfig, Strategy, MaskingConfig} <= {*CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    free = [f.name for f in dataclasses.fields(cls) if f.name not in WITHOUT and has_free_number(hints[f.name])]
    assert free == []


def numbered(config, path=()):
    """The path of every field of a configuration that holds a number with a range, wherever it is."""
    if dataclasses.is_dataclass(config):
        hints = typing.get_type_hints(type(config), include_extras=True)
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if typing.get_origin(hints[field.name]) is typing.Annotated:
                yield (*path, field.name), hints[field.name]
            yield from numbered(value, (*path, field.name))
    elif isinstance(config, dict):
        for key, value in config.items():
            yield from numbered(value, (*path, key))
    elif isinstance(config, tuple):
        for key, value in enumerate(config):
            yield from numbered(value, (*path, str(key)))


@pytest.mark.parametrize("name", ["scenes", "4m-21-b", "tokenizer-rgb", "tokenizer-human_pose"])
def test_every_number_outside_of_its_range_is_named_with_what_was_expected(name):
    config = get(name)
    places = {path[-2:]: (path, hint) for path, hint in numbered(config)}.values()  # each kind of place once
    assert len(places) > 20
    for path, hint in places:
        bounds = next(about for about in hint.__metadata__ if isinstance(about, Range))
        for number in (bounds.low - 1, bounds.high * 2 + 1, 10**30, float("nan"), True):
            if number in bounds and number is not True:
                continue
            with pytest.raises(Open4MError, match=rf"{path[-1]}: expected "):
                override(config, [f"{'.'.join(path)}={number}".replace("nan", "NaN").replace("True", "true")])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixed:
    size: Size | tuple[Size, Size] | None = None
    table: dict[str, tuple[Size, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        check_ranges(self)


def test_numbers_are_found_within_choices_tables_and_lists():
    for good in (None, 3, (1, 2), np.int64(3)):
        assert Mixed(size=good, table={"a": (1, 2)}).size == good
    for bad, where in ((0, "size"), ((1, 0), r"size\[1\]"), ("x", "size"), (1.5, "size"), (True, "size")):
        with pytest.raises(Open4MError, match=rf"^Mixed: {where}: expected "):
            Mixed(size=bad)
    with pytest.raises(Open4MError, match=r"^Mixed: table\.a\[1\]: expected at least 1, got 0"):
        Mixed(table={"a": (1, 0)})
    with pytest.raises(Open4MError, match=r"^mixed\.size: expected|^mixed: size: expected"):
        from_dict(Mixed, {"size": 10**30}, "mixed")
    with pytest.raises(Open4MError, match=r"got a number|got an? int|got \d+\.\.\.\d+"):
        Mixed(size=10**6000)


SIMPLE = [cls for cls in CLASSES if all(f.default is not dataclasses.MISSING for f in dataclasses.fields(cls))]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_configurations_of_any_values_are_made_or_refused(data):
    """From Python too, where nothing was converted before."""
    cls = data.draw(st.sampled_from(SIMPLE))
    names = data.draw(st.lists(st.sampled_from([f.name for f in dataclasses.fields(cls)]), max_size=3, unique=True))
    hints = typing.get_type_hints(cls, include_extras=True)
    ranged = [name for name in names if "Annotated" in repr(hints[name])]
    try:
        config = cls(**{name: data.draw(LEAVES) for name in ranged})
    except Open4MError:
        return
    configs.fingerprint(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"length": "0 steps"}, "length: expected at least one step"),
        ({"length": "10 steps", "warmup": "11 steps"}, "warmup 11 steps: .* run, 10 .*got 11"),
        (
            {"length": "10 steps", "warmup": "6 steps", "decay": "5 steps"},
            "warmup 6 steps and decay 5 steps: .* 10 .*got 11",
        ),
        ({"length": "1 epoch", "warmup": "100 steps"}, "warmup 100 steps: .* run, 1 .*1 epoch.*got 100"),
    ],
)
def test_lengths_that_leave_no_training_are_refused(fields, message):
    durations = {name: Duration.parse(text) for name, text in fields.items()}

    def make():
        TrainConfig(**durations, batch_size=8).on_data(5)

    with pytest.raises(Open4MError, match=message):
        make()


def test_an_epoch_is_as_many_samples_as_the_data_has():
    config = TrainConfig(length=Duration.parse("2.5 epochs"), warmup=Duration.parse("1 epoch"), batch_size=8)
    with pytest.raises(Open4MError, match="how many samples an epoch has is not known"):
        _ = config.steps
    config = config.on_data(100)
    assert (config.steps, config.warmup_steps) == (32, 13)
    tokens = TrainConfig(length=Duration.parse("1k tokens"), warmup=Duration.parse("5 steps"), batch_size=2)
    assert tokens.on_data(9, 10.0).steps == 50
    assert tokens.on_data(9, 10.0).epoch_samples is None  # what needs it not is the same run whatever the data
