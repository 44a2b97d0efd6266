"""The main colors of images."""

import numpy as np
import pytest
from PIL import Image

from open4m import labellers
from open4m.types import Open4MError

STRIPES = np.repeat(np.uint8([[200, 10, 20]] * 6 + [[0, 0, 255]] * 3 + [[255, 255, 255]]), 8, axis=0)[None].repeat(
    20, 0
)


def test_the_colors_of_an_image_are_found_the_most_frequent_first():
    found = labellers.get("palette").load("3").label([STRIPES])[0]
    assert found.hex == ("#c80a14", "#0000ff", "#ffffff")
    assert labellers.get("palette").load().label([STRIPES])[0] == found  # there are no more
    assert len(labellers.get("palette").load("1").label([STRIPES])[0]) == 1


def test_noise_on_colors_changes_them_little():
    noise = np.random.default_rng(0).integers(-8, 9, STRIPES.shape)
    found = labellers.get("palette").load("3").label([(STRIPES + noise).clip(0, 255).astype(np.uint8)])[0]
    assert np.abs(np.array(found.colors) - [[200, 10, 20], [0, 0, 255], [255, 255, 255]]).max() <= 8


def test_a_large_photo_costs_no_more_than_a_small_one_and_keeps_its_colors(monkeypatch):
    sizes, quantize = [], Image.Image.quantize

    def spied(image, *arguments, **named):
        sizes.append(image.size)
        return quantize(image, *arguments, **named)

    monkeypatch.setattr(Image.Image, "quantize", spied)
    large = STRIPES.repeat(40, 0).repeat(40, 1)
    found = labellers.get("palette").load("3").label([STRIPES, large])
    assert found[0].hex == found[1].hex == ("#c80a14", "#0000ff", "#ffffff")
    assert max(sizes[1]) <= 256 < max(large.shape)


@pytest.mark.parametrize("source", ["0", "8", "many", "-1", "²"])
def test_the_number_is_checked(source):
    with pytest.raises(Open4MError, match="palette: expected a number of colors from 1 to 7, got "):
        labellers.get("palette").load(source)
