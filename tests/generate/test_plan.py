"""Plans: schedules that end, defaults of modalities, and requests that cannot work."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m import config as configs
from open4m import modalities
from open4m.generate.plan import MAX_STEPS, MAX_STRENGTH, Step, fitting, make
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.types import Open4MError

CONFIG = FourMConfig(
    modalities=(
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(2, 2), patch_size=2, channels=3),
        ModalitySpec(key="depth", family="grid", vocab_size=9, grid=(3, 4)),
        ModalitySpec(key="caption", family="sequence", vocab_size=14, max_length=8),
        ModalitySpec(key="rgb@64", family="grid", vocab_size=12, grid=(2, 3)),
        ModalitySpec(key="normals", family="grid", vocab_size=12, grid=(2, 3), is_input=False),
    ),
    dim=16,
    encoder_depth=1,
    decoder_depth=1,
    heads=2,
)


@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from(["cosine", "linear", "even"]))
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


def test_one_over_x_falls_fast_then_slowly_between_the_two_temperatures():
    step = Step(target="rgb", steps=10, schedule="even", temperature=(3.0, 0.5), cooling="onex")
    found = [step.temperature_at(done, 100) for done in range(10)]
    falls = [before - after for before, after in itertools.pairwise(found)]
    assert 2.5 < found[0] < 3
    assert found[-1] == 0.5
    assert falls[:-1] == sorted(falls[:-1], reverse=True)
    constant = Step(target="rgb", steps=10, temperature=0.7, cooling="onex")
    assert {constant.temperature_at(done, 100) for done in range(10)} == {0.7}


@pytest.mark.parametrize("said", [{"scheme": "halton"}, {"depth": {"scheme": "halton"}}])
def test_another_scheme_than_that_of_the_defaults_takes_nothing_that_only_theirs_has(said):
    """Plans of the shipped model are MaskGIT's, with its noise; whoever says another scheme has not asked for that."""
    noisy = {"depth": {"scheme": "maskgit", "choice_temperature": 4.5, "steps": 3}}
    assert make(CONFIG, "depth", said, noisy) == [replace(make(CONFIG, "depth", said)[0], steps=3)]
    with pytest.raises(Open4MError, match="choice_temperature"):
        make(CONFIG, "depth", {**said, "choice_temperature": 1.0}, noisy)
    ordered = {"depth": {"scheme": "roar", "order": (*range(12),)}}
    assert make(CONFIG, "depth", {"scheme": "maskgit"}, ordered)[0].order == ()
    assert make(CONFIG, "depth", {"scheme": "roar"}, ordered)[0].order == (*range(12),)
    assert make(CONFIG, "depth", {"scheme": "maskgit"}, noisy)[0].choice_temperature == 4.5


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


def test_numbers_of_numpy_become_those_that_json_has():
    made = Step(
        target="depth",
        steps=np.int64(3),
        tokens=np.array([1, 2]),
        temperature=(np.float32(1), np.float64(0.5)),
        top_k=np.int8(4),
        top_p=np.float16(0.5),
        choice_temperature=np.float32(2),
        guidance={"caption": np.float32(3)},
    )
    plain = Step(
        target="depth",
        steps=3,
        tokens=(1, 2),
        temperature=(1.0, 0.5),
        top_k=4,
        top_p=0.5,
        choice_temperature=2.0,
        guidance={"caption": 3.0},
    )
    assert made == plain == Step(**json.loads(json.dumps(configs.to_dict(made))))
    assert Step(target="depth", guidance=np.array([1, 2.5])).guidance == (1.0, 2.5)
    for wrong in (np.float32("inf"), np.float16("nan"), (1, np.float32("inf")), {"caption": np.float32("-inf")}):
        with pytest.raises(Open4MError, match="guidance must be finite"):
            Step(target="depth", guidance=wrong)


def test_an_option_for_all_targets_is_put_over_those_that_it_fits():
    plan = make(CONFIG, ["depth", "caption", "normals"], {"steps": 5, "schedule": "linear", "temperature": (1, 0.5)})
    assert [(s.steps, s.schedule) for s in plan] == [(5, "linear"), (0, "cosine"), (1, "linear")]
    assert [s.temperature for s in plan] == [(1.0, 0.5), modalities.get("caption").generation.temperature, (1.0, 0.5)]
    plan = make(CONFIG, ["depth", "normals"], {"tokens": (3, 4)})
    assert [s.tokens for s in plan] == [(3, 4), ()]


def test_what_the_model_does_not_read_is_generated_in_one_pass_and_last():
    (step,) = make(CONFIG, ["normals"])
    assert step.passes == 1
    assert [s.target for s in make(CONFIG, ["depth", "normals"])] == ["depth", "normals"]
    assert make(CONFIG, ["normals"], {"normals": {"tokens": (2,)}})[0].passes == 1


def test_options_that_were_chosen_for_several_plans_are_those_that_fit():
    options = {"steps": 2, "temperature": 0.0, "depth": {"top_k": 3}, "caption": {"top_p": 0.5}}
    assert fitting(CONFIG, ["depth"], options) == {"steps": 2, "temperature": 0.0, "depth": {"top_k": 3}}
    assert fitting(CONFIG, ["caption"], options) == {"temperature": 0.0, "caption": {"top_p": 0.5}}
    assert fitting(CONFIG, ["normals"], options) == {"temperature": 0.0}
    assert fitting(CONFIG, ["caption", "rgb@64"], options) == {k: v for k, v in options.items() if k != "depth"}
    assert fitting(CONFIG, [Step(target="depth")], options) == {}
    assert fitting(CONFIG, ["depth"], {"steps": 2, "depth": 3}) == {"steps": 2, "depth": 3}  # which make refuses
    own = {**options, "depth": {"steps": 3}}
    assert fitting(CONFIG, ["depth", "caption"], own) == {k: v for k, v in own.items() if k != "steps"}
    assert fitting(CONFIG, ["depth", "rgb@64"], own) == {k: v for k, v in own.items() if k != "caption"}


def test_one_target_needs_no_list():
    assert make(CONFIG, "depth") == make(CONFIG, ["depth"])
    step = Step(target="depth", steps=2)
    assert make(CONFIG, step) == [step]


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ([], {}, "no target: name one or more of depth, caption, rgb@64"),
        ("dept", {}, "unknown modality 'dept'; did you mean depth"),
        (3, {}, r"targets: expected a modality or a list of them, such as \['rgb'\], got 3"),
        ([3], {}, "targets: expected names of modalities, or Steps, got 3"),
        (["normals", "depth"], {}, r"normals: .* not read it \(inputs: rgb_pixels, depth, caption, rgb@64\), so depth"),
        ([Step(target="normals")], {}, r"normals: expected one pass \(steps=1\), .* got 8 passes"),
        (["normals"], {"normals": {"tokens": (1, 2)}}, "normals: expected one pass .* got 2 passes"),
        (["normals"], {"steps": 4}, r"steps=4 is for grids .* several passes, and no target is one \(normals\): leave"),
        (["caption"], {"scheme": "roar"}, "scheme='roar' is for grids .* no target is one"),
        (["caption"], {"temperature": (1, 0.5)}, r"temperature=\(1, 0.5\) is for grids"),
        (
            ["caption"],
            {"steps": 4},
            r"steps=4 is for grids .* leave it out, or .*: caption=\{'steps': 4\}, .* --option caption.steps=4",
        ),
        (
            ["depth", "caption"],
            {"steps": 4, "depth": {"steps": 3}},
            r"steps=4 is for all targets, and each that it fits \(depth\) has another steps of its own: leave out one",
        ),
        ([Step(target="depth")], {"steps": 4}, "steps=4 is for targets given by name, and all are Steps"),
        (["depth"], {"tokens": (1,) * (MAX_STEPS + 1)}, "tokens must be of at most 10000 passes, got 10001"),
        (
            ["depth"],
            {"choice_temperature": 2.0},
            "choice_temperature=2.0 is for scheme='maskgit', and its scheme is 'roar'",
        ),
        (["depth"], {"scheme": ["roar"]}, "scheme must be one of maskgit, roar"),
        (["depth"], {"guidance": {3: 1.0}}, "guidance must be a number"),
        (["depth"], {"guidance": True}, "guidance must be a number"),
        (["depth"], {"guidance": 3e38}, r"guidance must be finite, from -10000 to 10000, got 3e\+38"),
        (["depth"], {"guidance": (1, -10_001)}, "guidance must be finite, from -10000 to 10000"),
        (["depth"], {"guidance": {"caption": 10**400}}, "guidance must be finite, from -10000 to 10000"),
        (["depth"], {"temperature": 10**400}, "temperature must be finite, from 0 to 10000"),
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
        (["depth"], {"guidance": float("nan")}, "guidance must be finite, from -10000 to 10000, got nan"),
        (["depth"], {"guidance": "3"}, "guidance must be a number, or two of them, or one per condition, got '3'"),
        (["depth"], {"temperature": -1}, "temperature must be finite, from 0 to 10000, got -1"),
        (["depth"], {"temperature": float("inf")}, "temperature must be finite"),
        (["depth"], {"top_p": 0}, "top_p must be above 0"),
        (["depth"], {"top_p": 1.5}, "top_p must be above 0 and at most 1"),
        (["depth"], {"top_p": float("nan")}, "top_p must be"),
        (["depth"], {"top_k": -1}, "top_k must be 0"),
        (["depth"], {"top_k": None}, "top_k must be a whole number"),
        (["depth"], {"cooling": "log"}, "cooling must be one of linear, onex"),
        (["depth"], {"order": [0, 1]}, "order must hold each of its"),
        (["depth"], {"order": [-1]}, "order must be whole numbers from 0 on"),
        (["depth"], {"order": [0], "scheme": "maskgit"}, "order must be left out for maskgit"),
        (["depth"], {"announced": True}, "announced=True is for sequences, and no target is one"),
        (["depth"], {"depth": {"open_end": True}}, "open_end must be false for a grid"),
        (["caption"], {"caption": {"open_end": 1}}, "open_end must be true or false"),
        (["depth"], {"limit_first": 1}, "limit_first must be true or false"),
        (["depth"], {"schedule": "sine"}, "schedule must be one of cosine, linear, even, bell, got 'sine'"),
    ],
)
def test_impossible_plans_are_refused(targets, options, message):
    with pytest.raises(Open4MError, match=message):
        make(CONFIG, targets, options)


def test_the_most_of_all_is_allowed():
    assert make(CONFIG, ["depth"], {"steps": MAX_STEPS})[0].steps == MAX_STEPS
    assert (
        Step(target="depth", tokens=(1,) * MAX_STEPS, guidance=-MAX_STRENGTH, temperature=MAX_STRENGTH).passes
        == MAX_STEPS
    )
