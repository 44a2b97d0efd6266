"""Lists of steps: read back from files, checked when they are made, deterministic where they must be."""

import dataclasses
import json
import typing

import numpy as np
import pytest
from coordinate_examples import coordinates

from open4m.config import from_dict, override, to_dict
from open4m.ranges import Range
from open4m.rng import stream
from open4m.transfer.augment import Augmentations, CenterCrop, ColorJitter, Fit, Flip, Mixing, Pipeline, Step, Stretch
from open4m.transfer.augment.base import Augmentation, Sizing
from open4m.types import Open4MError

STEPS = typing.get_args(Step)


def made(cls):
    """A step with other values than its defaults."""
    step = cls(side=7) if issubclass(cls, Sizing) else cls()
    values = {}
    for field in dataclasses.fields(cls):
        value = getattr(step, field.name)
        if isinstance(value, float):
            values[field.name] = 0.25
        elif isinstance(value, tuple):
            values[field.name] = (value[1], value[1])
    return dataclasses.replace(step, **values)


@pytest.mark.parametrize("cls", STEPS)
def test_every_step_comes_back_from_json_as_itself(cls):
    pipeline = Pipeline(steps=(made(cls), Stretch(side=5)))
    values = json.loads(json.dumps(to_dict(pipeline)))
    read = from_dict(Pipeline, values)
    assert read == pipeline
    assert type(read.steps[0]) is cls


def test_every_step_has_a_kind_of_its_own_and_ranges_of_all_its_numbers():
    kinds = [typing.get_args(typing.get_type_hints(cls)["kind"]) for cls in STEPS]
    assert len({*kinds}) == len(STEPS)
    concrete, waiting = set(), [Augmentation]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if not cls.__abstractmethods__:
            concrete.add(cls)
    assert concrete == {*STEPS}  # none is missing in what files may name
    for cls in (*STEPS, Mixing):
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            numbers = typing.get_args(hint) if typing.get_origin(hint) is tuple else (hint,)
            for number in numbers:
                if number in (int, float) or typing.get_origin(number) is typing.Annotated:
                    assert any(isinstance(about, Range) for about in getattr(number, "__metadata__", ())), (cls, name)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "fit", "side": 0}, r"config.steps\[0\]: side: expected at least 1, got 0"),
        (
            {"kind": "fitt", "side": 4},
            r"config.steps\[0\].kind: expected one of stretch, fit, .*randaugment, got 'fitt'",
        ),
        ({"side": 4}, r"config.steps\[0\].kind: expected one of stretch, .*, got None"),
        ({"kind": ["fit"], "side": 4}, r"kind: expected one of stretch, "),
        ({"kind": "flip", "side": 4}, r"config.steps\[0\]: unknown field 'side' \(fields: probability, kind\)"),
        ({"kind": "random_crop"}, r"config.steps\[0\]: missing side"),
    ],
)
def test_a_step_that_is_none_is_refused_by_what_it_says_it_is(step, message):
    with pytest.raises(Open4MError, match=message):
        from_dict(Pipeline, {"steps": [step]})


def test_fields_of_steps_are_assigned_from_the_command_line():
    pipeline = Pipeline(steps=(Flip(), CenterCrop(side=8)))
    changed = override(pipeline, ["steps.1.side=16", "steps.0.probability=0"])
    assert changed.steps == (Flip(probability=0.0), CenterCrop(side=16))


def test_a_list_must_make_squares():
    for steps in ((), (Flip(),), (ColorJitter(), Flip())):
        with pytest.raises(Open4MError, match="steps: expected one that makes squares"):
            Pipeline(steps=steps)


def test_the_last_square_counts():
    pipeline = Pipeline(steps=(CenterCrop(side=30), Fit(side=12)))
    assert pipeline.side == 12
    moved, placed = pipeline(coordinates(20, 40))
    assert moved["rgb"].shape == (12, 12, 3)
    np.testing.assert_allclose(placed.scale, (0.6, 0.6))
    np.testing.assert_allclose(placed.offset, (0, -6), atol=1e-12)


def test_random_steps_need_a_stream_and_others_do_not():
    example = coordinates(9, 9)
    still = Pipeline(steps=(CenterCrop(side=4, share=0.9), Fit(side=4), Stretch(side=4)))
    assert not still.is_random
    np.testing.assert_array_equal(still(example)[0]["rgb"], still(example, stream(0))[0]["rgb"])
    with pytest.raises(Open4MError, match="need the stream of the example: give rng"):
        Pipeline(steps=(Flip(), Fit(side=4)))(example)


@pytest.mark.parametrize("cls", STEPS)
def test_a_step_that_says_that_it_draws_nothing_draws_nothing(cls):
    step, example = made(cls), {"rgb": coordinates(30, 40)["rgb"], "label": 1}
    generator = stream(0)
    before = json.dumps(generator.bit_generator.state, default=np.ndarray.tolist)
    step.apply(example, generator)
    drew = json.dumps(generator.bit_generator.state, default=np.ndarray.tolist) != before
    assert drew == step.is_random


def test_evaluation_must_be_deterministic_and_of_the_same_side():
    train = Pipeline(steps=(Flip(), Fit(side=8)))
    with pytest.raises(Open4MError, match="evaluation: expected steps that draw nothing, got flip"):
        Augmentations(train=train, evaluation=train)
    with pytest.raises(Open4MError, match="squares of one side, got 8 in training and 9 in evaluation"):
        Augmentations(train=train, evaluation=Pipeline(steps=(Fit(side=9),)))
