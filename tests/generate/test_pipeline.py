"""``FourM``: values in, values out."""

import numpy as np
import pytest
import torch
from PIL import Image

from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.types import Boxes, Open4MError

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))


def test_an_image_is_given_as_pixels_and_all_else_is_made_from_it(model):
    result = model.generate({"rgb": IMAGE}, ["depth", "caption", "boxes", "rgb"], seed=3)
    assert result["depth"].shape == (32, 32)
    assert isinstance(result["caption"], str)
    assert isinstance(result["boxes"], Boxes)
    assert result["rgb"].dtype == np.uint8
    assert result.render("depth", 99).size == (99, 99)
    assert (result.seed, [step.target for step in result.plan]) == (3, ["depth", "caption", "boxes", "rgb"])


def test_a_list_gives_a_list_and_each_result_is_that_of_its_own_seed(model):
    inputs = [{"rgb": IMAGE}, {"caption": "a red cube"}, {"caption": "a ball", "depth": np.full((9, 9), 2.0)}]
    results = model.generate(inputs, ["rgb", "boxes"], seed=5)
    for i, single in enumerate(inputs):
        alone = model.generate(single, ["rgb", "boxes"], seed=5 + i)
        assert all(np.array_equal(alone.tokens[key], results[i].tokens[key]) for key in ("rgb", "boxes"))
    assert model.generate([], ["rgb"]) == []


def test_a_generated_sequence_ends_with_eos_and_nothing_else_that_ends_it(model):
    for seed in range(5):
        tokens = model.generate({"rgb": IMAGE}, ["caption"], seed=seed).tokens["caption"].tolist()
        assert tokens[-1] == model.text.eos
        assert not set(tokens[:-1]) & {model.text.eos, *model.text.sentinels}
        assert len(tokens) <= 8


def test_boxes_beside_a_wide_image_are_seen_as_its_central_square_shows_them(model):
    boxes = Boxes([[0.25, 0.0, 0.5, 1.0], [0.8, 0.0, 1.0, 1.0]], ["cube", "ball"])
    canvas = model._canvas([{"rgb": IMAGE, "boxes": boxes}, {"boxes": boxes}])
    beside, alone = (model.decode("boxes", row) for row in canvas.sequences["boxes"])
    assert np.allclose(beside.corners, [[0, 0, 0.5, 1]], atol=1e-3)  # of the square from a quarter to three quarters
    assert np.allclose(alone.corners, boxes.corners, atol=1e-3)


def test_a_saved_model_generates_the_same(model, tmp_path):
    model.save(tmp_path / "model")
    again = FourM.from_pretrained(tmp_path / "model")
    for targets in (["depth"], ["caption"]):
        expected = model.generate({"rgb": IMAGE}, targets).tokens[targets[0]]
        assert np.array_equal(again.generate({"rgb": IMAGE}, targets).tokens[targets[0]], expected)


def test_loading_leaves_the_global_generator_alone(model, tmp_path):
    model.save(tmp_path / "model")
    state = torch.random.get_rng_state()
    FourM.from_pretrained(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("inputs", "targets", "options", "message"),
    [
        ({"rgb": IMAGE}, [], {}, "no target"),
        ({"rgb": IMAGE}, ["dept"], {}, "did you mean depth"),
        ({"rgb": IMAGE}, ["rgb_pixels"], {}, r"not trained to predict it \(targets: rgb, depth, semseg, normals,"),
        ({"sound": 1}, ["depth"], {}, "unknown modality 'sound'"),
        ({"depth": np.ones((4, 4))}, ["depth"], {}, "both given and a target"),
        ({"depth": np.full((4, 4), np.nan)}, ["rgb"], {}, "depth: expected finite depth"),
        ({"caption": 3}, ["rgb"], {}, "caption: expected a str"),
        ({"boxes": [{"box": [0, 0, 1, 1], "label": "whale"}]}, ["rgb"], {}, "whale"),
        ({"normals": np.float32([[[0, 0, 1]]])}, ["rgb"], {}, r"not trained to read it \(inputs: rgb_pixels, rgb, "),
        ({"caption": "a red cube on a blue ball on a red cube"}, ["rgb"], {}, r"caption: 12 tokens .* at most 8"),
        ({"boxes": [{"box": [0, 0, 1, 1], "label": "ball"}] * 4}, ["rgb"], {}, r"boxes: 21 tokens .* at most 16"),
        ({"depth": Masked(np.ones((9, 9)), np.zeros((9, 9)))}, ["depth"], {}, "depth: no cell is masked"),
        ({"rgb": IMAGE}, ["depth"], {"seed": -1}, "seed must be"),
        ({"rgb": IMAGE}, ["depth"], {"steps": 10**9}, "steps must be"),
    ],
)
def test_a_mistake_is_an_error_that_says_what_is_allowed(model, inputs, targets, options, message):
    with pytest.raises(Open4MError, match=message):
        model.generate(inputs, targets, **options)


# ---- parts, conditions, progress


def test_a_target_given_in_part_keeps_what_is_known(model):
    whole = model.encode("rgb", IMAGE)
    left = np.zeros((20, 40))
    left[:, :20] = 1  # of the central square, its left half
    for seed in range(3):
        result = model.generate({"rgb": Masked(IMAGE, left), "caption": "a ball"}, ["rgb"], seed=seed)
        tokens = result.tokens["rgb"].reshape(4, 4)
        assert np.array_equal(tokens[:, 2:], whole.reshape(4, 4)[:, 2:])
        assert np.array_equal(np.isnan(result.log_probability["rgb"]), [[False, False, True, True]] * 4)
    results = [model.generate({"rgb": Masked(IMAGE, left)}, ["rgb"], seed=s).tokens["rgb"].tolist() for s in range(8)]
    assert len(set(map(tuple, results))) > 1


def test_a_condition_given_in_part_shows_no_more(model):
    canvas = model._canvas([{"rgb": Masked(IMAGE, (0.25, 0, 0.5, 0.5)), "depth": np.full((9, 9), 2.0)}], {"rgb"})
    quarter = [True] * 16
    quarter[0] = quarter[1] = quarter[4] = quarter[5] = False
    assert canvas.known["rgb"].tolist() == [quarter]
    assert canvas.known["depth"].all()
    canvas = model._canvas([{"rgb": Masked(IMAGE, (0.25, 0, 0.5, 0.5))}])
    assert canvas.known["rgb_pixels"].tolist() == [quarter]
    with pytest.raises(Open4MError, match="caption: a part of it can be masked of images and maps only"):
        model._canvas([{"caption": Masked("a ball", (0, 0, 1, 1))}])


def test_guidance_may_name_modalities_and_conditions(model):
    inputs = {"rgb": IMAGE, "caption": "a red cube"}
    guided = model.generate(
        inputs, ["depth"], guidance={"rgb": 2.0, "avoid": -1.0}, conditions={"avoid": {"caption": "a blue ball"}}
    )
    assert guided.plan[0].guidance == {"rgb_pixels": 2.0, "avoid": -1.0}  # pixels are what was read
    several = model.generate([inputs, {**inputs, "caption": "a ball"}], ["depth"], guidance={"caption": 3.0})
    assert len(several) == 2
    with pytest.raises(Open4MError, match="depth: guidance by boxes, which is not given"):
        model.generate(inputs, ["depth"], guidance={"boxes": 2.0})
    with pytest.raises(Open4MError, match="a condition is called caption, which is a modality"):
        model.generate(inputs, ["depth"], conditions={"caption": {"caption": "a ball"}})


def test_seeds_may_be_given_one_a_sample(model):
    inputs = [{"rgb": IMAGE}] * 3
    results = model.generate(inputs, ["depth"], seed=[7, 7, 9])
    assert [r.seed for r in results] == [7, 7, 9]
    assert np.array_equal(results[0].tokens["depth"], results[1].tokens["depth"])
    for wrong in ([1], [1, 2, -3], [1, 2, 0.5]):
        with pytest.raises(Open4MError, match=r"seed"):
            model.generate(inputs, ["depth"], seed=wrong)


def test_passes_can_be_looked_at_while_they_are_made(model):
    plan = [Step(target="depth", scheme="roar", steps=4, schedule="linear"), "caption"]
    known = []
    for progress in model.passes({"rgb": IMAGE}, plan, seed=1, entropies=True):
        result = progress.results()[0]
        if progress.made.step.target == "depth":
            known.append(int(np.isfinite(result.log_probability["depth"]).sum()))
            assert np.array_equal(np.isfinite(result.entropy["depth"]), np.isfinite(result.log_probability["depth"]))
            assert result["depth"].shape == (32, 32)
    assert known == [4, 8, 12, 16]
    last = model.generate({"rgb": IMAGE}, plan, seed=1, entropies=True)
    for key in ("depth", "caption"):
        assert np.array_equal(result.tokens[key], last.tokens[key])
        assert result.entropy[key].shape == result.log_probability[key].shape


def test_a_result_tells_what_it_was_made_of_and_is_made_again_of_it(model):
    inputs = {"rgb": IMAGE, "depth": Masked(np.full((9, 9), 2.0), (0, 0, 0.5, 1)), "caption": "a ball"}
    first = model.generate(inputs, ["depth"], seed=3, conditions={"avoid": {"caption": "a cube"}})
    assert np.array_equal(first.given["rgb"], np.asarray(IMAGE))
    assert first.conditions == {"avoid": {"caption": "a cube"}}
    again = model.generate(first.given, first.plan, seed=first.seed, conditions=first.conditions)
    assert np.array_equal(again.tokens["depth"], first.tokens["depth"])


def test_what_is_too_long_is_only_cut_to_say_how_good_a_prediction_can_be(model):
    caption = "a red cube on a blue ball on a red cube"
    with pytest.raises(Open4MError, match="12 tokens"):
        model.encode("caption", caption)
    assert model.reconstruct(caption, "caption") == "a red cube on a blue ball"


def test_a_fingerprint_is_that_of_all_that_decides_about_tokens(model, tmp_path):
    model.save(tmp_path / "model")
    again = FourM.from_pretrained(tmp_path / "model")
    assert again.fingerprint == model.fingerprint
    with torch.no_grad():
        again.model.embeddings.mask_token += 1e-6
    assert again.fingerprint != model.fingerprint
    again = FourM.from_pretrained(tmp_path / "model")
    del again.grids["depth"]
    assert again.fingerprint != model.fingerprint


def test_generation_can_be_watched(model):
    seen = []
    model.generate({"rgb": IMAGE}, ["depth"], steps=3, watch=lambda progress: seen.append(progress.made.number))
    assert seen == [1, 2, 3]
