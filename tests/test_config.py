"""Configurations: strict to read, exact to write."""

import dataclasses
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.config import LATER, Duration, completed, differences, fingerprint, from_dict, load, override, save, to_dict
from open4m.types import Open4MError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    rate: float
    name: str = "part"
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if self.rate < 0:
            raise Open4MError(f"rate is not negative, got {self.rate}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    length: Duration
    part: Part
    count: int = 3
    fast: bool = False
    clip: float | None = None
    pair: tuple[float, float] = (0.9, 0.95)
    many: tuple[Part, ...] = ()
    kind: Literal["a", "b"] = "a"
    folder: Path = Path("x")


def whole(**changes):
    return Whole(length=Duration(20_000, "steps"), part=Part(rate=0.1, weights={"rgb": 1.0}), **changes)


# ---- durations


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("500B tokens", 5e11, "tokens"),
        ("20k steps", 20_000, "steps"),
        ("1.5M samples", 1_500_000, "samples"),
        ("7 steps", 7, "steps"),
        (" 0steps ", 0, "steps"),
        ("4.035k steps", 4035, "steps"),
        ("1.1M steps", 1_100_000, "steps"),
        ("1 epoch", 1, "epochs"),
        ("2.5 epochs", 2.5, "epochs"),
    ],
)
def test_durations_are_parsed_exactly(text, amount, unit):
    assert Duration.parse(text) == Duration(amount, unit)
    assert Duration.parse(text).amount == amount


@pytest.mark.parametrize(
    "text", ["", "10", "steps", "10 hours", "-1 steps", "1.2.3 steps", ". steps", "10K steps", "1 2 steps"]
)
def test_other_texts_are_not_durations(text):
    with pytest.raises(Open4MError, match="expected a duration such as"):
        Duration.parse(text)


def test_durations_that_make_no_sense_are_refused():
    with pytest.raises(Open4MError, match="unit is one of tokens, samples, steps, epochs, got 'hours'"):
        Duration(1, "hours")
    for amount in (-1, float("inf"), float("nan")):
        with pytest.raises(Open4MError, match=r"amount is from 0 to 1e\+18"):
            Duration(amount, "steps")


@given(st.one_of(st.integers(0, 10**15), st.floats(0, 1e15, allow_subnormal=False)), st.sampled_from(Duration.UNITS))
def test_a_duration_is_written_with_all_its_digits(amount, unit):
    duration = Duration(amount, unit)
    assert Duration.parse(str(duration)) == duration


def test_durations_are_written_shortly():
    texts = ["500B tokens", "20k steps", "1.5M samples", "0 steps", "1.234567M steps", "999 samples", "100k samples"]
    assert [str(Duration.parse(text)) for text in texts] == texts


@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 100))
def test_steps_are_rounded_up(amount, batch, tokens):
    for unit, per_step in (("steps", 1), ("samples", batch), ("tokens", batch * tokens)):
        steps = Duration(amount, unit).steps(batch, tokens)
        assert steps * per_step >= amount
        assert (steps - 1) * per_step < amount or steps == amount == 0
    assert isinstance(steps, int)


# ---- reading and writing


def test_a_configuration_survives_json_and_files(tmp_path):
    config = whole(clip=3.0, many=(Part(rate=1.0), Part(rate=float("inf"), name="é")), folder=Path("a/b"), kind="b")
    assert from_dict(Whole, json.loads(json.dumps(to_dict(config)))) == config
    save(config, tmp_path / "config.json")
    assert load(Whole, tmp_path / "config.json") == config


def values(**changes):
    return {**to_dict(whole()), **changes}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cuont": 4}, r"config: unknown field 'cuont'; did you mean count\? \(fields: length, part"),
        ({"part": {"rate": 1.0, "nmae": "x"}}, r"config.part: unknown field 'nmae'; did you mean name\?"),
        ({"part": {}}, "config.part: missing rate"),
        ({"part": 3}, "config.part: expected the fields of Part, got 3"),
        ({"count": "4"}, "config.count: expected int, got '4'"),
        ({"count": 4.5}, "config.count: expected int"),
        ({"count": True}, "config.count: expected int, got True"),
        ({"fast": 1}, "config.fast: expected bool, got 1"),
        ({"clip": "big"}, "config.clip: expected float, got 'big'"),
        ({"pair": [0.9]}, "config.pair: expected 2 values, got 1"),
        ({"pair": [0.9, "x"]}, r"config.pair\[1\]: expected float"),
        ({"pair": 0.9}, "config.pair: expected a list"),
        ({"many": [{"rate": 1}, {}]}, r"config.many\[1\]: missing rate"),
        ({"kind": "c"}, "config.kind: expected one of a, b, got 'c'"),
        ({"length": 5}, "expected a duration such as"),
        ({"part": {"rate": 1.0, "weights": [1]}}, "config.part.weights: expected a mapping"),
        ({"part": {"rate": 1.0, "weights": {"rgb": "x"}}}, "config.part.weights.rgb: expected float"),
        ({"part": {"rate": -1.0}}, "rate is not negative"),
    ],
)
def test_mistakes_in_a_file_are_named(changed, message):
    with pytest.raises(Open4MError, match=message):
        from_dict(Whole, values(**changed))


def test_missing_fields_and_files_are_named(tmp_path):
    with pytest.raises(Open4MError, match="config: missing length, part"):
        from_dict(Whole, {})
    with pytest.raises(Open4MError, match=r"none\.json: no such file"):
        load(Whole, tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(Open4MError, match=r"bad\.json: not readable as JSON"):
        load(Whole, tmp_path / "bad.json")


@dataclasses.dataclass(frozen=True)
class Bound:
    low: int
    high: int

    def __post_init__(self):
        if self.low > self.high:
            raise Open4MError("low is above high")


def test_overrides_reach_every_field_and_change_nothing_else():
    config = whole()
    changed = override(
        config,
        [
            "count=7",
            "fast=true",
            "part.rate=2",
            "part.name=other",
            "part.weights.rgb=0.5",
            "clip=1.5",
            "pair=[0.1, 0.2]",
            "length=3M samples",
            "kind=b",
            "folder=/tmp/y",
            'many=[{"rate": 1}]',
        ],
    )
    assert changed == Whole(
        length=Duration(3e6, "samples"),
        part=Part(rate=2.0, name="other", weights={"rgb": 0.5}),
        count=7,
        fast=True,
        clip=1.5,
        pair=(0.1, 0.2),
        kind="b",
        folder=Path("/tmp/y"),
        many=(Part(rate=1.0),),
    )
    assert override(changed, ["many.0.rate=3", "pair.1=0.5"]) == dataclasses.replace(
        changed, many=(Part(rate=3.0),), pair=(0.1, 0.5)
    )
    pair = override(Bound(low=1, high=3), ["low=5", "high=9"])  # neither could be changed alone
    assert (pair.low, pair.high) == (5, 9)
    assert isinstance(changed.part.rate, float)
    assert config == whole()
    assert override(changed, ["clip=None", "fast=False"]) == dataclasses.replace(changed, clip=None, fast=False)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("count", "expected field=value, got 'count'"),
        ("cuont=3", r"cuont: unknown field 'cuont'; did you mean count\?"),
        ("part.rat=3", r"part.rat: unknown field 'rat'; did you mean rate\?"),
        ("part.weights.rgv=1", r"part.weights.rgv: unknown field 'rgv'; did you mean rgb\?"),
        ("pair.2=1", r"pair.2: unknown field '2' \(fields: 0, 1\)"),
        ("pair.first=1", "pair.first: unknown field 'first'"),
        ("pair.1=x", "pair.1: expected float, got 'x'"),
        ("part.weights.rgb=x", "part.weights.rgb: expected float, got 'x'"),
        ("count.x=3", "count.x: 'x' is not inside a configuration"),
        ("clip.x=3", "clip.x: 'x' is not inside a configuration"),
        ("count=three", "count: expected int, got 'three'"),
        ("part.rate=-1", "rate is not negative"),
        ("part=3", "part: expected the fields of Part"),
        ("=3", "unknown field ''"),
    ],
)
def test_mistakes_in_overrides_are_named(assignment, message):
    with pytest.raises(Open4MError, match=message):
        override(whole(), [assignment])


def test_differences_name_exactly_what_differs():
    old = whole()
    assert differences(old, whole()) == []
    new = override(old, ["count=4", "part.weights.rgb=2.0", "clip=1.0", "length=1234567 steps"])
    assert differences(old, new) == [
        "length: 20k steps -> 1.234567M steps",
        "part.weights.rgb: 1.0 -> 2.0",
        "count: 3 -> 4",
        "clip: None -> 1.0",
    ]
    assert differences(to_dict(old), {**to_dict(old), "extra": 1}) == ["extra: None -> 1"]


def test_fingerprints_differ_whenever_the_configuration_does():
    prints = {
        fingerprint(c)
        for c in (whole(), whole(count=4), whole(pair=(0.9, 0.951)), override(whole(), ["length=20001 steps"]))
    }
    assert len(prints) == 4
    assert fingerprint(whole()) == fingerprint(from_dict(Whole, to_dict(whole())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Other:
    depth: int = 1
    rate: float = 0.5

    def __post_init__(self):
        if self.depth < 1:
            raise Open4MError(f"depth is at least 1, got {self.depth}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    one: Part | Other
    two: Other | Part


def test_of_several_classes_the_error_is_that_of_the_one_that_was_meant():
    """Which is the one that has all the fields, wherever it stands."""
    chosen = from_dict(Choice, {"one": {"depth": 2}, "two": {"depth": 3}})
    assert chosen == Choice(one=Other(depth=2), two=Other(depth=3))
    for name in ("one", "two"):
        values = {"one": {"depth": 2}, "two": {"depth": 2}, name: {"depth": 0, "rate": 1}}
        with pytest.raises(Open4MError, match="depth is at least 1, got 0"):
            from_dict(Choice, values)


def test_values_of_an_older_version_get_the_defaults_of_newer_fields_only():
    config = {"whole": [Part(rate=1.0, name="mine", weights={"a": 1.0})], "text": "b"}
    older = {"whole": [{"rate": 2.0, "gone": 3}], "text": "a"}
    assert completed(older, config) == {
        "whole": [{"rate": 2.0, "gone": 3, "name": "part", "weights": {}}],
        "text": "a",
    }
    assert older["whole"] == [{"rate": 2.0, "gone": 3}]  # not changed in place
    assert completed({"rate": [1]}, Part(rate=1.0))["rate"] == [1]
    assert completed([{}, {}], [Part(rate=1.0)]) == [{}, {}]  # of another length: nothing to match by place
    assert completed({}, Part(rate=1.0)) == {"name": "part", "weights": {}}  # no default for what is required


def test_a_field_that_was_added_later_counts_where_it_differs_from_its_default():
    @dataclasses.dataclass(frozen=True)
    class Before:
        width: int = 3

    @dataclasses.dataclass(frozen=True)
    class After:
        width: int = 3
        grid: int | None = dataclasses.field(default=None, metadata=LATER)

    assert fingerprint({"a": [Before()]}) == fingerprint({"a": [After()]})
    assert fingerprint(After(grid=2)) != fingerprint(After()) != fingerprint(After(width=4))


# ---- what users type, and what they are told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    stages: tuple[Whole, ...]
    names: tuple[str, ...] = ("a",)
    budget: int | tuple[int, int] = 1
    label: str | None = None


def a_run():
    return Run(stages=(whole(), whole(count=4)))


@pytest.mark.parametrize(
    ("assignment", "field", "value"),
    [
        ("names=rgb,depth", "names", ("rgb", "depth")),
        ("names=[rgb, depth]", "names", ("rgb", "depth")),
        ("names=rgb", "names", ("rgb",)),
        ('names=["rgb", "depth"]', "names", ("rgb", "depth")),
        ("budget=64,128", "budget", (64, 128)),
        ("budget=64", "budget", 64),
        ("label=a,b", "label", "a,b"),
    ],
)
def test_lists_are_typed_with_commas(assignment, field, value):
    assert getattr(override(a_run(), [assignment]), field) == value


def test_a_field_of_a_part_is_suggested_with_its_path():
    with pytest.raises(Open4MError, match=r"field 'count'; did you mean stages.0.count or stages.1.count"):
        override(a_run(), ["count=3"])
    with pytest.raises(Open4MError, match=r"rate: unknown field 'rate'; did you mean part.rate\?"):
        override(whole(), ["rate=3"])


def test_differences_name_the_field_of_a_part_of_a_list():
    old = a_run()
    assert differences(old, override(old, ["stages.1.part.rate=2"])) == ["stages.1.part.rate: 0.1 -> 2.0"]
    named = {"strategies": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]}
    other = {"strategies": [{"name": "b", "weight": 2}]}
    assert differences(named, other) == [
        "strategies.a: {'name': 'a', 'weight': 1} -> None",
        "strategies.b.weight: 1 -> 2",
    ]
    assert differences({"x": ["a"]}, {"x": ["a", "b"]}) == ["x: ['a'] -> ['a', 'b']"]


HUGE = {"text": "x" * 10**5, "list": [1] * 10**5, "mapping": {"a": "y" * 10**5}, "number": 10**299}


@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE)
def test_errors_and_differences_repeat_no_value_of_any_size(value):
    for field in ("fast", "kind", "pair", "many", "length"):
        with pytest.raises(Open4MError) as caught:
            from_dict(Whole, values(**{field: value}))
        assert len(str(caught.value)) < 700
    assert all(len(line) < 700 for line in differences({"a": value}, {"a": 1}))
    with pytest.raises(Open4MError) as caught:
        from_dict(Whole, {**values(), "z" * 10**5: 1})
    assert len(str(caught.value)) < 2200


def test_a_configuration_of_any_size_is_not_read(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"a": "' + b"x" * (1 << 24) + b'"}')
    with pytest.raises(Open4MError, match="larger than 16777216 bytes"):
        load(dict[str, str], tmp_path / "config.json")


# ---- classes that a constant field tells apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cat:
    lives: int = 9
    kind: Literal["cat"] = "cat"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dog:
    lives: int = 1
    kind: Literal["dog"] = "dog"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Home:
    pets: tuple[Cat | Dog, ...] = ()
    best: Cat | Dog | None = None


def test_a_constant_field_says_which_of_several_classes_with_the_same_fields_is_meant():
    home = Home(pets=(Dog(lives=3), Cat(lives=3)), best=Dog())
    assert from_dict(Home, json.loads(json.dumps(to_dict(home)))) == home
    assert from_dict(Home, {"best": None}) == Home()
    assert from_dict(Home, {"best": Cat()}).best == Cat()
    for kind in ({"kind": "cow"}, {}, {"kind": None}, {"kind": ["cat"]}):
        with pytest.raises(Open4MError, match=r"config.best.kind: expected one of cat, dog, got "):
            from_dict(Home, {"best": {"lives": 3, **kind}})
    with pytest.raises(Open4MError, match=r"config.pets\[0\].lives: expected int, got 'x'"):
        from_dict(Home, {"pets": [{"kind": "cat", "lives": "x"}]})


def test_a_duration_that_may_be_left_out_is_written_as_text():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Held:
        decay: Duration | None = None

    assert from_dict(Held, {"decay": "2 steps"}, "held").decay == Duration.parse("2 steps")
