"""Presets: the order and the options of the authors' demo, below what a call says."""

import json

import pytest
import torch
from PIL import Image

from open4m.generate.plan import Step
from open4m.generate.presets import PRESETS, preset_of
from open4m.generate.request import Request
from open4m.hub.ml4m import demo
from open4m.hub.ml4m.names import DOMAINS
from open4m.types import Open4MError

DEMO = PRESETS["demo"]
IMAGE = Image.new("RGB", (16, 16), (200, 30, 30))


def test_targets_have_the_order_of_the_preset():
    assert DEMO.ordered(["boxes", "caption", "rgb", "mine", "depth", "clip"]) == [
        "clip",
        "depth",
        "rgb",
        "caption",
        "boxes",
        "mine",
    ]
    step = Step(target="clip")
    assert DEMO.ordered(["rgb@448", step]) == [step, "rgb@448"]
    assert DEMO.ordered("depth") == ["depth"]


def test_every_domain_of_the_demo_has_options_that_a_step_takes():
    for domain in demo.ORDER:
        for from_photo in (True, False):
            found = DEMO.defaults([DOMAINS[domain]], from_photo)[DOMAINS[domain]]
            step = Step(target=DOMAINS[domain], **found)
            assert (step.top_p, step.limit_first) == (0.8, True)
            assert step.announced == step.open_end == (not step.guided) == (step.scheme == "left_to_right")
    assert DEMO.defaults(["dinov2_global", Step(target="rgb")], True) == {"dinov2_global": {}}


@pytest.mark.parametrize(
    ("key", "from_photo", "expected"),
    [
        ("clip", True, {"steps": 1, "temperature": 0.01, "guidance": 2.0}),
        ("clip", False, {"steps": 50, "temperature": (5.0, 0.5), "guidance": 3.0}),
        ("dinov2", False, {"steps": 8, "temperature": 0.01}),
        ("semseg", False, {"steps": 8, "temperature": (3.0, 0.5), "cooling": "onex"}),
        ("rgb", False, {"steps": 25, "schedule": "even", "scheme": "roar"}),
        ("caption", True, {"temperature": 0.3, "guidance": 1.0}),
        ("sam_instance", False, {"temperature": 0.01, "steps": 256}),
        ("rgb@448", True, {"scheme": "maskgit", "schedule": "bell", "steps": 8, "guidance": 2.0}),
    ],
)
def test_the_options_are_those_of_the_demo(key, from_photo, expected):
    found = DEMO.defaults([key], from_photo)[key]
    assert expected.items() <= found.items()


def test_a_preset_is_below_what_a_call_says_and_depends_on_what_is_given(model):
    plans = []
    inputs = [{"rgb": IMAGE}, {"caption": "a ball"}]
    model.generate(inputs, ["boxes", "semseg"], preset="demo", watch=lambda seen: plans.append(seen.plan), seed=3)
    assert [step.target for step in plans[0]] == ["semseg", "boxes"]
    assert [plan[0].steps for plan in plans[:1] + plans[-1:]] == [1, 8]
    plans.clear()
    model.generate(inputs[1], "semseg", preset="demo", steps=2, watch=lambda seen: plans.append(seen.plan))
    assert (plans[0][0].steps, plans[0][0].temperature) == (2, (3.0, 0.5))
    made = [*model.passes(inputs[0], ["semseg"], preset="demo", temperature=0.0)]
    again = model.generate(inputs[0], "semseg", preset="demo", temperature=0.0)
    assert torch.equal(torch.as_tensor(made[-1].results()[0].tokens["semseg"]), torch.as_tensor(again.tokens["semseg"]))
    with pytest.raises(Open4MError, match="preset='demo' is a set of defaults: say it, or defaults, not both"):
        model.generate(inputs[0], "semseg", preset="demo", defaults={})
    with pytest.raises(Open4MError, match=r"unknown preset 'them' \(presets: demo\)"):
        preset_of("them")


def test_a_request_holds_a_preset(model):
    request = Request.from_json(
        {"verb": "extract", "given": {"caption": {"text": "a"}}, "targets": ["semseg"], "preset": "demo"}
    )
    assert Request.from_json(json.loads(json.dumps(request.to_json()))).preset == "demo"
    how = request.settings(model, ["caption"])
    assert how["preset"] == "demo"
    assert "scheme" not in how  # an extraction's own defaults give way
    with pytest.raises(Open4MError, match="unknown preset 'other'"):
        Request.from_json({"verb": "extract", "given": {}, "targets": ["semseg"], "preset": "other"})
