"""Super-resolution: a second model makes larger grids of the first one's tokens (paper A.1)."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_upscaler import saved

from open4m.generate import record
from open4m.generate.pipeline import FourM
from open4m.generate.planned import chooser
from open4m.generate.request import Generate, Request
from open4m.generate.upscale import carried
from open4m.hub.parts import Chosen
from open4m.model.fourm import FourMTransformer
from open4m.model.plans import Plans
from open4m.types import Open4MError

CAPTION = "a red cube on a ball"


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    return saved(model, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def both(folders):
    return FourM.from_pretrained(folders / "first", chosen=Chosen(super_resolution=folders / "second"))


def made_by_hand(both, result, targets):
    """The second model's own generation from the tokens of a result."""
    second = both.upscaler
    canvas = both._canvas([dict(result.given)], [result.frame])
    for key in ("depth", "rgb"):
        canvas.grids[key] = torch.from_numpy(result.tokens[key])[None]
        canvas.known[key] = torch.ones(1, 16, dtype=torch.bool)
    shown = carried(canvas, second.config)
    assert shown.present == ["depth", "rgb", "caption"]
    plan = [step for step in result.plan if step.target in targets]
    return second.engine.run(shown, plan, [result.seed])


def test_the_second_model_reads_the_tokens_of_the_first(both):
    targets = ["depth@64", "rgb@64"]
    result = both.generate({"caption": CAPTION}, ["depth", "rgb"], upscale=True, guidance=2.0, seed=3)
    assert [step.target for step in result.plan] == ["depth", "rgb", *targets]
    assert result["rgb"].shape == (32, 32, 3)
    assert result["rgb@64"].shape == (64, 64, 3)
    assert result["depth@64"].shape == (64, 64)
    assert result.log_probability["rgb@64"].shape == (8, 8)
    expected = made_by_hand(both, result, targets)
    for key in targets:
        assert np.array_equal(result.tokens[key], expected.grids[key][0].numpy())
    plain = both.generate({"caption": CAPTION}, ["depth", "rgb"], guidance=2.0, seed=3)
    assert all(np.array_equal(plain.tokens[key], result.tokens[key]) for key in plain.tokens)
    other = both.generate({"caption": CAPTION}, ["depth", "rgb"], guidance=2.0, seed=4, upscale=True)
    assert not np.array_equal(result.tokens["rgb@64"], other.tokens["rgb@64"])


def test_options_are_for_both_stages_or_for_one(both):
    result = both.generate({"caption": CAPTION}, "rgb", upscale=True, steps=3, **{"rgb@64": {"steps": 2}})
    assert [(step.target, step.steps) for step in result.plan] == [("rgb", 3), ("rgb@64", 2)]
    weighted = both.generate(
        {"caption": CAPTION, "depth": np.ones((8, 8), np.float32)},
        "rgb",
        upscale=True,
        guidance={"caption": 3.0, "avoid": -1.0},
        conditions={"avoid": {"caption": "a ball"}},
    )
    assert weighted.plan[1].guidance == {"caption": 3.0, "avoid": -1.0}


def test_what_the_photo_shows_is_likeliest_at_both_sizes(both, image):
    result = both.generate(image, "depth", upscale=True)
    assert [(step.target, step.temperature) for step in result.plan] == [("depth", 0.0), ("depth@64", 0.0)]
    several = both.generate([image, image], ["depth", "caption"], upscale=True, samples=2, seed=1)
    assert len(several) == 4
    assert all("depth@64" in result.values and "caption" in result.values for result in several)


@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        ("caption", {}, r"upscale: the model of super-resolution makes .*rgb@64.* no larger grids of caption"),
        ("rgb", {"depth@64": {"steps": 2}}, "depth@64"),
        ("rgb", {"rgb@64": {"stepps": 2}}, "stepps"),
        ("rgb", {"rgb@64": {"steps": 0}}, "steps must be 1"),
    ],
)
def test_what_cannot_be_is_refused_before_a_pass(both, targets, options, message, monkeypatch):
    monkeypatch.setattr(both.engine, "passes", lambda *_: pytest.fail("a pass was made"))
    with pytest.raises(Open4MError, match=message):
        both.generate({"caption": CAPTION}, targets, upscale=True, **options)


def test_without_a_second_model_it_is_said_what_to_do(model):
    with pytest.raises(Open4MError, match=r"no model of super-resolution; .*--super-resolution"):
        model.generate({"caption": CAPTION}, "rgb", upscale=True)


def test_a_directory_holds_both_models_and_makes_the_same(both, tmp_path):
    both.save(tmp_path / "model")
    folders = sorted(path.name for path in (tmp_path / "model" / "tokenizers").iterdir())
    assert folders == ["depth", "normals", "rgb", "semseg", "semseg@64", "text"]  # rgb serves rgb@64
    again = FourM.from_pretrained(tmp_path / "model")
    assert again.fingerprint == both.fingerprint
    assert again.upscaler.fingerprint == both.upscaler.fingerprint
    how = {"upscale": True, "seed": 5}
    one, two = (model.generate({"caption": CAPTION}, ["rgb", "semseg"], **how) for model in (both, again))
    assert one.tokens.keys() == two.tokens.keys() == {"rgb", "semseg", "rgb@64", "semseg@64"}
    assert all(np.array_equal(one.tokens[key], two.tokens[key]) for key in one.tokens)
    assert set(np.unique(one["semseg@64"])) <= {0, 1, 2}


def test_a_record_makes_it_again(both, tmp_path):
    request = Generate(given={"caption": CAPTION}, targets=("rgb",), options={"rgb@64": {"steps": 2}}, upscale=True)
    assert Request.from_json(request.to_json()).upscale
    made = both.generate({"caption": CAPTION}, "rgb", upscale=True, **{"rgb@64": {"steps": 2}})
    folder = made.save(tmp_path / "out")
    assert {"rgb.png", "rgb@64.png", "rgb@64_view.png", "grid.png"} <= {path.name for path in folder.iterdir()}
    found = record.read(folder / record.NAME)
    assert (found.request.targets, found.request.upscale) == (("rgb",), True)
    assert record.differences(found, found.request.run(both).results) == []


def test_a_second_model_with_other_tokenizers_is_refused(folders, model, tmp_path):
    stranger = FourM.from_pretrained(folders / "second")
    other = FourM(stranger.model, {"rgb": model.grids["rgb"]}, None)
    other.save(tmp_path / "other")
    both = FourM.from_pretrained(folders / "first", chosen=Chosen(super_resolution=tmp_path / "other"))
    with pytest.raises(Open4MError, match="made for other tokenizers of rgb"):
        _ = both.upscaler


def test_a_second_model_that_reads_shorter_texts_is_refused(folders, tmp_path):
    """A text without its end is another condition."""
    stranger = FourM.from_pretrained(folders / "second")
    specs = [replace(spec, max_length=3) if spec.key == "caption" else spec for spec in stranger.config.modalities]
    config = replace(stranger.config, modalities=tuple(specs))
    FourM(FourMTransformer(config), stranger.grids, None).save(tmp_path / "short")
    both = FourM.from_pretrained(folders / "first", chosen=Chosen(super_resolution=tmp_path / "short"))
    with pytest.raises(Open4MError, match="reads at most 3 tokens of caption, the first model up to"):
        _ = both.upscaler


def test_both_models_are_moved(folders, monkeypatch):
    both = FourM.from_pretrained(folders / "first", chosen=Chosen(super_resolution=folders / "second"))
    both.to(torch.bfloat16)
    assert both.upscaler.dtype == torch.bfloat16
    both.to(torch.int8)
    assert (both.upscaler.dtype, both.upscaler.precision) == (torch.float32, "int8")
    monkeypatch.setattr("open4m.fourm.find_device", torch.device)  # which refuses the one that is on every machine
    both.to("meta")
    assert both.upscaler.device.type == "meta"


def test_a_preset_has_options_for_larger_grids_too():
    targets, choose = chooser(Plans(), ["caption", "rgb"], {}, preset="demo", larger=["rgb@448"])
    options = choose({"caption": CAPTION}).options
    assert targets == ["rgb", "caption"]
    assert options.keys() == {"rgb", "caption", "rgb@448"}
    assert options["rgb@448"] != options["rgb"]
