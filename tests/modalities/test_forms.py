"""The named forms of values: what users have, and the modality's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from open4m import modalities
from open4m.modalities.families import STANDARDIZED, TokenGrid
from open4m.types import Open4MError

DEPTH, NORMALS, SEMSEG = (modalities.get(name) for name in ("depth", "normals", "semseg"))
GRIDS = [m for m in map(modalities.get, modalities.names()) if isinstance(m, TokenGrid)]
PALETTE = ((120, 120, 120), (0, 0, 0), (255, 255, 255), (0, 0, 255))


@pytest.mark.parametrize("modality", GRIDS, ids=lambda m: m.name)
def test_another_form_is_refused_with_those_that_there_are(modality):
    for convert in (modality.from_form, modality.to_form):
        with pytest.raises(Open4MError) as caught:
            convert(np.ones((2, 2), np.float32), "furlongs")
        assert str(caught.value) == f"{modality.name}: no form is called 'furlongs'; its forms are " + ", ".join(
            modality.forms
        )


# ---- depth


def test_millimeters_are_read_from_16_bit_pictures_and_given_back():
    stored = np.array([[1, 999, 1000], [20_000, 65_534, 65_535]], np.uint16)
    for image in (stored, Image.fromarray(stored), Image.fromarray(stored.astype(np.int32)), stored[..., None]):
        meters = DEPTH.from_form(image, "millimeters")
        assert meters.dtype == np.float32
        np.testing.assert_allclose(meters, [[0.001, 0.999, 1], [20, 65.534, 65.535]], rtol=1e-7)
        back = DEPTH.to_form(meters, "millimeters")
        assert back.dtype == np.uint16
        np.testing.assert_array_equal(back, stored)
    assert Image.fromarray(stored).mode == "I;16"
    np.testing.assert_allclose(DEPTH.from_form(Image.new("L", (2, 2), 250), "millimeters"), 0.25)


@given(arrays(np.uint16, (3, 4), elements=st.integers(1, 65_535)))
def test_every_16_bit_depth_comes_back(stored):
    np.testing.assert_array_equal(DEPTH.to_form(DEPTH.from_form(stored, "millimeters"), "millimeters"), stored)


def test_millimeters_end_where_16_bits_do():
    def given_back(meters):
        return DEPTH.to_form(np.float32([[meters]]), "millimeters")[0, 0]

    assert given_back(65.5353) == 65_535
    assert (given_back(0.0014), given_back(0.0016), given_back(0.0001)) == (1, 2, 1)  # 0 would say: not measured
    with pytest.raises(Open4MError, match=r"depth: 2 pixels are beyond the 65535 mm .*, up to 80 m: take them in met"):
        DEPTH.to_form(np.float32([[1, 70, 80]]), "millimeters")


def test_inverse_depth_is_one_over_meters():
    inverse = np.array([[0.5, 4.0, 1e-30], [1e-37, 1e37, 1.0]])
    meters = DEPTH.from_form(inverse, "inverse")
    assert meters.dtype == np.float32
    np.testing.assert_allclose(meters, [[2, 0.25, 1e30], [1e37, 1e-37, 1]], rtol=1e-6)
    np.testing.assert_allclose(DEPTH.to_form(meters, "inverse"), inverse, rtol=1e-6)
    np.testing.assert_allclose(DEPTH.from_form(Image.fromarray(np.float32([[0.5]])), "inverse"), [[2]])
    with pytest.raises(Open4MError, match=r"inverse depth above 0 1/m, .* 1 of 1 pixels"):
        DEPTH.to_form(np.float32([[1e-40]]), "inverse")


@given(arrays(np.float32, (2, 3), elements=st.floats(2**-120, 2**120, width=32)))
def test_inverting_twice_changes_no_more_than_rounding(meters):
    # twice rounded to 24 bits: off by at most 2 units of 2⁻²⁴
    np.testing.assert_allclose(DEPTH.from_form(DEPTH.to_form(meters, "inverse"), "inverse"), meters, rtol=2**-23)


@pytest.mark.parametrize(
    ("form", "bad", "message"),
    [
        ("meters", np.array([[1, -1, -2]]), "finite depth above 0 m, or 0 or NaN .*; 2 of 3 pixels"),
        ("meters", np.array([[np.nan, 0, 0]]), "no pixel holds a measurement: leave the map out"),
        ("meters", np.array([[1e39]]), "finite depth above 0 m"),  # infinite as float32
        ("meters", np.array([[1e-50]]), "finite depth above 0 m"),  # 0 as float32
        ("millimeters", np.array([[500, -1]], np.int16), "above 0 mm, .*; 1 of 2 pixels are neither"),
        ("millimeters", Image.new("RGB", (2, 2)), r"depth in millimeters as an array \(H, W\), got uint8 \(2, 2, 3\)"),
        ("inverse", np.array([[0.0]]), "no pixel holds a measurement"),
        ("inverse", np.array([[-1.0]]), "finite inverse depth"),
        ("inverse", np.array([[np.inf]]), "finite inverse depth"),
        ("inverse", np.array([[2e-45]]), "finite depth above 0 m"),  # 5e44 m is infinite as float32
        (STANDARDIZED, np.array([[np.nan]]), "finite standardized depth"),
        (STANDARDIZED, np.array([["a"]]), "depth in standardized as an array"),
    ],
)
def test_what_is_no_depth_is_said(form, bad, message):
    with pytest.raises(Open4MError, match=f"^depth: .*{message}"):
        DEPTH.from_form(bad, form)


def test_standardized_depth_by_hand():
    # Of 20 numbers the lowest and the highest 2 have no say; 2 to 17 have mean 9.5 and unbiased variance
    # (16² - 1) / 12 · 16 / 15 = 68 / 3
    depth = np.arange(20, dtype=np.float32)
    depth[[0, 1, 18, 19]] = [-500, -3, 900, 4000]
    expected = (depth - 9.5) / np.sqrt(68 / 3 + 1e-6)
    shuffled = np.random.default_rng(0).permutation(20)
    np.testing.assert_allclose(
        DEPTH.to_form(depth[shuffled].reshape(4, 5), STANDARDIZED), expected[shuffled].reshape(4, 5), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 3), (2, 2), (5, 7)])
def test_maps_of_one_depth_or_of_few_pixels_are_standardized_too(shape):
    assert np.array_equal(DEPTH.to_form(np.full(shape, 3, np.float32), STANDARDIZED), np.zeros(shape))
    varied = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert np.isfinite(DEPTH.to_form(varied, STANDARDIZED)).all()


@given(st.floats(0.5, 100), st.floats(0, 50))
@settings(max_examples=30)
def test_standardized_depth_knows_no_scale_and_no_shift(scale, shift):
    depth = np.random.default_rng(1).uniform(1, 9, (16, 16))
    one, other = (DEPTH.to_form(d, STANDARDIZED) for d in (depth, scale * depth + shift))
    # the variance of at least 0.25 · 5 outweighs the added 1e-6
    np.testing.assert_allclose(other, one, atol=1e-5)


def test_what_is_standardized_stays_as_it_is():
    value = np.array([[-2.5, 0, 7]])
    kept = DEPTH.from_form(value, STANDARDIZED)
    assert kept.dtype == np.float32
    np.testing.assert_array_equal(kept, value)


@pytest.mark.parametrize(
    ("form", "given"),
    [
        ("meters", np.array([[2.0, 0.0], [np.nan, 4.0]])),
        ("millimeters", np.array([[2000, 0], [0, 4000]], np.uint16)),
        ("inverse", np.array([[0.5, 0.0], [np.nan, 0.25]])),
    ],
)
def test_depth_without_a_measurement_is_marked_in_all_forms(form, given):
    depth, valid = DEPTH.from_form(given, form), np.array([[True, False], [False, True]])
    np.testing.assert_array_equal(DEPTH.valid(depth), valid)
    np.testing.assert_array_equal(depth[valid], [2.0, 4.0])
    np.testing.assert_array_equal(DEPTH.read(DEPTH.write(depth)), depth)
    again = DEPTH.to_form(depth, form)
    np.testing.assert_allclose(again[valid], given[valid])
    np.testing.assert_array_equal(DEPTH.from_form(again, form), depth)
    standardized = DEPTH.to_form(depth, STANDARDIZED)
    np.testing.assert_array_equal(np.isnan(standardized), ~valid)
    np.testing.assert_array_equal(standardized[valid], DEPTH.to_form(depth[valid][None], STANDARDIZED)[0])


# ---- normals

TILT = np.radians(30)
SEEN = {  # by a camera: (right, up, back) of the world's vectors, and so opengl; opencv; directx
    "a wall that faces it": ((0, 0, 1), (0, 0, -1), (0, 0, 1)),
    "a floor under it, level": ((0, 1, 0), (0, -1, 0), (0, -1, 0)),
    "a ceiling over it, level": ((0, -1, 0), (0, 1, 0), (0, 1, 0)),
    "a wall on its right": ((-1, 0, 0), (-1, 0, 0), (-1, 0, 0)),
    # Tilted down by 30 degrees, its up is forward and its back is up: the floor's normal is partly toward it.
    "a floor, tilted": (
        (0, np.cos(TILT), np.sin(TILT)),
        (0, -np.cos(TILT), -np.sin(TILT)),
        (0, -np.cos(TILT), np.sin(TILT)),
    ),
}


@pytest.mark.parametrize("surface", SEEN)
def test_handedness_of_normals_by_hand(surface):
    for form, vector in zip(("opengl", "opencv", "directx"), SEEN[surface], strict=True):
        field = np.full((2, 3, 3), vector, np.float64)
        value = NORMALS.from_form(field, form)
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, np.full((2, 3, 3), SEEN[surface][0]), atol=1e-7)
        np.testing.assert_allclose(NORMALS.to_form(value, form), field, atol=1e-7)


def test_opencv_normals_of_a_plane_by_cross_products_of_its_points():
    """The plane y = 1 m, under a level camera since y is down, through a pinhole: points X, and ∂X/∂v × ∂X/∂u."""
    u, v = np.meshgrid(np.linspace(-0.5, 0.5, 5), np.linspace(0.2, 0.9, 6))
    points = np.stack([u / v, np.ones_like(v), 1 / v], -1)  # opencv: x right, y down, z away
    along_v, along_u = np.gradient(points, axis=(0, 1))
    normals = np.cross(along_v, along_u)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    assert ((normals * points).sum(-1) < 0).all()  # toward the camera
    np.testing.assert_allclose(NORMALS.from_form(normals, "opencv"), np.full((6, 5, 3), [0, 1, 0]), atol=1e-6)


def test_a_directx_picture_is_an_opengl_one_with_green_inverted():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4, 4, 3))
    image = ((vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) + 1) * 127.5).round().astype(np.uint8)
    inverted = image.copy()
    inverted[..., 1] = 255 - image[..., 1]
    one, other = Image.fromarray(image), Image.fromarray(inverted)
    np.testing.assert_allclose(NORMALS.from_form(other, "directx"), NORMALS.convert(one), atol=1e-6)


# ---- classes


def test_a_picture_of_colors_becomes_ids_and_back():
    ids = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
    colors = np.array(PALETTE, np.uint8)[ids]
    pictures = [
        colors,
        Image.fromarray(colors),
        Image.fromarray(colors).convert("RGBA"),
        np.concatenate([colors, np.full((2, 3, 1), 7, np.uint8)], -1),
        Image.fromarray(colors).convert("P", palette=Image.Palette.ADAPTIVE, colors=4),  # of other indices
    ]
    for picture in pictures:
        value = SEMSEG.from_form(picture, "colors", PALETTE)
        assert value.dtype == np.uint8
        np.testing.assert_array_equal(value, ids)
    back = SEMSEG.to_form(ids, "colors", PALETTE)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, colors)
    gray = Image.fromarray(np.array([[120, 0, 255]], np.uint8))
    np.testing.assert_array_equal(SEMSEG.from_form(gray, "colors", PALETTE), [[0, 1, 2]])


@given(st.data())
@settings(max_examples=60)
def test_any_map_comes_back_from_its_colors(data):
    color = st.tuples(*[st.integers(0, 255)] * 3)
    palette = tuple(data.draw(st.lists(color, min_size=1, max_size=300, unique=True)))
    ids = data.draw(arrays(np.int32, (3, 5), elements=st.integers(0, len(palette) - 1)))
    np.testing.assert_array_equal(SEMSEG.from_form(SEMSEG.to_form(ids, "colors", palette), "colors", palette), ids)


@pytest.mark.parametrize("mode", ["L", "P", "I", "I;16"])
def test_ids_of_a_picture_are_its_numbers_whatever_its_palette(mode):
    ids = np.array([[0, 1, 2], [3, 3, 0]])
    kind = {"L": np.uint8, "P": np.uint8, "I": np.int32, "I;16": np.uint16}[mode]
    image = Image.fromarray(ids.astype(kind))
    if mode == "P":
        image = image.convert("L")
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert image.mode == mode
    np.testing.assert_array_equal(SEMSEG.from_form(image, "ids"), ids)


@pytest.mark.parametrize(
    ("value", "palette", "message"),
    [
        (
            np.uint8([[[1, 2, 3], [0, 0, 0], [1, 2, 3]]]),
            PALETTE,
            r"2 pixels have the color \(1, 2, 3\), which is not in the palette of 4 classes$",
        ),
        (
            np.uint8([[[255, 255, 254], [9, 9, 9], [9, 9, 9]]]),
            PALETTE,
            r"2 pixels have the color \(9, 9, 9\), .* 4 classes; 1 more such colors on 1 pixels",
        ),
        (np.uint8([[[255, 0, 255]]]), PALETTE, r"1 pixels have the color \(255, 0, 255\)"),
        (np.zeros((2, 2, 3), np.uint8), (), "'colors' needs a palette, and the tokenizer has none"),
        (np.zeros((2, 2), np.uint8), PALETTE, r"a picture of the classes' colors, uint8 \(H, W, 3\), got uint8 \(2, 2"),
        (np.zeros((2, 2, 3)), PALETTE, "got float64"),
        (Image.fromarray(np.zeros((2, 2), np.uint16)), PALETTE, "got uint16"),
    ],
)
def test_what_is_no_picture_of_the_palette_is_said(value, palette, message):
    with pytest.raises(Open4MError, match=f"^semseg: .*{message}"):
        SEMSEG.from_form(value, "colors", palette)


def test_colors_are_not_taken_for_ids_nor_ids_without_a_color_drawn():
    with pytest.raises(Open4MError, match=r"got uint8 \(2, 2, 3\); for a picture in the classes' colors say form='col"):
        SEMSEG.from_form(Image.new("RGB", (2, 2)), "ids")
    with pytest.raises(Open4MError, match="class id 4, but the palette has colors of 4 classes, from 0"):
        SEMSEG.to_form(np.array([[4]]), "colors", PALETTE)
