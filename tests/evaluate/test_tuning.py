"""The settings of generation that are best on validation scenes become the model's plans."""

import json

import numpy as np
import pytest

from open4m.evaluate import tuning
from open4m.evaluate.intervals import Figures
from open4m.evaluate.suites.labels import TaskMeasure
from open4m.evaluate.suites.scenes import Suite
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST, make
from open4m.model.plans import Merged, Plans
from open4m.types import Open4MError

PATHS = [("rgb", "depth"), ("rgb", "boxes"), ("caption", "clip", "rgb")]


@pytest.fixture
def suite(model, held_out, known, judges, scenes):
    own = FourM(model.model, model.grids, model.text)  # whose plans may change
    return Suite(own, held_out, known, judges, samples=2, paths=PATHS, scenes=scenes)


@pytest.mark.parametrize("path", PATHS, ids=" → ".join)
def test_every_candidate_is_a_plan_that_the_model_can_follow(suite, path):
    found = tuning.candidates(suite, path)
    assert len(found) > 1
    assert len({json.dumps([c.options, c.merged]) for c in found}) == len(found)
    for candidate in found:
        assert set(candidate.options) == {*path[1:]}
        make(suite.model.config, path[1:], candidate.options)


def test_no_candidate_is_maskgit_without_noise_unless_it_takes_the_likeliest(suite):
    for path in PATHS:
        for candidate in tuning.candidates(suite, path):
            for options in candidate.options.values():
                sampled = options["temperature"] > 0
                assert not (sampled and options.get("scheme") == "maskgit" and not options.get("choice_temperature"))


def test_the_best_of_each_task_is_chosen_and_followed(suite, monkeypatch):
    """Candidates reach what they are told to; the first of equals wins, and what cannot be measured loses."""
    reached = iter([0.5, 0.2, float("nan"), 0.2, 0.9, 0.4])
    measured = TaskMeasure(
        better={"abs_rel": "lower"},
        figures=lambda values: Figures({"abs_rel": next(reached)}, {"abs_rel": (0.0, 1.0)}),
        bound=lambda: None,
        trivial=lambda: None,
    )
    suite.paths = [("rgb", "depth")]
    monkeypatch.setattr(suite, "task", lambda path: measured)
    asked = []
    monkeypatch.setattr(suite, "generate", lambda path, seed, options, merged: asked.append((options, merged)))
    plans, trials = tuning.tune(suite)
    found = tuning.candidates(suite, ("rgb", "depth"))
    assert asked == [(candidate.options, candidate.merged) for candidate in found]
    assert plans.tasks == {"rgb → depth": found[1].options}
    assert plans.merged == {}  # the last, of which several are merged, is worse
    assert [trial.chosen for trial in trials] == [False, True, False, False, False, False]
    rows = json.loads(json.dumps(tuning.report(trials)))
    assert rows[1]["options"] == found[1].options
    assert rows[1]["figures"] == {"abs_rel": 0.2}


def test_a_consensus_is_a_plan_of_its_own_beside_the_best_that_is_generated_once(suite, monkeypatch):
    reached = iter([0.5, 0.2, 0.3, 0.4, 0.3, 0.1])
    figures = lambda values: Figures({"abs_rel": next(reached)})  # noqa: E731
    measured = TaskMeasure(better={"abs_rel": "lower"}, figures=figures, bound=lambda: None, trivial=lambda: None)
    suite.paths = [("rgb", "depth")]
    monkeypatch.setattr(suite, "task", lambda path: measured)
    monkeypatch.setattr(suite, "generate", lambda *_: None)
    plans, trials = tuning.tune(suite)
    found = tuning.candidates(suite, ("rgb", "depth"))
    assert plans.tasks == {"rgb → depth": found[1].options}
    assert plans.merged == {"rgb → depth": Merged(samples=tuning.MERGED, options=found[-1].options)}
    assert [trial.chosen for trial in trials] == [False, True, False, False, False, True]


def test_measured_candidates_give_plans_for_every_task(suite):
    suite.paths = [("rgb", "boxes")]
    plans, trials = tuning.tune(suite)
    assert set(plans.tasks) == {"rgb → boxes"}
    assert sum(trial.chosen for trial in trials) == 1 + len(plans.merged)
    assert [trial.candidate.merged for trial in trials] == [1, 1, tuning.MERGED]
    assert {"ap", "ap50"} == set(trials[0].figures.values)


@pytest.mark.parametrize(
    ("better", "deciding"),
    [
        ({"abs_rel": "lower", "standardized_l1": "lower"}, ("abs_rel",)),
        ({"clip_score": "higher", "frechet_distance": "lower"}, ("clip_score",)),
        ({"clip_score": "higher", "shape_and_color_recall": "higher"}, ("shape_and_color_recall",)),
        (
            {"clip_score": "higher", "shape_and_color_recall": "higher", "count_exact": "higher"},
            ("shape_and_color_recall", "count_exact"),
        ),
    ],
)
def test_images_are_compared_by_what_is_in_them(better, deciding):
    assert tuning.deciding_metrics(better) == deciding
    with pytest.raises(Open4MError, match="nothing to measure"):
        tuning.deciding_metrics({})


def test_an_image_with_what_was_asked_for_and_nothing_else_wins(suite, monkeypatch):
    """The third has the most objects that were asked for, and more beside; of the first nothing is known of them."""
    reached = iter([(0.3, float("nan")), (0.4, 0.3), (0.5, 0.1), (0.4, 0.5), *[(0.1, 0.1)] * 4])
    names = ("shape_and_color_recall", "count_exact")
    figures = lambda values: Figures(dict(zip(names, next(reached), strict=True)))  # noqa: E731
    measured = TaskMeasure(better=dict.fromkeys(names, "higher"), figures=figures, bound=lambda: None, trivial=None)
    suite.paths = [("caption", "clip", "rgb")]
    monkeypatch.setattr(suite, "task", lambda path: measured)
    monkeypatch.setattr(suite, "generate", lambda *_: None)
    _, trials = tuning.tune(suite)
    assert [trial.chosen for trial in trials] == [n == 3 for n in range(8)]


def test_what_is_read_off_a_photo_is_the_likeliest_and_from_text_a_sample(model):
    assert model.planned(("rgb", "depth", "boxes")) == {"depth": LIKELIEST, "boxes": LIKELIEST}
    assert model.planned(("rgb_pixels", "depth")) == {"depth": LIKELIEST}
    assert model.planned(("caption", "rgb")) == model.planned(("depth", "rgb")) == {}  # many photos have this depth
    [step, words] = make(model.config, ["depth", "caption"], None, dict.fromkeys(["depth", "caption"], LIKELIEST))
    assert (step.scheme, step.temperature, step.steps) == ("maskgit", 0.0, 2)
    assert (words.scheme, words.temperature, words.steps) == ("left_to_right", 0.0, 0)
    [step] = make(model.config, ["depth"], {"steps": 5}, {"depth": LIKELIEST})
    assert (step.temperature, step.steps) == (0.0, 5)
    assert make(model.config, ["semseg"])[0].scheme == "roar"


def test_a_models_plans_stay_with_it(model, tmp_path):
    plans = Plans(tasks={"rgb → depth": {"depth": {"steps": 3, "temperature": 0.0}}})
    FourM(model.model, model.grids, model.text, plans).save(tmp_path)
    tuned = FourM.from_pretrained(tmp_path)
    assert tuned.plans == plans
    assert tuned.planned(("rgb", "depth")) == {"depth": {"steps": 3, "temperature": 0.0}}
    assert tuned.planned(("rgb", "semseg")) == {"semseg": LIKELIEST}
    given = {"rgb": np.zeros((32, 32, 3), np.uint8)}
    [step] = tuned.generate(given, ["depth"], defaults=tuned.planned(("rgb", "depth"))).plan
    assert (step.steps, step.temperature) == (3, 0.0)
    [step] = tuned.generate(given, ["depth"], steps=1, defaults=tuned.planned(("rgb", "depth"))).plan
    assert (step.steps, step.temperature) == (1, 0.0)


def test_evaluation_follows_plans_and_takes_the_consensus_they_name(model, held_out, known, monkeypatch):
    merged = Merged(samples=3, options={"depth": {"steps": 1, "temperature": 1.0}})
    plans = Plans(tasks={"rgb → depth": {"depth": {"steps": 2}}}, merged={"rgb → depth": merged})
    tuned = FourM(model.model, model.grids, model.text, plans)
    suite = Suite(tuned, held_out, known, samples=2, paths=[("rgb", "depth")])
    seeds = []
    generate = tuned.generate
    monkeypatch.setattr(tuned, "generate", lambda *a, seed, **o: seeds.append(seed) or generate(*a, seed=seed, **o))
    values = suite.generate(("rgb", "depth"), seed=7)
    assert seeds == [7, 9, 11]
    own = merged.options["depth"]
    one = [suite.generate(("rgb", "depth"), seed=seed, merged=1, options=own) for seed in (7, 9, 11)]
    np.testing.assert_allclose(values[1], np.median([values[1] for values in one], axis=0))
    del seeds[:]
    suite.generate(("rgb", "depth"), seed=7, options={"steps": 1})
    assert seeds == [7]
