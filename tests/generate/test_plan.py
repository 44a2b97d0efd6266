"""Plans: schedules that end, defaults of modalities, and requests that cannot work."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m import modalities
from open4m.generate.plan import MAX_STEPS, Step, make
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import Open4MError

CONFIG = FourMConfig(
    modalities=(
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
        ModalitySpec(key="depth", family="grid", vocab_size=9, grid=(3, 4)),
        ModalitySpec(key="caption", family="sequence", vocab_size=14, max_length=8),
        ModalitySpec(key="rgb@64", family="grid", vocab_size=12, grid=(2, 3)),
    ),
    dim=16, encoder_depth=1, decoder_depth=1, heads=2,
)  # fmt: skip


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from(["cosine", "linear"]))
def test_a_schedule_falls_by_one_token_a_step_at_least_and_ends_at_none(steps, total, schedule):
    step = Step(target="depth", steps=steps, schedule=schedule)
    left = [step.remaining(done, total) for done in range(steps + 1)]
    assert left[0] == total
    assert left[-1] == 0
    for before, after in itertools.pairwise(left):
        assert after < before or before == after == 0
    assert step.remaining(steps + 5, total) == 0


def test_schedules_are_the_papers_curves():
    assert [Step(target="rgb", steps=4, schedule="linear").remaining(n, 100) for n in range(5)] == [100, 75, 50, 25, 0]
    assert [Step(target="rgb", steps=4).remaining(n, 100) for n in range(5)] == [100, 92, 70, 38, 0]


def test_a_plan_takes_each_modalitys_defaults_then_the_options():
    plan = make(
        CONFIG, ["caption", "rgb@64", "depth"], {"guidance": 2.0, "steps": 5, "depth": {"steps": 7, "top_k": 3}}
    )
    assert [s.target for s in plan] == ["caption", "rgb@64", "depth"]
    assert [s.guidance for s in plan] == [2.0] * 3
    assert [s.steps for s in plan] == [0, 5, 7]  # a grid's number of steps says nothing about a sequence
    assert plan[2].top_k == 3
    for step in plan:
        defaults = modalities.get(step.target).generation
        assert (step.scheme, step.temperature, step.top_p) == (defaults.scheme, defaults.temperature, defaults.top_p)


def test_a_step_may_be_given_whole_and_numpy_numbers_are_numbers():
    own = Step(target="depth", scheme="roar", steps=np.int64(3), guidance=np.float32(2))
    assert make(CONFIG, [own, "caption"], {"temperature": 0.5})[0] is own


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([], {}, "no target: name one or more of depth, caption, rgb@64"),
        (["dept"], {}, "unknown modality 'dept'; did you mean depth"),
        (["rgb_pixels"], {}, "not trained to predict it"),
        ([Step(target="rgb_pixels")], {}, "not trained to predict it"),
        (["depth", "depth"], {}, "occurs twice"),
        (["depth"], {"temprature": 1.0}, "unknown generation option 'temprature'"),
        (["depth"], {"depth": {"target": "caption"}}, "unknown generation option 'target'"),
        (["depth"], {"depth": 3}, "options for depth: expected a mapping"),
        (["depth"], {"caption": {"top_p": 0.5}}, "options for caption, which is not among the targets"),
        (["depth"], {"scheme": "holton"}, "scheme must be one of maskgit, roar, halton, left_to_right, got 'holton'"),
        (["depth"], {"scheme": "left_to_right"}, "depth: scheme must be one of maskgit, roar, halton, got 'left_to_r"),
        (
            ["caption"],
            {"caption": {"scheme": "roar", "steps": 3}},
            "caption: scheme must be one of left_to_right, got 'roar'",
        ),
        (["depth"], {"steps": 0}, "steps must be 1 to 10000, got 0"),
        (["depth"], {"steps": 10**9}, "steps must be 1 to 10000"),
        (["depth"], {"steps": 2.5}, "steps must be a whole number"),
        (["caption"], {"caption": {"steps": -1}}, "steps must be 0 to 10000, got -1"),
        (["depth"], {"guidance": float("nan")}, "guidance must be finite, got nan"),
        (["depth"], {"guidance": "3"}, "guidance must be a number, or two of them, or one a condition, got '3'"),
        (["depth"], {"temperature": -1}, "temperature must be finite and not negative"),
        (["depth"], {"temperature": float("inf")}, "temperature must be finite"),
        (["depth"], {"top_p": 0}, "top_p must be above 0"),
        (["depth"], {"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        (["depth"], {"top_p": float("nan")}, "top_p must be"),
        (["depth"], {"top_k": -1}, "top_k must be 0"),
        (["depth"], {"top_k": None}, "top_k must be a whole number"),
        (["depth"], {"schedule": "sine"}, "schedule must be cosine or linear"),
    ],
)
def test_impossible_plans_are_refused(targets, options, message):
    with pytest.raises(Open4MError, match=message):
        make(CONFIG, targets, options)


def test_the_most_steps_are_allowed():
    assert make(CONFIG, ["depth"], {"steps": MAX_STEPS})[0].steps == MAX_STEPS
