"""Color jitter is what its formula says, pixel by pixel."""

import colorsys

import numpy as np
import pytest
from coordinate_examples import coordinates
from PIL import Image

from open4m.rng import stream
from open4m.transfer.augment.color import ColorJitter, color_matrix, mean_luma
from open4m.types import Open4MError


def luma(pixel):
    return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]


def jittered(rgb, brightness, contrast, saturation, turn):
    """The formula, one pixel at a time; a turn around the gray axis by Rodrigues' formula."""
    bright = [[[brightness * float(v) for v in pixel] for pixel in row] for row in rgb]
    mean = np.mean([luma(pixel) for row in bright for pixel in row])
    axis, angle = np.ones(3) / np.sqrt(3), 2 * np.pi * turn
    out = np.zeros(rgb.shape)
    for i, row in enumerate(bright):
        for j, pixel in enumerate(row):
            x = np.array([contrast * v + (1 - contrast) * mean for v in pixel])
            x = saturation * x + (1 - saturation) * luma(x)
            out[i, j] = x * np.cos(angle) + np.cross(axis, x) * np.sin(angle) + axis * (axis @ x) * (1 - np.cos(angle))
    return out.clip(0, 255)


def picture(seed=0, size=(6, 7)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "factors", [(1.3, 1, 1, 0), (1, 0.4, 1, 0), (1, 1, 1.8, 0), (1, 1, 1, 0.1), (0.7, 1.5, 0.2, -0.4)]
)
def test_the_matrix_is_the_formula(factors):
    rgb = picture()
    matrix = color_matrix(mean_luma(Image.fromarray(rgb)), *factors)
    made = (rgb.astype(float) @ matrix[:, :3].T + matrix[:, 3]).clip(0, 255)
    np.testing.assert_allclose(made, jittered(rgb, *factors), atol=1e-9)


def test_a_picture_is_jittered_by_the_factors_that_were_drawn_and_rounded_once():
    step = ColorJitter(brightness=0.4, contrast=0.3, saturation=0.5, hue=0.2, probability=1)
    for seed in range(10):
        rgb, rng = picture(seed), stream(seed)
        rng.uniform(size=2)
        factors = [rng.uniform(low, high) for low, high in ((0.6, 1.4), (0.7, 1.3), (0.5, 1.5), (-0.2, 0.2))]
        made = step.apply({"rgb": rgb}, stream(seed))["rgb"]
        assert made.dtype == np.uint8
        assert np.abs(made - jittered(rgb, *factors)).max() < 0.51


def test_a_third_of_a_turn_is_that_of_the_color_wheel():
    """There, both ways to turn a hue agree: the channels change places."""
    rgb = picture()
    matrix = color_matrix(0.0, 1, 1, 1, 1 / 3)
    for pixel in rgb.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        np.testing.assert_allclose(matrix[:, :3] @ pixel, colorsys.hsv_to_rgb((h + 1 / 3) % 1, s, v), atol=1e-12)


def test_gray_stays_gray_and_nothing_changes_at_0():
    gray = np.full((4, 5, 3), 90, np.uint8)
    turned = ColorJitter(brightness=0, contrast=0, saturation=2, hue=0.5, probability=1)
    for seed in range(5):
        np.testing.assert_array_equal(turned.apply({"rgb": gray}, stream(seed))["rgb"], gray)
    still = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, probability=1)
    np.testing.assert_array_equal(still.apply({"rgb": picture()}, stream(0))["rgb"], picture())
    never = ColorJitter(probability=0)
    assert never.apply({"rgb": gray}, stream(0))["rgb"] is gray


def test_probabilities_of_jitter_and_of_gray_are_kept_apart():
    step = ColorJitter(probability=0.5, gray=0.3)
    rgb = picture()
    made = [step.apply({"rgb": rgb}, stream(seed))["rgb"] for seed in range(1000)]
    grays = [bool((m == m[..., :1]).all()) for m in made]
    same = [m is rgb for m in made]
    assert abs(np.mean(grays) - 0.3) < 0.05
    assert abs(np.mean(same) - 0.5 * 0.7) < 0.05
    plain = np.round(rgb @ [0.299, 0.587, 0.114])  # gray without jitter is the luma itself
    assert (
        abs(np.mean([g and np.abs(m[..., 0] - plain).max() <= 1 for m, g in zip(made, grays, strict=True)]) - 0.15)
        < 0.04
    )


def test_large_strengths_leave_valid_pictures():
    step = ColorJitter(brightness=3, contrast=3, saturation=3, hue=0.5, probability=1)
    for seed in range(20):
        made = step.apply({"rgb": picture(size=(1, 1))}, stream(seed))["rgb"]
        assert made.shape == (1, 1, 3)
        assert made.dtype == np.uint8


def test_maps_and_objects_are_left_alone():
    example = coordinates(5, 6, [(0, 0, 3, 3)])
    made = ColorJitter(probability=1).apply(example, stream(0))
    assert all(made[key] is example[key] for key in example if key != "rgb")
    assert made["rgb"] is not example["rgb"]
    np.testing.assert_array_equal(example["rgb"], coordinates(5, 6)["rgb"])


def test_half_a_turn_is_the_most():
    with pytest.raises(Open4MError, match=r"ColorJitter: hue: expected at most 0\.5, got 0\.6"):
        ColorJitter(hue=0.6)
