"""What every modality promises, tested over every file that is found: a new one is tested without writing a test."""

import io
import itertools
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from symbol_values import EXAMPLES, OBJECT, PERSON

from open4m import modalities
from open4m.cli.main import main
from open4m.datasets.scenes import CLASSES, OBJECT_CLASSES, Scenes
from open4m.modalities.crops import Crop, augment, filled, resample
from open4m.modalities.families import Modality, PixelGrid, TokenGrid, TokenSequence, VectorSequence
from open4m.modalities.features import Vector
from open4m.nn.mlp import MLPConfig
from open4m.nn.vit import ViTConfig
from open4m.pictures import STRIPES
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import VQVAE
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Boxes, Open4MError

NAMES = modalities.names()
GRIDS = [n for n in NAMES if isinstance(modalities.get(n), TokenGrid)]
SEQUENCES = [n for n in NAMES if isinstance(modalities.get(n), TokenSequence)]
SIDE = 64


@pytest.fixture(scope="module")
def samples():
    return Scenes(resolution=SIDE).samples([0, 1, 2])


@pytest.fixture(scope="module")
def text(samples):
    captions = [s["caption"] for s in samples]
    words = dict.fromkeys(word for name in SEQUENCES for word in modalities.get(name).words)
    return TextTokenizer.fit(captions, [*OBJECT_CLASSES, *words], vocab_size=4400, bins=1000, sentinels=4)


def values_of(name, samples):
    """Values of any modality: of a scene if it has such, else random ones that its family says are possible."""
    modality, rng = modalities.get(name), np.random.default_rng(3)
    if name in samples[0]:
        return [s[name] for s in samples]
    if modality.source in samples[0]:
        return [modality.derive(s[modality.source]) for s in samples]
    if name in EXAMPLES:
        return [modality.convert(value) for value in EXAMPLES[name]]
    if isinstance(modality, VectorSequence):
        return [rng.standard_normal((length, 12)).astype(np.float16).astype(np.float32) for length in (5, 1, 0)]
    assert isinstance(modality, TokenGrid), f"scenes have no {name}: give this test values of it"
    if isinstance(modality, Vector):
        return [rng.standard_normal(modality.channels or 12).astype(np.float32) for _ in samples]
    side = 8 if modality.feature_map else SIDE
    if modality.channels == 1:  # strengths, and yes or no
        maps = [rng.integers(0, 256, (side, side), dtype=np.uint8) for _ in samples]
        return [modality.convert(value if modality.repeated else value > 127) for value in maps]
    if modality.categorical:
        return [rng.integers(0, 9, (side, side)) for _ in samples]
    return [rng.standard_normal((side, side, modality.channels or 12)).astype(np.float32) for _ in samples]


@pytest.fixture(params=NAMES)
def case(request, samples):
    """(modality, values)."""
    return modalities.get(request.param), values_of(request.param, samples)


def assert_same(one, other, tolerance=0.0):
    """Equal values; arrays and corners within a tolerance, absolute for small numbers and relative for large ones."""
    assert type(one) is type(other)
    if isinstance(one, Boxes):
        assert one.labels == other.labels
        np.testing.assert_allclose(one.corners, other.corners, atol=max(tolerance, 1e-6))
    elif isinstance(one, np.ndarray):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(one.astype(np.float64), other.astype(np.float64), atol=tolerance, rtol=tolerance)
    else:
        assert one == other


# ---- at rest


def test_a_file_holds_the_value_to_its_storage_precision(case):
    modality, values = case
    for value in values:
        data = modality.write(value)
        assert isinstance(data, bytes)
        back = modality.read(data)
        if isinstance(modality, PixelGrid):  # JPEG
            assert np.abs(back.astype(int) - value).mean() < 3
        else:
            # 8-bit normals are off by at most √3/255 = 0.007, half floats by 2⁻¹¹ of their size; the rest is exact
            exact = not (isinstance(value, np.ndarray) and value.dtype.kind == "f")
            assert_same(back, value, 0.0 if exact else 0.0075)
        assert_same(modality.convert(back), back, 1e-6)


def test_what_it_is_called_is_consistent(case):
    modality, _ = case
    assert isinstance(modality, Modality)
    assert modality.description
    assert modality.extension
    assert all(direction in ("lower", "higher") for direction in modality.better.values())
    if modality.source is not None:
        assert modality.source in NAMES


def test_what_others_call_it_is_said_of_one_modality(case):
    modality, _ = case
    others = {alias for name in NAMES if name != modality.name for alias in (name, *modalities.get(name).aliases)}
    assert all(alias == alias.lower() and alias not in others for alias in modality.aliases)


def test_facts_are_numbers_and_counts(case):
    modality, values = case
    for value in values:
        facts = modality.facts(value)
        assert all(isinstance(fact, (int, float, Counter)) for fact in facts.values())
        assert all(np.isfinite(fact) for fact in facts.values() if not isinstance(fact, Counter))


@given(st.data())
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_hold_no_value_are_refused_by_name(name, samples, data):
    modality = modalities.get(name)
    good = bytearray(modality.write(values_of(name, samples)[0]))
    kind = data.draw(st.sampled_from(["garbage", "cut", "flipped", "zip"]))
    if kind == "garbage":
        good = data.draw(st.binary(max_size=40))
    elif kind == "zip":
        good = b"PK\x03\x04" + data.draw(st.binary(max_size=20))
    elif kind == "cut":
        good = good[: data.draw(st.integers(0, len(good) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 5))):
            good[data.draw(st.integers(0, min(len(good), 300) - 1))] = data.draw(st.integers(0, 255))
    try:
        modality.convert(modality.read(bytes(good)))  # what happens to be readable is a value
    except Open4MError as error:
        named = str(error).startswith((f"{name}:", f"{modality.source}:"))
        if not named:
            raise


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_no_grid_is_read_from_garbage(name, data):
    with pytest.raises(Open4MError, match=f"^{name}:"):
        modalities.get(name).read(data)


def test_pickled_arrays_and_other_types_are_not_read():
    for array in (np.array([[{}]], dtype=object), np.zeros((4, 4), dtype=np.int64), np.zeros(4)):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        for name in ("depth", "clip"):
            with pytest.raises(Open4MError, match=f"^{name}:"):
                modalities.get(name).read(buffer.getvalue())


# ---- what users have


@pytest.mark.parametrize("name", [n for n in NAMES if n not in SEQUENCES])
@pytest.mark.parametrize(
    "bad",
    [
        None,
        "text",
        object(),
        3,
        [],
        np.zeros(5),
        np.zeros((4, 4, 4, 4), np.float32),
        np.full((8, 8, 3), np.nan, np.float32),
        np.full((8, 8), np.nan, np.float32),
        np.full((8, 8), np.inf),
        np.zeros((0, 8), np.uint8),
        np.zeros((8, 0, 3), np.float32),
        np.zeros((8, 8), dtype=complex),
        np.array([["a"]]),
    ],
    ids=lambda b: f"{type(b).__name__}{getattr(b, 'dtype', '')}{getattr(b, 'shape', '')}",
)
def test_grids_refuse_what_they_are_not_by_name(name, bad):
    modality = modalities.get(name)
    with pytest.raises(Open4MError, match=f"^({name}|{modality.source}):"):
        modality.convert(bad)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("rgb", np.full((8, 8, 3), 1.5), "floats in"),
        ("rgb", np.zeros((8, 8, 3), np.int64), "uint8"),
        ("rgb", np.zeros((8, 8, 2), np.uint8), r"\(8, 8, 2\)"),
        ("depth", np.full((8, 8), -1.0), "above 0 m"),
        ("depth", np.array([[1.0, np.inf]]), "finite depth"),
        ("depth", np.zeros((8, 8)), "no pixel holds a measurement"),
        ("normals", np.ones((8, 8, 3), np.float32), "lengths from 1.732"),
        ("normals", np.zeros((8, 8, 3), np.uint8), "floats"),
        ("semseg", np.full((8, 8), -1), "from 0"),
        ("semseg", np.zeros((8, 8)), "integer"),
        ("dinov2_global", np.zeros(5), "a direction, got zeros"),
        ("imagebind_global", np.ones((1, 5)), "float vector"),
        ("human_pose", np.ones(69), "a vector of 207 numbers, got 69"),
        ("human_pose", [1, 2], "got int64"),
        ("clip", np.zeros((8, 8, 4), np.int64), "float feature map"),
        ("caption", b"x", "expected a str, got bytes"),
        ("caption", None, "expected a str"),
        ("boxes", 5, "expected Boxes or"),
        ("boxes", [{"box": [0, 0, 1, 1]}], "label"),
        ("boxes", [{"box": [0, 0, 1], "label": "a"}], "expected Boxes or"),
        ("boxes", [{"box": [0, 0, 2, 1], "label": "a"}], "fractions"),
        ("color_palette", ["#12345"], "up to 7 colors, like .*got '#12345'"),
        ("color_palette", [[0, 0, 256]], r"got \[0, 0, 256\]"),
        ("color_palette", ["#fff"] * 8, "got 8 colors"),
        ("metadata", {"brightnes": 3}, "'brightnes': got 3; kinds are original_width, "),
        ("metadata", {"brightness": float("nan")}, "'brightness': got nan"),
        ("metadata", {"brightness": True}, "'brightness': got True"),
        ("metadata", {"codes": {"brightness": 50}}, "codes are from 0 to 49, got 50"),
        ("metadata", ["brightness"], "expected a dictionary of kinds .*got list"),
        ("human_poses", [{**PERSON, "tokens": None}], "without rotations and tokens"),
        ("human_poses", [{**PERSON, "tokens": [1024] * 8}], "8 whole numbers from 0 to 1023"),
        ("human_poses", [{**PERSON, "rotations": [0.0] * 9}], r"207 or 69 numbers of at most 1e\+30 expected, got 9"),
        ("human_poses", [{**PERSON, "box": [0.5, 0, 0.25, 1]}], "x_min <= x_max"),
        ("human_poses", [{**PERSON, "order": ["pose"]}], "order: expected pose, global, camera, shape in any order"),
        ("human_poses", PERSON, "expected a list .*got dict"),
        ("sam_instance", [{"point": [0.5, 1.5]}], "in fractions of the picture"),
        ("sam_instance", [{"point": [0, 0], "instances": [{"box": [0, 0, 1, 1]}]}], "without a mask and tokens"),
        ("sam_instance", [{"point": [0, 0], "instances": [{**OBJECT, "mask": "ff"}]}], r"mask: expected bool \(64, 64"),
        ("sam_instance", np.zeros((1, 8, 8), np.uint8), "masks are bool, got uint8"),
        ("sam_mask", np.zeros((8, 8)), r"a bool array \(H, W\), got float64"),
        ("canny_edge", np.full((8, 8), 2.0), "strengths of edges"),
        ("canny_edge", np.zeros((8, 8), np.int64), "strengths of edges"),
        ("keypoints_3d", np.full((8, 8), 2.0), r"strengths of keypoints \(H, W\)"),
        ("reshading", np.full((8, 8), -0.1), r"brightness \(H, W\)"),
        ("curvature", np.zeros((8, 8, 3)), r"two curvatures as floats \(H, W, 2\), got float64 \(8, 8, 3\)"),
        ("curvature", np.full((8, 8, 2), 1e39), "that float32 holds"),
        ("curvature", np.full((8, 8, 2), np.nan), "no pixel holds a measurement"),
    ],
)
def test_what_is_wrong_is_said(name, bad, message):
    with pytest.raises(Open4MError, match=f"^{name}: .*{message}"):
        modalities.get(name).convert(bad)


def test_usual_forms_are_converted():
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    rgb = modalities.get("rgb")
    np.testing.assert_array_equal(rgb.convert(image), np.asarray(image))
    np.testing.assert_array_equal(rgb.convert(np.asarray(image) / 255), np.asarray(image))
    np.testing.assert_array_equal(rgb.convert(image.convert("RGBA")), np.asarray(image))
    assert modalities.get("depth").convert(np.ones((2, 3, 1), np.int32)).shape == (2, 3)
    boxes = modalities.get("boxes").convert([{"box": [0, 0.5, 1, 1], "label": "cube"}])
    assert boxes == Boxes([[0, 0.5, 1, 1]], ["cube"])
    with pytest.raises(Open4MError, match=r"^boxes: expected Boxes or a list .*got dict"):
        modalities.get("boxes").read(json.dumps({"a": 1}).encode())


# ---- augmentation


def test_flipping_twice_is_the_identity_and_does_not_touch_its_argument(case):
    modality, values = case
    for value in values:
        before = value.copy() if isinstance(value, np.ndarray) else value
        assert_same(modality.flip(modality.flip(value)), value, 1e-6)
        assert_same(value, before)


def test_a_full_crop_is_the_identity(case):
    modality, values = case
    for value in values:
        size = modality.extent(value) or (32, 32)
        assert_same(modality.crop(value, Crop(size=size)), value, 1e-5)


def test_a_crop_has_the_size_asked_for_and_is_still_a_value(case):
    modality, values = case
    for value, size in itertools.product(values[:2], [(16, 16), (40, 24), (100, 100)]):
        cut = modality.crop(value, Crop(0.1, 0.2, 0.7, 0.5, size))
        assert_same(modality.convert(cut), cut, 1e-6)
        assert modality.extent(cut) == (
            size if isinstance(modality, PixelGrid | TokenGrid) and not isinstance(modality, Vector) else None
        )
        if isinstance(value, np.ndarray):
            assert cut.shape[2:] == value.shape[2:]
            assert cut.dtype == value.dtype


def test_normals_turn_around_in_a_mirror_and_other_maps_do_not(samples):
    normals = samples[0]["normals"]
    np.testing.assert_array_equal(modalities.get("normals").flip(normals), normals[:, ::-1] * [-1, 1, 1])
    for name in ("rgb", "depth", "semseg"):
        np.testing.assert_array_equal(modalities.get(name).flip(samples[0][name]), samples[0][name][:, ::-1])


@pytest.mark.parametrize("caption", ["A cube left of it.", "on the RIGHT", "the leftmost ball"])
def test_a_caption_that_tells_sides_cannot_be_mirrored(caption):
    assert not modalities.get("caption").can_flip(caption)
    assert modalities.get("caption").can_flip("it was bright; leftover light")


@pytest.mark.parametrize(("caption", "mirrored"), [("a cube on the left", False), ("a cube", True)])
def test_a_sample_is_mirrored_if_its_caption_stays_true(samples, caption, mirrored):
    sample = {"caption": caption, "semseg": samples[0]["semseg"]}
    moved = augment(sample, {name: modalities.get(name) for name in sample}, Crop(size=(SIDE, SIDE)), flip=True)
    expected = sample["semseg"][:, ::-1] if mirrored else sample["semseg"]
    np.testing.assert_array_equal(moved["semseg"], expected)
    assert moved["caption"] == caption


def extent(mask):
    """x_min, y_min, x_max, y_max of the True cells, in cells."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([32, 64, 96]))
@settings(max_examples=80, deadline=None)
def test_crops_and_flips_move_one_object_alike_in_all_modalities(seed, flip, size):
    rng = np.random.default_rng(seed)
    x0, y0 = rng.integers(0, SIDE - 20, 2)
    x1, y1 = x0 + rng.integers(12, 20), y0 + rng.integers(12, 20)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[y0:y1, x0:x1] = True
    unit = np.where(inside[..., None], [0.6, 0, 0.8], [0.0, 0, 1]).astype(np.float32)
    sample = {
        "rgb": np.repeat(inside[..., None] * np.uint8(255), 3, 2),
        "semseg": inside.astype(np.uint8),
        "normals": unit,
        "depth": np.where(inside, 2.0, 9.0).astype(np.float32),
        "clip": np.repeat(inside[..., None], 4, 2).astype(np.float32),
        "boxes": Boxes(np.array([[x0, y0, x1, y1]]) / SIDE, ["cube"]),
    }
    crop = Crop.random(SIDE, SIDE, size, rng, scale=(0.3, 1.0))
    moved = augment(sample, {name: modalities.get(name) for name in sample}, crop, flip)
    masks = {
        "rgb": moved["rgb"][..., 0] > 127,
        "semseg": moved["semseg"] == 1,
        "depth": moved["depth"] < 5,
        "normals": np.abs(moved["normals"][..., 0]) > 0.3,
        "clip": moved["clip"][..., 0] > 0.5,
    }
    # by hand: where the rectangle is in the crop, in output pixels
    left, right = ((v / SIDE - crop.left) / crop.width * size for v in (x0, x1))
    top, bottom = ((v / SIDE - crop.top) / crop.height * size for v in (y0, y1))
    if flip:
        left, right = size - right, size - left
    expected = np.array([left, top, right, bottom])
    clipped = expected.clip(0, size)
    area = (right - left) * (bottom - top)
    seen = max(0, clipped[2] - clipped[0]) * max(0, clipped[3] - clipped[1]) / area
    if abs(seen - 0.1) > 1e-4:
        assert len(moved["boxes"]) == (seen > 0.1)
    if seen > 0.1:
        np.testing.assert_allclose(moved["boxes"].corners[0] * size, clipped, atol=1e-3)
        if flip:
            assert (moved["normals"][..., 0] <= 0).all()
    # a pixel belongs to the object if its center does: at most half a pixel off; interpolation adds another half
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) > 2:
        for name, mask in masks.items():
            off = np.abs(extent(mask) - clipped).max()
            assert off <= (0.5 + 1e-6 if name in ("semseg", "depth", "normals") else 1.01), (name, off)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_crops_lie_in_the_image(height, width, seed):
    center = Crop.center(height, width, 32)
    assert center.width * width == pytest.approx(center.height * height)
    assert max(center.width, center.height) == pytest.approx(1)
    assert center.left == pytest.approx((1 - center.width) / 2)
    random = Crop.random(height, width, 32, np.random.default_rng(seed))
    for crop in (center, random):
        assert crop.size == (32, 32)
        assert min(crop.left, crop.top) >= 0
        assert max(crop.left + crop.width, crop.top + crop.height) <= 1 + 1e-9
    again = Crop.random(height, width, 32, np.random.default_rng(seed))
    assert again == random


def test_random_crops_have_the_area_and_aspect_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(300):
        crop = Crop.random(100, 100, 8, rng, scale=(0.3, 0.5), ratio=(0.8, 1.25))
        assert 0.3 - 1e-9 <= crop.width * crop.height <= 0.5 + 1e-9
        assert 0.8 - 1e-9 <= crop.width / crop.height <= 1.25 + 1e-9


# ---- tokens


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_goes_through_a_tokenizer_and_back(name, samples):
    modality, values = modalities.get(name), values_of(name, samples)
    vit, mlp = ViTConfig(width=16, depth=1, heads=2), MLPConfig(width=16, depth=1)
    fields = {"image_size": values[0].shape[0], "codebook_size": 16, "encoder": vit, "decoder": vit}
    if isinstance(modality, Vector):
        fields |= {"image_size": 1, "channels": len(values[0]), "codebooks": 4, "encoder": mlp, "decoder": mlp}
    if modality.feature_map:
        fields["channels"] = values[0].shape[2]
    if modality.categorical:
        fields["class_names"] = CLASSES
    tokenizer = Tokenizer(VQVAE(TokenizerConfig.of(name, **fields), torch.Generator().manual_seed(0)))
    tokens = tokenizer.encode_batch(values)
    assert tokens.shape == (len(values), tokenizer.config.grid[0] * tokenizer.config.grid[1])
    assert (tokens >= 0).all()
    assert (tokens < 16).all()
    np.testing.assert_array_equal(tokenizer.encode(values[1]).ravel(), tokens[1])
    for value, back in zip(values, tokenizer.decode_batch(tokens), strict=True):
        assert (back.shape, back.dtype) == (value.shape, value.dtype)
        assert_same(modality.convert(back), back, 1e-6)
        assert modality.render(back, 48).size == (48, 48)


@pytest.mark.parametrize("name", GRIDS)
def test_the_tensor_of_a_value_is_inverted(name, samples):
    modality = modalities.get(name)
    for value in values_of(name, samples):
        tensor = modality.tensor(value)
        assert tensor.dtype == (np.int64 if modality.categorical else np.float32)
        assert_same(modality.value(tensor), value, 1e-6)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_sequence_goes_through_the_text_tokenizer_and_back(name, samples, text):
    modality = modalities.get(name)
    for value in values_of(name, samples):
        ids = modality.encode(value, text)
        assert ids[-1] == text.eos
        assert text.eos not in ids[:-1]
        assert all(0 <= i < text.vocab_size for i in ids)
        back = modality.decode(ids, text)
        assert_same(modality.convert(back), back)
        assert modality.encode(back, text) == ids  # the tokens say all that can be said
        for most in (1, 2, 6, 7, len(ids)):
            cut = modality.encode(value, text, most)
            assert len(cut) <= most
            assert cut[-1] == text.eos
            assert cut[:-1] == ids[: len(cut) - 1]


def test_boxes_survive_their_tokens_to_half_a_bin_and_in_order_of_distance(samples, text):
    modality = modalities.get("boxes")
    for sample in samples:
        value = sample["boxes"]
        order = sorted(range(len(value)), key=lambda i: float(np.hypot(*value.corners[i, :2].astype(np.float64))))
        back = modality.decode(modality.encode(value, text), text)
        assert back.labels == tuple(value.labels[i] for i in order)
        np.testing.assert_allclose(back.corners, value.corners[order], atol=0.5 / 999 + 1e-6)


@given(st.data())
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("name", SEQUENCES)
def test_any_tokens_can_be_decoded(name, samples, text, data):
    """What a model may make: any tokens, and those of values with some of them changed, left out or said twice."""
    modality = modalities.get(name)
    ids = data.draw(st.lists(st.integers(0, text.vocab_size - 1), max_size=40))
    for _ in range(data.draw(st.integers(0, 4))):
        said = modality.encode(data.draw(st.sampled_from(values_of(name, samples))), text)
        place, length = data.draw(st.integers(0, len(said) - 1)), data.draw(st.integers(0, 2))
        ids = said[:place] + ids[:length] + said[place + data.draw(st.integers(0, 2)) :]
    value = modality.decode(ids, text)
    assert_same(modality.convert(value), value)
    modality.encode(value, text)
    if text.eos in ids:
        assert_same(modality.decode(ids[: ids.index(text.eos)], text), value)


# ---- for people


def test_pictures_have_the_size_asked_for(case):
    modality, values = case
    for size in (32, 50, 97, 256):
        picture = modality.render(values[0], size)
        assert (picture.size, picture.mode) == ((size, size), "RGB")
    assert (
        len(
            set(
                picture.resize((16, 16)).get_flattened_data()
                if hasattr(picture, "get_flattened_data")
                else picture.resize((16, 16)).getdata()
            )
        )
        > 1
    )  # something is to be seen


def test_metrics_are_best_for_the_truth_itself(case):
    modality, values = case
    if not modality.better:
        return
    same = modality.metrics(values, values)
    assert set(same) == set(modality.better)
    guess = modality.trivial(values)
    if guess is not None:
        worse = modality.metrics([guess] * len(values), values)
        for key, direction in modality.better.items():
            assert same[key] >= worse[key] if direction == "higher" else same[key] <= worse[key]


# ---- the registry


DEPTH = Path(modalities.__file__).with_name("depth.py")


def test_a_users_modality_is_one_file(tmp_path, monkeypatch):
    source = DEPTH.read_text().replace('name="depth"', 'name="disparity"')
    source = source.replace("    better = ", "    farthest: float = 80.0  # a field of its own\n    better = ")
    (tmp_path / "disparity.py").write_text(source)
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, str(tmp_path))
    assert "disparity" in modalities.names()
    modality = modalities.get("disparity@64")
    assert isinstance(modality, TokenGrid)
    assert (modality.name, modality.farthest) == ("disparity", 80.0)
    value = np.full((4, 4), 2.0, np.float32)
    assert_same(modality.read(modality.write(value)), value)
    assert modalities.get("disparity") is modality


def test_names_are_looked_up_without_the_disk(monkeypatch):
    modalities.names()
    for method in ("glob", "is_dir", "stat"):
        monkeypatch.setattr(Path, method, None)
    assert modalities.get("rgb@256") is modalities.get("rgb")
    assert modalities.is_known("depth")
    assert not modalities.is_known("dpeth")


def test_a_users_modality_is_found_by_another_process(tmp_path, monkeypatch):
    """Pickled as its name: the module of a user's file cannot be imported by name."""
    (tmp_path / "disparity.py").write_text(DEPTH.read_text().replace('name="depth"', 'name="disparity"'))
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, str(tmp_path))
    modality = modalities.get("disparity")
    assert pickle.loads(pickle.dumps(modality)) is modality
    code = f"import pickle; print(type(pickle.loads({pickle.dumps(modality)!r})).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Depth\n"


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("rgb", "MODALITY = None", r"modality rgb is defined twice: .*rgb\.py and .*rgb\.py"),
        ("thing", "x = 1", r"thing\.py: a modality file defines MODALITY"),
        ("thing", "MODALITY = 3", r"thing\.py: a modality file defines MODALITY"),
        ("thing", "def (", r"thing\.py: cannot be run \(SyntaxError: "),
        ("thing", "x = 1 / 0", r"thing\.py: cannot be run \(ZeroDivisionError: "),
        ("thing", "import no_such_package", r"thing\.py: cannot be run \(ModuleNotFoundError: "),
        ("thing", "raise SystemExit(3)", r"thing\.py: cannot be run \(SystemExit: 3"),
        ("thing", DEPTH.read_text(), r"thing\.py: MODALITY\.name is 'depth', expected the file's name 'thing'"),
    ],
)
def test_mistakes_in_a_users_modality_are_named(tmp_path, monkeypatch, name, source, message):
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, str(tmp_path))
    with pytest.raises(Open4MError, match=message):
        modalities.get(name)


def test_folders_and_names_that_do_not_exist_are_named(tmp_path, monkeypatch):
    assert str(modalities.unknown("normals", ["rgb", "depth"])) == (
        "modality 'normals' is none of those here (allowed: rgb, depth)"
    )
    with pytest.raises(Open4MError, match="unknown modality 'dpeth'; did you mean depth"):
        modalities.get("dpeth")
    monkeypatch.setenv(modalities.FOLDERS_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(Open4MError, match=r"OPEN4M_MODALITIES names .*none, which is not a folder"):
        modalities.names()


def test_the_list_of_modalities_names_the_class_of_each(capsys):
    assert main(["modalities"]) == 0
    shown = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert shown["human_pose"] == "Vector"
    assert shown["clip"] == "TokenGrid"
    assert shown["caption"] == "TokenSequence"


@pytest.mark.parametrize("name", ["depth", "clip", "human_pose", "t5_caption"])
@pytest.mark.parametrize("bits", [0x7FF0000000000001, 0x7E37E43C8800759C], ids=["signaling NaN", "1e300"])
def test_numbers_that_float32_cannot_hold_are_refused(name, bits, samples):
    modality = modalities.get(name)
    value = values_of(name, samples)[0].astype(np.float64)
    value.flat[0] = np.array(bits, np.uint64).view(np.float64)
    if np.isnan(value.flat[0]) and modality.valid(value) is not None:
        assert modality.valid(modality.convert(value)).sum() == value.size - 1  # it marks what was not measured
        return
    with pytest.raises(Open4MError, match=f"^{name}: expected"):
        modality.convert(value)
    if "standardized" in getattr(modality, "forms", ()):
        with pytest.raises(Open4MError, match=f"^{name}: expected"):
            modality.from_form(value, "standardized")


# ---- pixels without a measurement

MARKED = {
    "depth": lambda valid: np.where(valid, np.float32(2), np.float32(np.nan)),
    "normals": lambda valid: np.float32([0, 0.6, 0.8]) * valid[..., None],
    "semseg": lambda valid: np.where(valid, 3, 255).astype(np.uint8),
    "curvature": lambda valid: np.where(valid[..., None], np.float32([0.5, -2]), np.float32(np.nan)),
}
HOLE = np.ones((12, 12), bool)
HOLE[2:7, 1:5] = False


def test_these_modalities_mark_pixels_without_a_measurement(samples):
    marking = {name for name in NAMES if modalities.get(name).valid(values_of(name, samples)[0]) is not None}
    assert marking == set(MARKED)
    for name in marking:
        value = values_of(name, samples)[0]
        assert modalities.get(name).valid(value).shape == modalities.get(name).extent(value)


@pytest.mark.parametrize("name", MARKED)
def test_marks_are_kept_cropped_and_flipped_with_the_map_and_hatched(name):
    modality, value = modalities.get(name), MARKED[name](HOLE)
    assert np.array_equal(modality.valid(value), HOLE)
    for stored in (modality.convert(value), modality.read(modality.write(value))):
        assert np.array_equal(modality.valid(stored), HOLE)
    crop = Crop(0.25, 0.0, 0.5, 0.75, (18, 12))
    assert np.array_equal(modality.valid(modality.crop(value, crop)), resample(HOLE, crop, "nearest"))
    assert np.array_equal(modality.valid(modality.flip(value)), HOLE[:, ::-1])
    drawn, whole = (np.asarray(modality.render(v, 96)) for v in (value, MARKED[name](np.ones_like(HOLE))))
    hatched = np.isin(drawn[..., 0], [gray for gray, *_ in STRIPES]) & (np.ptp(drawn, axis=-1) == 0)
    assert np.array_equal(hatched, resample(~HOLE, Crop(size=(96, 96)), "nearest"))
    assert np.array_equal(modality.render(value, 96), modality.render(value, 96))
    assert not np.array_equal(drawn, whole)


@pytest.mark.parametrize("name", MARKED)
def test_metrics_and_constants_leave_out_what_was_not_measured(name):
    modality, label = modalities.get(name), MARKED[name](HOLE)
    right, wrong = MARKED[name](np.ones_like(HOLE)), MARKED[name](np.ones_like(HOLE))
    wrong[~HOLE] = {"depth": 40, "normals": [1, 0, 0], "semseg": 7, "curvature": [9, 9]}[name]
    perfect = modality.metrics([right], [right])
    assert modality.metrics([wrong], [label]) == pytest.approx(perfect)
    assert modality.metrics([wrong, right], [label, right]) == pytest.approx(perfect)
    nothing = MARKED[name](np.zeros_like(HOLE))
    assert modality.metrics([wrong, right], [nothing, right]) == pytest.approx(perfect)
    assert all(np.isnan(figure) for figure in modality.metrics([right], [nothing]).values())
    constant = modality.trivial([label, right, label])
    assert modality.metrics([constant], [right]) == pytest.approx(perfect)


def test_the_hole_is_filled_with_what_is_nearest():
    value = np.arange(144.0, dtype=np.float32).reshape(12, 12)
    found = filled(value, HOLE)
    assert np.array_equal(found[HOLE], value[HOLE])
    assert found[4, 1] == value[4, 0]
    assert found[2, 3] == value[1, 3]
    assert filled(value, None) is filled(value, np.ones_like(HOLE)) is value
    assert not filled(value, np.zeros_like(HOLE)).any()


@pytest.mark.parametrize("name", MARKED)
def test_what_is_kept_where_nothing_was_measured_is_what_is_made(name):
    modality = modalities.get(name)
    kept, made = MARKED[name](HOLE), MARKED[name](np.ones_like(HOLE))
    weight = np.zeros((12, 12))
    weight[:, 3:] = 1.0
    blended = modality.blend(kept, made, weight)
    assert np.array_equal(modality.valid(blended), HOLE | (weight > 0))
