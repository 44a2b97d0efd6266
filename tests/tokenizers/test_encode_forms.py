"""What ``Tokenizer.encode`` takes and ``decode`` gives back, and what a tokenizer says of itself."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from open4m import modalities
from open4m.modalities.crops import Crop
from open4m.modalities.families import STANDARDIZED
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig, tensor_of
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

TINY = ViTConfig(width=32, depth=1, heads=2)
CLASSES = ("sky", "floor", "chest of drawers, low")
PALETTE = ((120, 120, 120), (0, 0, 0), (6, 51, 255))
DEPTH, NORMALS = modalities.get("depth"), modalities.get("normals")


def config(modality, **fields):
    known = {"image_size": 16, "patch_size": 8, "codebook_size": 64, "encoder": TINY, "decoder": TINY}
    if modality == "depth" and not fields.get("standardize"):
        known |= {"mean": (3.0,), "std": (1.5,)}
    if modality == "semseg":
        known |= {"channels": 6, "class_names": CLASSES, "palette": PALETTE}
    return TokenizerConfig.of(modality, **{**known, **fields})


def tokenizer(modality, quality=None, **fields):
    """Its latents are of all directions, so that other values have other tokens."""
    model = VQVAE(config(modality, **fields), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return Tokenizer(model, quality)


def meters(height, width, seed=0):
    y, x = np.mgrid[:height, :width] / max(height, width)
    a, b = np.random.default_rng(seed).uniform(1, 6, 2)
    return (1.5 + np.sin(a * 3 * x) + y * b).round(3).astype(np.float32)


def vectors(height, width, seed=0):
    field = np.random.default_rng(seed).standard_normal((height, width, 3))
    return field / np.linalg.norm(field, axis=-1, keepdims=True)


SIZES = [(16, 16), (24, 37), (9, 5)]


# ---- depth


def test_every_form_of_a_depth_has_the_same_tokens():
    own = tokenizer("depth")
    for seed, size in enumerate(SIZES):
        depth = meters(*size, seed)
        expected = own.encode(depth)
        stored = (depth.astype(np.float64) * 1000).round().astype(np.uint16)
        assert Image.fromarray(stored).mode == "I;16"
        for same, form in (
            (depth, "meters"),
            (stored, "millimeters"),
            (Image.fromarray(stored), "millimeters"),
            (1 / depth.astype(np.float64), "inverse"),
            (Image.fromarray(depth), None),
        ):
            assert np.array_equal(own.encode(same, form=form), expected)
        assert not np.array_equal(own.encode(1 / depth), expected)


def test_lists_of_unequal_sizes_have_one_form():
    own = tokenizer("depth")
    values = [meters(*size, seed) for seed, size in enumerate(SIZES)]
    tokens = own.encode([1 / value for value in values], form="inverse")
    assert [t.shape for t in tokens] == [(2, 2)] * 3
    for one, value in zip(tokens, values, strict=True):
        assert np.array_equal(one, own.encode(value))
    decoded = own.decode(tokens, form="inverse")
    for one, grid in zip(decoded, tokens, strict=True):
        np.testing.assert_allclose(one, own.decode(grid, form="inverse"), rtol=1e-5)  # a batch sums in another order


def test_depth_is_decoded_in_every_form():
    own, ids = tokenizer("depth"), np.array([[3, 40], [9, 22]])
    value = own.decode(ids)
    assert np.array_equal(own.decode(ids, form="meters"), value)
    millimeters, inverse, standardized = (own.decode(ids, form=f) for f in ("millimeters", "inverse", STANDARDIZED))
    assert (millimeters.dtype, inverse.dtype, standardized.dtype) == (np.uint16, np.float32, np.float32)
    np.testing.assert_allclose(millimeters / 1000, value, atol=0.00051)
    np.testing.assert_allclose(1 / inverse, value, rtol=1e-6)
    np.testing.assert_array_equal(standardized, DEPTH.to_form(value, STANDARDIZED))


def test_depth_without_units_is_not_taken_by_a_tokenizer_that_needs_them():
    with pytest.raises(Open4MError, match=r"'standardized' has no units, .* give one of meters, millimeters, inverse$"):
        tokenizer("depth").encode(np.zeros((16, 16)), form=STANDARDIZED)


@pytest.mark.parametrize("modality", ["rgb", "depth"])
def test_another_form_is_refused_with_those_that_there_are(modality):
    for own in (tokenizer(modality), tokenizer("depth", standardize=True)):
        message = f"{own.modality.name}: no form is called 'feet'; its forms are {', '.join(own.modality.forms)}$"
        for encode in (
            lambda own: own.encode(np.ones((16, 16)), form="feet"),
            lambda own: own.decode(np.zeros((2, 2), int), form="feet"),
        ):
            with pytest.raises(Open4MError, match=message):
                encode(own)


# ---- a tokenizer that standardizes


def test_metric_depth_is_standardized_as_it_is_seen():
    own = tokenizer("depth", standardize=True)
    for seed, size in enumerate(SIZES):
        depth = meters(*size, seed)
        seen = DEPTH.crop(depth, Crop.center(*size, 16))  # what lies outside has no say
        standardized = DEPTH.to_form(seen, STANDARDIZED)
        with torch.no_grad():
            expected = own.model.encode(torch.from_numpy(standardized)[None, None])[0].numpy()
        stored = (depth.astype(np.float64) * 1000).round().astype(np.uint16)
        for same, form in (
            (depth, None),
            (depth, "meters"),
            (stored, "millimeters"),
            (1 / depth, "inverse"),
            (standardized, STANDARDIZED),
            (3 * depth + 1, None),
        ):
            assert np.array_equal(own.encode(same, form=form), expected)
        assert np.array_equal(own.encode_batch([seen]), expected.reshape(1, 4))
    assert own.encode_batch([]).shape == (0, 4)


def test_standardized_values_are_taken_as_they_are():
    own = tokenizer("depth", standardize=True)
    value = 0.1 * DEPTH.to_form(meters(16, 16), STANDARDIZED) - 1  # standardized again, it would not be so
    with torch.no_grad():
        expected = own.model.encode(torch.from_numpy(value)[None, None])[0].numpy()
    assert np.array_equal(own.encode(value, form=STANDARDIZED), expected)
    assert not np.array_equal(own.encode(value + 3), expected)


def test_what_it_decodes_has_no_units():
    own, ids = tokenizer("depth", standardize=True), np.array([[3, 40], [9, 22]])
    value = own.decode(ids)
    with torch.no_grad():
        expected = own.model.decode(torch.from_numpy(ids)[None])[0, 0].numpy()
    np.testing.assert_array_equal(value, expected)
    assert value.min() < 0 < value.max()
    assert np.array_equal(own.decode(ids, form=STANDARDIZED), value)
    assert np.array_equal(own.decode_batch(ids.reshape(1, 4))[0], value)
    for form in ("meters", "millimeters", "inverse"):
        with pytest.raises(Open4MError, match=f"form '{form}': .* no units; its only form is 'standardized'"):
            own.decode(ids, form=form)
    assert modalities.get("depth").render(value, 32).size == (32, 32)


def test_it_is_measured_without_units():
    own, values = tokenizer("depth", standardize=True), [meters(16, 16, seed) for seed in range(3)]
    decoded = own.decode_batch(own.encode_batch(values))
    figures = own.metrics(decoded, values)
    assert figures == {"standardized_l1": DEPTH.metrics(decoded, values)["standardized_l1"]}
    assert own.better == {"standardized_l1": "lower"}
    assert own.metrics([DEPTH.to_form(v, STANDARDIZED) for v in values], values)["standardized_l1"] < 1e-5
    plain = tokenizer("depth")
    assert plain.better == DEPTH.better
    assert set(plain.metrics(values, values)) == {"abs_rel", "standardized_l1"}


def test_only_depth_is_standardized():
    with pytest.raises(Open4MError, match="normals: values have no form 'standardized'"):
        tokenizer("normals", standardize=True)


def test_training_reads_what_using_reads():
    depth = meters(16, 16)
    assert np.array_equal(tensor_of(depth, config("depth"), DEPTH)[0], depth)
    standardized = tensor_of(depth, config("depth", standardize=True), DEPTH)[0]
    assert np.array_equal(standardized, DEPTH.to_form(depth, STANDARDIZED))
    with pytest.raises(Open4MError, match="standardize is True, not False"):
        tokenizer("depth", mean=(0.0,), std=(1.0,)).model.init_from(tokenizer("depth", standardize=True).model)


# ---- normals


@pytest.mark.parametrize(("form", "signs"), [("opengl", (1, 1, 1)), ("opencv", (1, -1, -1)), ("directx", (1, -1, 1))])
def test_normals_go_in_and_come_out_in_a_form(form, signs):
    own = tokenizer("normals")
    for seed, size in enumerate(SIZES):
        field = vectors(*size, seed)
        expected = own.encode(field)
        assert np.array_equal(own.encode(field * signs, form=form), expected)
        image = ((field + 1) * 127.5).round().astype(np.uint8)
        turned = np.where(np.array(signs) > 0, image, 255 - image).astype(np.uint8)
        assert np.array_equal(own.encode(Image.fromarray(turned), form=form), own.encode(Image.fromarray(image)))
        np.testing.assert_allclose(own.decode(expected, form=form), own.decode(expected) * signs, atol=1e-7)
    if form != "opengl":
        assert not np.array_equal(own.encode(field * signs), expected)


# ---- classes


@pytest.mark.parametrize("size", SIZES)
def test_classes_go_in_and_come_out_as_colors(size):
    own = tokenizer("semseg")
    ids = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    colors = np.array(PALETTE, np.uint8)[ids]
    tokens = own.encode(ids)
    indexed = Image.fromarray(ids).convert("L")
    indexed.putpalette([part for color in PALETTE for part in color])
    assert indexed.mode == "P"
    for same, form in (
        (colors, "colors"),
        (Image.fromarray(colors), "colors"),
        (indexed, "colors"),
        (indexed, "ids"),
        (Image.fromarray(ids), "ids"),
        (Image.fromarray(ids.astype(np.uint16)), None),
    ):
        assert np.array_equal(own.encode(same, form=form), tokens)
    drawn = own.decode(tokens, form="colors")
    assert (drawn.shape, drawn.dtype) == ((16, 16, 3), np.uint8)
    assert np.array_equal(drawn, np.array(PALETTE, np.uint8)[own.decode(tokens)])


def test_colors_need_the_tokenizers_palette():
    colors = np.zeros((16, 16, 3), np.uint8)
    for convert in (
        lambda own: own.encode(colors, form="colors"),
        lambda own: own.decode(np.zeros((2, 2), int), form="colors"),
    ):
        with pytest.raises(Open4MError, match="needs a palette, and the tokenizer has none"):
            convert(tokenizer("semseg", palette=()))
    with pytest.raises(Open4MError, match=r"256 pixels have the color \(1, 0, 0\)"):
        tokenizer("semseg").encode(colors + np.uint8([1, 0, 0]), form="colors")


@pytest.mark.parametrize(
    ("modality", "palette", "message"),
    [
        ("semseg", PALETTE[:2], "the palette has 2 colors for 3 classes"),
        (
            "semseg",
            ((0, 0, 0), (1, 1, 1), (0, 0, 0)),
            r"class 'chest of drawers, low' has the color \(0, 0, 0\) of 'sky'; each class needs its own",
        ),
        ("semseg", ((0, 0, 0), (1, 1, 256), (2, 2, 2)), r"class 'floor' has the color \(1, 1, 256\); red, green and"),
        ("semseg", ((0, -1, 0), (1, 1, 1), (2, 2, 2)), ".* are from 0 to 255"),
        ("semseg", ((0, 0), (1, 1, 1), (2, 2, 2)), r"class 'sky' has the color \(0, 0\); red, green and blue"),
        ("depth", ((0, 0, 0),), "the palette has 1 colors for 0 classes"),
    ],
)
def test_impossible_palettes_are_explained(modality, palette, message):
    with pytest.raises(Open4MError, match=f"tokenizer of {modality}: {message}"):
        config(modality, palette=palette)


# ---- at rest


@pytest.mark.parametrize("own", [tokenizer("semseg"), tokenizer("depth", standardize=True)], ids=["palette", "depth"])
def test_what_forms_need_is_saved(own, tmp_path):
    own.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.config == own.config
    assert loaded.fingerprint == own.fingerprint
    ids = np.array([[3, 40], [9, 22]])
    assert np.array_equal(loaded.decode(ids), own.decode(ids))


@pytest.mark.usefixtures("unchecked")
def test_tokenizers_that_were_saved_before_there_were_forms_are_loaded(tmp_path):
    own = tokenizer("depth")
    own.save(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    del fields["standardize"], fields["palette"]
    path.write_text(json.dumps(fields))
    assert Tokenizer.load(tmp_path).config == own.config


def test_a_palette_makes_no_other_tokens_but_standardizing_does():
    one, other = tokenizer("semseg"), tokenizer("semseg", palette=())
    assert one.fingerprint == other.fingerprint
    plain = {"mean": (0.0,), "std": (1.0,)}
    assert tokenizer("depth", **plain).fingerprint != tokenizer("depth", standardize=True).fingerprint


# ---- what it says of itself


def lines_of(own):
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in str(own).splitlines()}


def test_a_tokenizer_says_what_it_is():
    own = tokenizer("depth", {"abs_rel": 0.0321987, "code_usage": 1.0})
    assert own.describe() == str(own)
    assert lines_of(own) == {
        "tokenizer": "depth, depth in meters",
        "tokens": "2×2 of 16×16 pixels",
        "codebook": "64 codes of 32 dimensions (vq)",
        "decoder": "ViT",
        "normalization": "mean 3, deviation 1.5",
        "forms": "meters, millimeters, inverse, standardized",
        "quality": "abs_rel 0.0322, code_usage 1",
    }
    assert "trimmed mean and deviation; decoded values have no units" in str(tokenizer("depth", standardize=True))


def test_it_names_classes_resolutions_decoders_and_cells():
    many = tuple(f"class {i}" for i in range(20))
    lines = lines_of(tokenizer("semseg", class_names=many, palette=(), resolutions=(16, 24)))
    assert lines["classes"] == "20: " + ", ".join(many[:8]) + ", ..."
    assert lines["palette"] == "none"
    assert lines["resolutions"] == "trained at 16, 24 pixels"
    assert lines["quality"] == "not measured"
    lines = lines_of(tokenizer("semseg"))
    assert lines["classes"] == "3: " + ", ".join(CLASSES)
    assert lines["palette"] == "one color per class"
    unet = UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1)
    diffusion = tokenizer("normals", decoder=unet, diffusion=DiffusionConfig(steps=3))
    assert lines_of(diffusion)["decoder"] == "diffusion, 3 steps of ddim"
    clip = lines_of(tokenizer("clip", image_size=4, patch_size=1, channels=12))
    assert clip["tokens"] == "4×4 of 4×4 cells"
    assert "forms" not in clip


def test_a_configuration_is_not_changed_by_what_is_encoded():
    own = tokenizer("depth", standardize=True)
    before, value = dataclasses.asdict(own.config), meters(24, 37)
    copy = value.copy()
    own.encode(value)
    assert np.array_equal(value, copy)
    assert dataclasses.asdict(own.config) == before
