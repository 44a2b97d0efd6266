"""``FourM``: values in, values out."""

import inspect
import json
from collections import Counter, UserDict
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from open4m import modalities, weights
from open4m.generate import outputs, verbs
from open4m.generate.masks import Cells, Masked
from open4m.generate.options import Options, StepOptions
from open4m.generate.pipeline import FourM
from open4m.generate.plan import Step
from open4m.generate.results import Generation
from open4m.modalities.given import InForm
from open4m.model.config import Direction
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Boxes, Open4MError

VERBS = ("extract", "sampled", "guide", "inpaint", "outpaint", "vary", "edit", "probe", "probe_weight")
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))


def test_an_image_is_given_as_pixels_and_all_else_is_made_from_it(model):
    result = model.generate({"rgb": IMAGE}, ["depth", "caption", "boxes", "semseg"], seed=3)
    assert result["depth"].shape == (32, 32)
    assert isinstance(result["caption"], str)
    assert isinstance(result["boxes"], Boxes)
    assert result["semseg"].dtype == np.uint8
    assert result.render("depth", 99).size == (99, 99)
    assert (result.seed, [step.target for step in result.plan]) == (3, ["depth", "caption", "boxes", "semseg"])


@pytest.mark.parametrize(
    ("given", "how", "scheme", "temperature"),
    [
        ({"rgb": IMAGE}, {}, "maskgit", 0.0),
        ({"rgb@tokens": IMAGE, "caption": "a ball"}, {}, "maskgit", 0.0),
        ({"rgb": IMAGE}, {"samples": 1, "temperature": 0}, "maskgit", 0.0),
        ({"rgb": IMAGE}, {"samples": 2}, "roar", 1.0),
        ({"rgb": IMAGE}, {"temperature": 0.5}, "roar", 0.5),
        ({"rgb": IMAGE}, {"top_p": 0.9}, "roar", 1.0),
        ({"rgb": IMAGE}, {"depth": {"top_k": 3}}, "roar", 1.0),
        ({"rgb": IMAGE}, {"defaults": {}}, "roar", 1.0),
        ({"rgb": Masked(IMAGE, (0, 0, 0.5, 1))}, {}, "roar", 1.0),
        ({"caption": "a ball"}, {}, "roar", 1.0),
        ({"caption": "a ball"}, {"defaults": {"depth": {"scheme": "halton"}}}, "halton", 1.0),
    ],
)
def test_what_is_read_off_a_photo_is_the_likeliest_unless_samples_are_asked_for(model, given, how, scheme, temperature):
    results = model.generate(given, ["depth"], **how)
    [step] = (results[0] if isinstance(results, list) else results).plan
    assert (step.scheme, step.temperature) == (scheme, temperature)


def test_samples_of_a_photo_differ_and_predictions_do_not(model):
    predicted = model.generate([IMAGE, {"depth": np.ones((9, 9))}, IMAGE], ["semseg", "caption"], seed=1)
    assert [result.plan[0].temperature for result in predicted] == [0.0, 1.0, 0.0]
    assert [result.seed for result in predicted] == [1, 2, 3]
    assert same_tokens(predicted[0], predicted[2])
    assert not same_tokens(*model.generate(IMAGE, ["semseg", "caption"], samples=2, seed=1))
    with pytest.raises(Open4MError, match="one batch is generated in one way"):
        next(model.passes([IMAGE, {"caption": "a ball"}], "semseg"))


def test_a_list_gives_a_list_and_each_result_is_that_of_its_own_seed(model):
    inputs = [{"rgb": IMAGE}, {"caption": "a red cube"}, {"caption": "a ball", "depth": np.full((9, 9), 2.0)}]
    results = model.generate(inputs, ["semseg", "boxes"], seed=5)
    for i, single in enumerate(inputs):
        alone = model.generate(single, ["semseg", "boxes"], seed=5 + i)
        assert all(np.array_equal(alone.tokens[key], results[i].tokens[key]) for key in ("semseg", "boxes"))
    assert model.generate([], ["rgb"]) == []


# ---- what notebooks type


def same_tokens(one, other):
    return one.tokens.keys() == other.tokens.keys() and all(
        np.array_equal(one.tokens[key], other.tokens[key]) for key in one.tokens
    )


def test_an_image_alone_is_the_photo_however_it_is_given(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    IMAGE.save("a.png")
    array = np.asarray(IMAGE)
    expected = model.generate({"rgb": IMAGE}, ["depth"], temperature=0.0)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for way in (IMAGE, array, tensor, tensor / 255, "a.png", Path("a.png"), {"rgb": "a.png"}, {"rgb": tensor}):
        result = model.generate(way, "depth", temperature=0.0)
        assert isinstance(result, Generation)
        assert same_tokens(result, expected)
        torch.testing.assert_close(model.features(way), model.features({"rgb": IMAGE}))
    for several in ([IMAGE, "a.png"], tensor[None].repeat(2, 1, 1, 1), np.stack([array] * 2), iter([IMAGE, array])):
        results = model.generate(several, "depth", temperature=0.0)
        assert len(results) == 2
        assert all(same_tokens(result, expected) for result in results)
    assert len(model.generate(tensor[None], "depth")) == 1  # a batch of one is a batch


def test_samples_are_one_list_and_a_batch_changes_none_of_them(model):
    inputs = [{"caption": "a ball"}, {"rgb": IMAGE}, {"caption": "a red cube"}]
    whole = model.generate(inputs, ["semseg", "boxes"], samples=2, seed=5)
    assert [result.seed for result in whole] == [5, 6, 7, 8, 9, 10]
    assert ["caption" in result.given for result in whole] == [True, True, False, False, True, True]
    passes = []
    for size in (1, 4):
        parts = model.generate(inputs, ["semseg", "boxes"], samples=2, seed=5, batch_size=size, watch=passes.append)
        assert all(same_tokens(one, other) for one, other in zip(whole, parts, strict=True))
    assert max(snapshot.canvas.size for snapshot in passes) == 4
    assert len(model.generate({"rgb": IMAGE}, "depth", samples=1)) == 1  # a list, since a number of samples was said
    assert [r.seed for r in model.generate({"rgb": IMAGE}, "depth", samples=2, seed=[9, 3])] == [9, 3]


def test_a_mistake_in_the_last_batch_is_found_before_the_first_pass(model):
    passes, inputs = [], [{"caption": "a ball"}, {"caption": "a cube"}, {"caption": 3}]
    with pytest.raises(Open4MError, match="sample 2: caption: expected a str"):
        model.generate(inputs, "rgb", batch_size=1, watch=passes.append)
    assert not passes


def test_a_value_names_its_form(model):
    meters = np.random.default_rng(0).uniform(1, 9, (16, 16)).astype(np.float32)
    expected = model.generate({"depth": meters}, "semseg", temperature=0.0)
    result = model.generate({"depth": InForm(1 / meters, "inverse")}, "semseg", temperature=0.0)
    assert same_tokens(result, expected)
    np.testing.assert_allclose(result.given["depth"], meters, rtol=1e-6)
    part = model.generate({"depth": Masked(InForm(1 / meters, "inverse"), (0, 0, 0.5, 1))}, "depth", temperature=0.0)
    np.testing.assert_array_equal(part.in_form("depth", "millimeters"), (part["depth"] * 1000).round().clip(1))


def test_options_are_parameters_with_names_types_and_words():
    parameters = inspect.signature(FourM.generate).parameters
    steps = {field.name for field in fields(Step)} - {"target"}
    assert steps == {*StepOptions.__annotations__}
    assert {*Options.__annotations__} <= parameters.keys()
    assert all(parameter.annotation for name, parameter in parameters.items() if name != "self")
    words = FourM.generate.__doc__
    assert [name for name in parameters if f"``{name}``" not in words] == ["self", "per_target"]
    for verb in VERBS:
        hints = inspect.signature(getattr(verbs, verb)).parameters["options"].annotation
        assert hints == "Unpack[Options]"


def test_a_model_moves_and_shows_itself_on_one_screen(model, tmp_path):
    model.save(tmp_path / "model")
    own = FourM.from_pretrained(tmp_path / "model")
    assert (own.device.type, own.dtype) == ("cpu", torch.float32)
    assert own.to("cpu", torch.bfloat16) is own
    assert own.dtype == torch.bfloat16
    assert own.grids["depth"].model.mean.dtype == torch.float32
    assert own.generate(IMAGE, ["depth", "caption"])["depth"].dtype == np.float32
    assert own.features(IMAGE).dtype == torch.bfloat16
    assert own.to(torch.float32).dtype == torch.float32
    assert FourM.from_pretrained(tmp_path / "model", "cpu", torch.bfloat16).dtype == torch.bfloat16
    lines = repr(own).splitlines()
    assert str(tmp_path / "model") in lines[0]
    assert len(lines) == 2 + len(own.config.modalities) < 40
    assert all(len(line) < 120 for line in lines[1:])
    for wrong, message in ((torch.int64, "floating-point type"), ("nowhere", "device 'nowhere': not available")):
        with pytest.raises(Open4MError, match=message):
            own.to(wrong)


def test_a_model_in_eight_bits_is_another_one_until_it_is_not(model, tmp_path):
    model.save(tmp_path / "model")
    own = FourM.from_pretrained(tmp_path / "model")

    def result():
        made = own.generate(IMAGE, ["depth"], seed=1)
        return made.log_probability["depth"].tolist(), own.fingerprint

    exact = result()
    assert own.to(torch.int8) is own
    assert "int8" in repr(own)
    rounded = result()
    assert rounded[1] != exact[1]
    assert rounded[0] != exact[0]
    assert rounded == result()
    assert FourM.from_pretrained(tmp_path / "model", dtype=torch.int8).fingerprint == rounded[1]
    own.save(tmp_path / "saved")  # what is saved is the model that was loaded
    assert FourM.from_pretrained(tmp_path / "saved").fingerprint == exact[1]
    own.to(torch.float32)
    assert result() == exact


def test_a_generated_sequence_ends_with_eos_and_nothing_else_that_ends_it(model):
    for seed in range(5):
        tokens = model.generate({"rgb": IMAGE}, ["caption"], seed=seed).tokens["caption"].tolist()
        assert tokens[-1] == model.text.eos
        assert not set(tokens[:-1]) & {model.text.eos, *model.text.sentinels}
        assert len(tokens) <= 8


def test_boxes_beside_a_wide_image_are_seen_as_its_central_square_shows_them(model):
    boxes = Boxes([[0.25, 0.0, 0.5, 1.0], [0.8, 0.0, 1.0, 1.0]], ["cube", "ball"])
    canvas = next(model.passes([{"rgb": IMAGE, "boxes": boxes}, {"boxes": boxes}], ["depth"], defaults={})).canvas
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
        ({"depth": np.ones((4, 4))}, ["depth"], {}, "depth is both given and a target"),
        ({"rgb": IMAGE}, ["depth", "rgb"], {}, "rgb is both given and a target"),
        ({"rgb_pixels": IMAGE}, ["rgb"], {}, "rgb is both given, as rgb_pixels, and a target"),
        (
            {"rgb": Masked(IMAGE, (0.25, 0, 0.5, 1)), "rgb_pixels": IMAGE},
            ["rgb"],
            {},
            "rgb is both given, as rgb_pixels, and a target",
        ),
        ([{"caption": "a ball"}, {"rgb": IMAGE}], ["rgb"], {}, "rgb is both given and a target"),
        ({"rgb": IMAGE}, "dept", {}, "did you mean depth"),
        ({"rgb": IMAGE}, 3, {}, r"targets: expected a modality or a list of them, such as \['rgb'\], got 3"),
        ({"rgb": IMAGE}, ["depth"], {"num_inference_steps": 3}, "did you mean steps"),
        ({"rgb": IMAGE}, ["depth"], {"num_images_per_prompt": 3}, "did you mean samples"),
        ({"rgb": IMAGE}, ["depth"], {"stepps": 3}, "unknown generation option 'stepps'; did you mean steps"),
        ({"rgb": IMAGE}, ["depth"], {"samples": 0}, "samples must be a whole number, 1 or more, got 0"),
        ({"rgb": IMAGE}, ["depth"], {"samples": True}, "samples must be a whole number, 1 or more, got True"),
        ({"rgb": IMAGE}, ["depth"], {"batch_size": 0.5}, "batch_size must be a whole number, 1 or more, got 0.5"),
        ({"rgb": IMAGE}, ["depth"], {"samples": 3, "seed": [1, 2]}, "one seed, or one for each of 3 results, got 2"),
        ({"rgb": IMAGE}, ["normals", "caption"], {}, "normals: this model does not read it .* generate normals last"),
        ({"rgb": IMAGE}, ["normals"], {"normals": {"steps": 2}}, "normals: expected one pass .* got 2 passes"),
        ({"rgb": IMAGE, "caption": "a ball", "rgb_pixels": IMAGE}, ["depth"], {}, "rgb and rgb_pixels are the same"),
        ({"rgb": IMAGE}, ["depth"], {"guidance": {"rgb": 2.0, "rgb_pixels": 1.0}}, "of which two are the same"),
        ([], ["dept"], {}, "did you mean depth"),
        ([], ["depth"], {"steps": 0}, "steps must be"),
        (["a ball"], ["depth"], {}, "inputs: no image file 'a ball'; a text is given as {'caption': ...}"),
        ([{"caption": "a ball"}] * 2 + [{"caption": 3}], ["rgb"], {}, "sample 2: caption: expected a str"),
        ({"rgb": IMAGE}, ["depth"], {"conditions": {"avoid": "a ball"}}, "conditions: expected values by modality"),
        ({"rgb": IMAGE}, ["depth"], {"conditions": "a ball"}, "conditions: expected values by modality"),
        ({"depth": np.full((4, 4), np.nan)}, ["rgb"], {}, "depth: no pixel holds a measurement"),
        ({"caption": 3}, ["rgb"], {}, "caption: expected a str"),
        ({"boxes": [{"box": [0, 0, 1, 1], "label": "whale"}]}, ["rgb"], {}, "whale"),
        ({"normals": np.float32([[[0, 0, 1]]])}, ["rgb"], {}, r"not trained to read it \(inputs: rgb_pixels, rgb, "),
        ({"caption": "a red cube on a blue ball on a red cube"}, ["rgb"], {}, r"caption: 12 tokens .* at most 8"),
        ({"boxes": [{"box": [0, 0, 1, 1], "label": "ball"}] * 4}, ["rgb"], {}, r"boxes: 21 tokens .* at most 16"),
        ({"depth": Masked(np.ones((9, 9)), np.zeros((9, 9)))}, ["depth"], {}, "depth: no cell is masked"),
        ({"rgb": IMAGE}, ["depth"], {"seed": -1}, "seed must be"),
        ({"rgb": IMAGE}, ["depth"], {"seed": 1 << 62}, r"0 or more and below 2\*\*62, got 4611686018427387904"),
        ({"rgb": IMAGE}, ["depth"], {"seed": np.array(3)}, r"seed must be a whole number, .* got array\(3\)"),
        (None, ["depth"], {}, r"inputs: expected values by modality, .*, an image, or a list of these, got None"),
        ([[IMAGE]], ["depth"], {}, r"inputs: expected values by modality, .*, or a list of these, got \["),
        (3, ["depth"], {}, "inputs: expected values by modality, .* got 3"),
        ("rgb", ["depth"], {}, "inputs: no image file 'rgb'; a text is given as {'caption': ...}"),
        ({3: IMAGE}, ["depth"], {}, r"unknown modality 3 \(allowed: "),
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
    part, quarter = Masked(IMAGE, (0.25, 0, 0.5, 0.5)), [True] * 16
    quarter[0] = quarter[1] = quarter[4] = quarter[5] = False
    canvas = next(model.passes({"rgb": part, "depth": np.full((9, 18), 2.0)}, ["semseg", "rgb"])).canvas
    assert canvas.known["rgb"].tolist() == [quarter]
    assert canvas.known["depth"].all()
    canvas = next(model.passes({"rgb": part}, ["depth"])).canvas
    assert canvas.known["rgb_pixels"].tolist() == [quarter]


def test_gaps_of_a_text_are_filled_in(model):
    a, ball = model.text.encode_text("a ball")
    results = model.generate({"caption": "a [_] ball", "rgb": IMAGE}, ["caption", "depth"], samples=8)
    for result in results:
        tokens = result.tokens["caption"].tolist()
        assert tokens[0] == a
        assert tokens[-2:] == [ball, model.text.eos]
        assert result["caption"] == model.decode("caption", result.tokens["caption"])
        assert np.isnan(result.log_probability["caption"]).tolist() == [True, *[False] * (len(tokens) - 3), True, True]
    assert len({result["caption"] for result in results}) > 1
    words = next(model.passes({"caption": "a [_] ball"}, ["depth"])).canvas.sequences["caption"][0]
    assert not {*words} & {*model.text.sentinels}  # of what is no target, all is said
    for text, message in (("[_] " * 12, "caption: expected at most 11 gaps"), ("a red cube [_] on a ball", "no room")):
        with pytest.raises(Open4MError, match=message):
            model.generate({"caption": text}, ["caption"])


@pytest.mark.parametrize("mask", [(0, 0, 1, 1), Cells((0,)), np.ones((1, 1))])
@pytest.mark.parametrize("targets", [["caption"], ["rgb"]])
def test_only_images_and_maps_have_parts(model, mask, targets):
    with pytest.raises(Open4MError, match="caption: only images and maps can be masked: give it whole, or leave it"):
        model.generate({"caption": Masked("a ball", mask)}, targets)


def test_an_image_may_be_given_as_its_tokens_where_the_model_reads_pixels_too(model):
    """As the low resolution of a cascade is (A.1), and to compare the two (E.1)."""

    def seen(*names, **options):
        return next(model.passes(dict.fromkeys(names, IMAGE), ["depth"], steps=1, **options)).canvas

    for names, keys in (
        (["rgb"], {"rgb_pixels"}),
        (["rgb_pixels"], {"rgb_pixels"}),
        (["rgb@tokens"], {"rgb"}),
        (["rgb", "rgb@tokens"], {"rgb", "rgb_pixels"}),
        (["rgb_pixels", "rgb@tokens"], {"rgb", "rgb_pixels"}),
    ):
        canvas = seen(*names)
        assert {*canvas.present} - {"depth"} == keys
        if "rgb" in keys:
            assert np.array_equal(canvas.grids["rgb"][0], model.encode("rgb", IMAGE))
            assert canvas.known["rgb"].all()
    both = {"rgb": IMAGE, "rgb@tokens": IMAGE}
    guided = model.generate(both, ["depth"], guidance={"rgb": 2.0, "rgb@tokens": 3.0})
    assert guided.plan[0].guidance == {"rgb_pixels": 2.0, "rgb": 3.0}
    pixels, tokens = (model.token_features({name: IMAGE}) for name in ("rgb", "rgb@tokens"))
    assert pixels.modality.unique().tolist() == [model.config.index("rgb_pixels")]
    assert tokens.modality.unique().tolist() == [model.config.index("rgb")]
    part = Masked(IMAGE, (0.25, 0, 0.5, 1))
    assert next(model.passes({"rgb@tokens": part}, ["depth"])).canvas.known["rgb"].sum() == 8
    for inputs, target, message in (
        ({"rgb@tokens": IMAGE}, "rgb", "rgb is both given, as rgb@tokens, and a target"),
        ({"rgb": IMAGE, "rgb_pixels": IMAGE}, "depth", "are the same: give one; the tokens .* called rgb@tokens"),
        ({"depth@tokens": np.ones((4, 4)), "depth": np.ones((4, 4))}, "rgb", "depth@tokens and depth are the same"),
        ({"rgbb@tokens": IMAGE}, "depth", "unknown modality 'rgbb@tokens'; did you mean rgb@tokens"),
        ({"normals@tokens": np.float32([[[0, 0, 1]]])}, "depth", "normals@tokens: this model was not trained to read"),
    ):
        with pytest.raises(Open4MError, match=message):
            model.generate(inputs, [target])


def test_guidance_may_name_modalities_and_conditions(model):
    inputs = {"rgb": IMAGE, "caption": "a red cube"}
    guided = model.generate(
        inputs, ["depth"], guidance={"rgb": 2.0, "avoid": -1.0}, conditions={"avoid": {"caption": "a blue ball"}}
    )
    assert guided.plan[0].guidance == {"rgb_pixels": 2.0, "avoid": -1.0}  # pixels are what was read
    several = model.generate([inputs, {**inputs, "caption": "a ball"}], ["depth"], guidance={"caption": 3.0})
    assert len(several) == 2
    with pytest.raises(Open4MError, match=r"depth: guidance by boxes, which is not given \(given: rgb, caption\)"):
        model.generate(inputs, ["depth"], guidance={"boxes": 2.0})
    with pytest.raises(Open4MError, match="a condition is called caption, which is a modality"):
        model.generate(inputs, ["depth"], conditions={"caption": {"caption": "a ball"}})


def test_what_was_generated_before_guides_what_follows(model):
    def made(**guidance):
        plan = ["rgb", Step(target="depth", steps=3, guidance=guidance)]
        return model.generate({"caption": "a ball"}, plan, seed=2)

    one, two = made(rgb=1.0), made(rgb=9.0)
    assert two.plan[1].guidance == {"rgb": 9.0}  # its tokens, though this model has a reader of its pixels
    assert np.array_equal(one.tokens["rgb"], two.tokens["rgb"])
    assert not np.array_equal(one.tokens["depth"], two.tokens["depth"])


def test_guidance_is_checked_for_the_whole_plan_before_the_first_pass(model, monkeypatch):
    monkeypatch.setattr(model.engine, "passes", lambda *_: pytest.fail("a pass was made"))
    plan = ["rgb", Step(target="depth", guidance={"rgb": 2.0, "depth": 2.0, "semseg": 1.0})]
    with pytest.raises(Open4MError, match=r"depth: guidance by depth, semseg, .* \(given: caption, rgb, avoid\)"):
        model.generate({"caption": "a ball"}, plan, conditions={"avoid": {"caption": "a cube"}})


def test_what_samples_share_is_converted_and_encoded_once(model, monkeypatch):
    counts = Counter()

    def counted(owner, name, what):
        original = getattr(owner, name)

        def call(*arguments, **options):
            counts[what] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    counted(type(modalities.get("rgb")), "convert", "image converted")
    counted(type(modalities.get("rgb_pixels")), "pixels", "image read")
    counted(Tokenizer, "encode", "map encoded")
    counted(type(modalities.get("caption")), "encode", "text encoded")
    shared = {"rgb": IMAGE, "semseg": np.zeros((16, 32), np.uint8)}
    inputs = [{**shared, "caption": text} for text in ("a cube", "a ball", "a cube", "a ball")]
    guided = {"guidance": {"avoid": -1.0}, "conditions": {"avoid": {"caption": "a floor"}}}
    model.generate(inputs[0], ["depth"], **guided)
    alone = counts.copy()
    counts.clear()
    results = model.generate(inputs, ["depth"], seed=[1, 1, 1, 2], **guided)
    assert counts == alone + Counter({"text encoded": 1})
    assert (alone["image read"], alone["map encoded"], alone["text encoded"]) == (1, 1, 2)
    assert np.array_equal(results[0].tokens["depth"], results[2].tokens["depth"])
    assert [result.given["caption"] for result in results] == ["a cube", "a ball", "a cube", "a ball"]


def test_boxes_that_samples_share_are_each_seen_by_their_own_image(model):
    boxes = Boxes([[0.25, 0.0, 0.5, 1.0]], ["cube"])
    square, tall = IMAGE.crop((0, 0, 20, 20)), IMAGE.resize((20, 40))
    inputs = [{"rgb": image, "boxes": boxes} for image in (IMAGE, square, tall)]
    rows = next(model.passes(inputs, ["depth"])).canvas.sequences["boxes"]
    corners = [model.decode("boxes", row).corners[0] for row in rows]
    np.testing.assert_allclose(corners, [[0, 0, 0.5, 1], [0.25, 0, 0.5, 1], [0.25, 0, 0.5, 1]], atol=1e-3)


def test_a_mapping_that_makes_its_values_anew_is_fine(model):
    class Lazy(UserDict):
        def __getitem__(self, name):
            return Image.new("RGB", (8, 8), (super().__getitem__(name),) * 3)

    inputs = [Lazy(rgb=n) for n in range(200)]
    results = model.generate(inputs, ["depth"], steps=1)
    assert [result.given["rgb"].max() for result in results] == list(range(200))


# ---- what a model was trained for


@pytest.fixture
def trained(model):
    """Of the tiny model's modalities, semantic classes only of depth, images of texts or of classes."""
    directions = (
        Direction(inputs=("depth",), targets=("semseg",)),
        Direction(inputs=("caption", "boxes"), targets=("rgb", "caption")),
        Direction(inputs=("semseg",), targets=("rgb",)),
    )
    network = FourMTransformer(replace(model.config, directions=directions))
    network.load_state_dict(model.model.state_dict())
    return FourM(network, model.grids, model.text)


def test_a_direction_that_was_not_trained_is_an_error_that_says_what_was(trained):
    depth = np.full((9, 9), 2.0)
    for inputs, targets in (
        ({"depth": depth}, ["semseg", "rgb"]),
        ({"caption": "a ball", "depth": depth}, ["rgb"]),
        ({}, ["rgb"]),
        ({"semseg": Masked(np.zeros((16, 16), np.uint8), (0, 0, 0.5, 1)), "depth": depth}, ["semseg"]),
    ):
        trained.generate(inputs, targets)
    for inputs, targets, message in (
        (
            {"depth": depth},
            ["rgb"],
            r"rgb: .*not trained to generate it from depth alone \(from: semseg, caption, boxes",
        ),
        ({"caption": "a ball"}, ["rgb", "semseg"], r"semseg: .* from caption, rgb alone \(from: depth\)"),
        ([{"caption": "a ball"}, {"depth": depth}], ["rgb"], "rgb: .* from depth alone"),
    ):
        with pytest.raises(Open4MError, match=message):
            trained.generate(inputs, targets)


@pytest.mark.usefixtures("unchecked")
def test_directions_are_saved_and_leave_the_fingerprint_as_it_is(model, trained, tmp_path):
    trained.save(tmp_path / "model")
    again = FourM.from_pretrained(tmp_path / "model")
    assert again.config.directions == trained.config.directions
    assert again.fingerprint == trained.fingerprint == model.fingerprint
    path = tmp_path / "model" / weights.CONFIG
    content = json.loads(path.read_text())
    del content["directions"]  # as it was before there were any
    path.write_text(json.dumps(content))
    assert FourM.from_pretrained(tmp_path / "model").config == model.config


def test_seeds_may_be_given_one_a_sample(model):
    inputs = [{"rgb": IMAGE}] * 3
    results = model.generate(inputs, ["depth"], seed=[7, 7, 9])
    assert [r.seed for r in results] == [7, 7, 9]
    assert np.array_equal(results[0].tokens["depth"], results[1].tokens["depth"])
    for wrong in ([1], [1, 2, -3], [1, 2, 0.5]):
        with pytest.raises(Open4MError, match=r"seed"):
            model.generate(inputs, ["depth"], seed=wrong)


@pytest.mark.parametrize("scheme", ["roar", "maskgit"])
def test_passes_can_be_looked_at_while_they_are_made(model, scheme):
    plan = [Step(target="depth", scheme=scheme, steps=4, schedule="linear"), "caption"]
    known = []
    for progress in model.passes([{"rgb": IMAGE}] * 2, plan, seed=1, entropies=True):
        result, second = progress.results()
        assert np.array_equal(progress.result(1).tokens["depth"], second.tokens["depth"])
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
    inputs = {"rgb": IMAGE, "depth": Masked(np.full((9, 18), 2.0), (0, 0, 0.5, 1)), "caption": "a ball"}
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


def test_depth_without_units_is_written_as_such(model, tmp_path):
    """A tokenizer that standardizes decodes what no depth in meters can hold."""
    own = model.grids["depth"]
    network = VQVAE(replace(own.config, standardize=True), torch.Generator().manual_seed(0))
    other = FourM(model.model, {**model.grids, "depth": Tokenizer(network)}, model.text)
    result = other.generate({"caption": "a ball"}, ["depth"], steps=1)
    assert result["depth"].min() < 0
    list(outputs.write_values(other, [result], tmp_path))
    assert np.array_equal(np.load(tmp_path / "depth.standardized.npy"), result["depth"])
    assert not list(tmp_path.glob("depth.depth*"))


def test_generation_can_be_watched(model):
    seen = []
    model.generate({"rgb": IMAGE}, ["depth"], steps=3, watch=lambda progress: seen.append(progress.made.number))
    assert seen == [1, 2, 3]
