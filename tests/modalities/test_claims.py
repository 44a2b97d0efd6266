"""Values are what they claim to be: nothing is wrapped, overflows or is read in another unit in silence."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from open4m import modalities
from open4m.modalities.families import TokenGrid, VectorSequence
from open4m.modalities.features import FeatureMap, Vector
from open4m.types import Boxes, Open4MError

DEPTH, NORMALS, SEMSEG, BOXES = (modalities.get(name) for name in ("depth", "normals", "semseg", "boxes"))
KNOWN = [modalities.get(name) for name in modalities.names()]
FLOATS = [m for m in KNOWN if isinstance(m, FeatureMap | Vector | VectorSequence) or m.name == "depth"]
PICTURES = [m for m in KNOWN if isinstance(m, TokenGrid) and m.extension.endswith("png")]


def shape_of(modality):
    if isinstance(modality, Vector):
        return (modality.channels or 5,)
    return (2, 3, 5) if isinstance(modality, FeatureMap) else (2, 5)


# ---- casts


@pytest.mark.parametrize("modality", FLOATS, ids=lambda m: m.name)
@pytest.mark.parametrize("number", [65504.0, 65505.0, 7e4, 3e38, 1e-3, 6e-8, 1e-9, 1e-37])
def test_a_file_holds_numbers_of_any_size(modality, number):
    """Float16 ends at 65504 and is 0 below 3e-8: what it cannot hold is written in 32 bits."""
    for value in (np.full(shape_of(modality), number, np.float32), np.full(shape_of(modality), number)):
        value.flat[0] = min(3 * number, 3e38)
        back = modality.read(modality.write(value))
        np.testing.assert_allclose(back, value.astype(np.float32), rtol=1e-3)


@pytest.mark.parametrize("modality", FLOATS, ids=lambda m: m.name)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_within_a_thousandth(modality, data):
    """Of each number; of vectors, of the largest entry of each."""
    sizes = st.floats(2**-100, 2**120, width=32)
    signed = sizes if modality.name == "depth" else st.one_of(sizes, sizes.map(lambda number: -number))
    value = data.draw(arrays(np.float32, shape_of(modality), elements=signed))
    back = modality.read(modality.write(value))
    scale = np.abs(value) if modality.name == "depth" else np.abs(value).max(-1, keepdims=True)
    assert (np.abs(back.astype(np.float64) - value) <= 1e-3 * scale).all()


def test_numbers_that_float16_holds_take_no_more_room():
    value = np.random.default_rng(0).uniform(0.1, 90, (64, 64)).astype(np.float32)
    assert len(DEPTH.write(value)) < 2 * value.size + 200
    features = np.random.default_rng(0).standard_normal((8, 8, 64)).astype(np.float32)  # some are close to 0
    assert len(modalities.get("clip").write(features)) < 2 * features.size + 200


@pytest.mark.parametrize("modality", FLOATS, ids=lambda m: m.name)
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan, 1e39])
def test_what_cannot_be_read_is_not_written(modality, number):
    value = np.ones(shape_of(modality))
    value.flat[1] = number
    if np.isnan(number) and modality.valid(value) is not None:  # there it marks what was not measured
        expected = np.ones(value.shape[:2], bool)
        expected.flat[1] = False
        assert (modality.valid(modality.read(modality.write(value))) == expected).all()
        return
    with pytest.raises(Open4MError, match=f"^{modality.name}:"):
        modality.write(value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_class_ids_stay_themselves_or_are_refused(dtype):
    largest = min(65535, np.iinfo(dtype).max)
    ids = np.array([[0, 1], [largest - 1, largest]], dtype)
    for value in (ids, SEMSEG.read(SEMSEG.write(ids)), SEMSEG.convert(ids)):
        assert value.astype(np.int64).tolist() == ids.astype(np.int64).tolist()
    for wrong in (65536, 70000, 2**31, 2**32 - 1, 2**32, 2**40):
        if wrong <= np.iinfo(dtype).max:
            ids[0, 1] = wrong
            for take in (SEMSEG.convert, SEMSEG.write):
                with pytest.raises(Open4MError, match=f"^semseg: expected class ids from 0 to 65535, got {wrong}"):
                    take(ids)


@pytest.mark.parametrize("modality", KNOWN, ids=lambda m: m.name)
@pytest.mark.parametrize("value", [None, 3, np.zeros((2, 2), complex), b"x"], ids=str)
def test_what_is_no_value_is_not_written(modality, value):
    with pytest.raises(Open4MError):
        modality.write(value)


def test_scores_of_boxes_are_written_and_read():
    boxes = Boxes([[0, 0, 0.5, 1], [0, 0, 1, 1]], ["cube", "ball"], (0.25, 1.0))
    assert BOXES.read(BOXES.write(boxes)) == boxes
    plain = [{"box": [0, 0, 1, 1], "label": "cube"}]
    assert BOXES.convert(plain).scores is None
    with pytest.raises(Open4MError, match="one score per box, got 2 boxes and 1 scores"):
        BOXES.convert([*plain, {**plain[0], "score": 0.5}])


# ---- depth


@pytest.mark.parametrize("mode", ["L", "I", "I;16"])
def test_whole_numbers_of_a_picture_are_no_meters(mode):
    kind = {"L": np.uint8, "I": np.int32, "I;16": np.uint16}[mode]
    picture = Image.fromarray(np.full((2, 3), 200, kind))
    assert picture.mode == mode
    with pytest.raises(Open4MError, match=r"depth: .*do not say their unit: .*'millimeters'"):
        DEPTH.convert(picture)
    np.testing.assert_allclose(DEPTH.from_form(picture, "millimeters"), 0.2)
    assert DEPTH.convert(np.asarray(picture) / 1000).max() == np.float32(0.2)
    if kind != np.int32:  # numbers that someone typed are of that type
        with pytest.raises(Open4MError, match="whole numbers, which do not say their unit"):
            DEPTH.convert(np.asarray(picture))


@pytest.mark.parametrize("form", DEPTH.forms)
@pytest.mark.parametrize("mode", ["P", "1", "RGB", "LA", "RGBA"])
def test_pictures_of_colors_are_no_depth_in_any_form(mode, form):
    with pytest.raises(Open4MError, match=r"^depth:"):
        DEPTH.from_form(Image.new("L", (3, 2), 255).convert(mode), form)


def test_float_pictures_are_meters():
    np.testing.assert_array_equal(DEPTH.convert(Image.new("F", (3, 2), 1.5)), np.full((2, 3), 1.5, np.float32))


# ---- normals


def unit_vectors(height, width, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((height, width, 3))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def drawn(vectors):
    return Image.fromarray(((vectors + 1) * 127.5).round().astype(np.uint8))


def as_file(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)).resize((64, 64))
NO_NORMALS = {
    "black": Image.new("RGB", (8, 8)),
    "white": Image.new("RGB", (8, 8), "white"),
    "gray": Image.new("RGB", (8, 8), (128, 128, 128)),
    "a photo": PHOTO,
    "one channel": Image.new("L", (8, 8), 201),  # of which (201, 201, 201) would be a unit vector
    "sixteen bits": Image.new("I;16", (8, 8), 300),
    "a white pixel": Image.fromarray(
        np.where((np.arange(64) > 0).reshape(8, 8, 1), np.asarray(drawn(unit_vectors(8, 8))), np.uint8(255))
    ),
    "holes": Image.fromarray(np.full((8, 8, 4), (128, 128, 255, 0), np.uint8)),
}


@pytest.mark.parametrize("kind", NO_NORMALS)
@pytest.mark.parametrize("form", NORMALS.forms)
def test_pictures_that_are_no_normals_are_refused(kind, form):
    for take in (lambda picture: NORMALS.from_form(picture, form), lambda picture: NORMALS.read(as_file(picture))):
        with pytest.raises(Open4MError, match=r"^normals:"):
            take(NO_NORMALS[kind])


@pytest.mark.parametrize("levels", [(0, 1), (0, 255), (3, 250)])
@pytest.mark.parametrize("mode", ["L", "P", "I", "F", "LA", "RGBA"])
def test_a_picture_of_an_object_is_its_mask_in_every_mode(mode, levels):
    mask = np.eye(4, dtype=bool)
    array = np.where(mask, *levels[::-1]).astype(np.uint8)
    picture = Image.fromarray(array)
    if mode == "P":  # levels are colors of a palette
        picture.putpalette([level for level in range(256) for _ in range(3)])
    shown = picture if mode == "P" else picture.convert(mode)
    assert np.array_equal(modalities.get("sam_mask").convert(shown), mask)


def test_a_dark_picture_is_no_mask():
    with pytest.raises(Open4MError, match="lightest pixel is 7 of 255"):
        modalities.get("sam_mask").convert(Image.new("L", (4, 4), 7))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize(("name", "behind"), [("rgb", 255), ("canny_edge", 0), ("sam_edge", 0), ("sam_mask", False)])
def test_what_lies_behind_transparent_pixels_means_nothing_there(name, behind, mode):
    picture = Image.new(mode, (4, 4))  # black, and transparent
    assert (modalities.get(name).convert(picture) == behind).all()
    picture = Image.new(mode, (4, 4), (255, 0) if mode == "LA" else (255, 255, 255, 0))
    assert (modalities.get(name).convert(picture) == behind).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_pictures_of_normals_are_normals_smoothed_ones_too(mode):
    steps = np.zeros((64, 64, 3))
    steps[:, :30], steps[:, 30:] = (0, 0.6, 0.8), (0.8, 0, 0.6)
    for vectors in (unit_vectors(16, 16), steps):
        value = NORMALS.convert(drawn(vectors).convert(mode))
        assert np.degrees(np.arccos((value * vectors).sum(-1).clip(-1, 1))).max() < 0.5
        np.testing.assert_allclose(NORMALS.read(NORMALS.write(value)), value, atol=0.0075)  # √3/255
    buffer = io.BytesIO()
    drawn(steps).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    smooth = NORMALS.read(buffer.getvalue())
    np.testing.assert_allclose(np.linalg.norm(smooth, axis=-1), 1, atol=1e-5)


# ---- pictures that are turned when they are shown


def turned(picture, orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("modality", PICTURES, ids=lambda m: m.name)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_picture_is_shown_upright_or_refused(modality, orientation):
    """A photo and its maps are turned by the same rule."""
    levels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    by_hand = {
        1: levels,
        2: levels[:, ::-1],
        3: levels[::-1, ::-1],
        4: levels[::-1],
        5: levels.T,
        6: np.rot90(levels, -1),
        7: levels[::-1, ::-1].T,
        8: np.rot90(levels),
    }
    picture = Image.fromarray(levels)
    if modality.name == "normals":
        if orientation > 1:
            with pytest.raises(Open4MError, match="EXIF data turn the picture, but not its vectors"):
                modality.read(turned(drawn(unit_vectors(2, 3)), orientation))
        return
    value = modality.read(turned(picture, orientation))
    np.testing.assert_array_equal(value[..., 0] if value.ndim == 3 else value, by_hand[orientation])
