"""Every operation of RandAugment at every magnitude, and how they are chosen."""

import numpy as np
import pytest
from coordinate_examples import coordinates
from PIL import Image
from skimage import data

from open4m.rng import stream
from open4m.transfer.augment.randaugment import ONE_WAY, OPERATIONS, TWO_WAYS, RandAugment
from open4m.types import Open4MError

PHOTO = np.ascontiguousarray(data.astronaut()[::8, ::8])
PICTURES = [PHOTO, PHOTO[:1, :1], PHOTO[:1, :50], np.zeros((5, 5, 3), np.uint8), np.full((5, 4, 3), 255, np.uint8)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_a_picture_of_the_size_at_every_magnitude(name):
    for rgb in PICTURES:
        for magnitude in range(11):
            for sign in (1, -1) if name in TWO_WAYS else (1,):
                image = Image.fromarray(rgb)
                made = OPERATIONS[name](image, sign * magnitude / 10)
                assert made.size == image.size
                assert made.mode == "RGB"
                np.testing.assert_array_equal(np.asarray(image), rgb)  # what is given stays


@pytest.mark.parametrize("name", sorted(TWO_WAYS))
def test_at_magnitude_0_nothing_changes_and_more_changes_more(name):
    image = Image.fromarray(PHOTO)
    np.testing.assert_array_equal(np.asarray(OPERATIONS[name](image, 0.0)), PHOTO)
    for sign in (1, -1):
        change = [
            np.abs(np.asarray(OPERATIONS[name](image, sign * level)).astype(float) - PHOTO).mean()
            for level in (0.3, 0.6, 0.9)
        ]
        assert 0 < change[0] < change[1] < change[2]


@pytest.mark.parametrize("name", ["posterize", "solarize", "solarize_add"])
def test_larger_magnitudes_change_more_colors(name):
    image = Image.fromarray(PHOTO)
    change = [
        np.abs(np.asarray(OPERATIONS[name](image, level)).astype(float) - PHOTO).mean() for level in (0.0, 0.5, 0.9)
    ]
    assert change[0] < change[1] < change[2]


def test_operations_are_what_they_are_called():
    image = Image.fromarray(PHOTO)
    height, width = PHOTO.shape[:2]
    moved = np.asarray(OPERATIONS["translate_x"](image, 1.0))  # to the left, by 0.45 of 64 = 28.8 pixels
    assert (moved[:, -28:] == 128).all()
    expected = 0.2 * PHOTO[:, 28:-1].astype(float) + 0.8 * PHOTO[:, 29:]
    assert np.abs(moved[:, : width - 29] - expected).max() < 1.01
    np.testing.assert_array_equal(np.asarray(OPERATIONS["invert"](image, 1.0)), 255 - PHOTO)
    np.testing.assert_array_equal(np.asarray(OPERATIONS["posterize"](image, 0.9)), PHOTO & 0x80)
    np.testing.assert_array_equal(np.asarray(OPERATIONS["posterize"](image, 0.0)), PHOTO & 0xF0)
    np.testing.assert_array_equal(
        np.asarray(OPERATIONS["solarize"](image, 0.5)), np.where(PHOTO < 128, PHOTO, 255 - PHOTO)
    )
    dark = PHOTO.astype(int)
    np.testing.assert_array_equal(
        np.asarray(OPERATIONS["solarize_add"](image, 0.5)), np.where(dark < 128, dark + 55, dark)
    )
    bright = np.asarray(OPERATIONS["brighten"](image, -1.0)).astype(float)
    assert np.abs(bright - 0.1 * PHOTO).max() < 1.01
    turned = np.asarray(OPERATIONS["rotate"](image, 1.0))
    np.testing.assert_array_equal(turned, np.asarray(image.rotate(30, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)))
    sheared = np.asarray(OPERATIONS["shear_x"](image, 1.0))
    for row in range(height):  # row y shows places x + 0.3 (y + 1/2)
        places = np.arange(width) + 0.3 * (row + 0.5)
        inside = places.astype(int) + 1 < width
        first = places.astype(int)[inside]
        weight = (places[inside] - first)[:, None]
        expected = (1 - weight) * PHOTO[row, first] + weight * PHOTO[row, first + 1]
        assert np.abs(sheared[row, inside] - expected).max() < 1.01


def test_every_operation_is_chosen_equally_often_with_its_probability(monkeypatch):
    counts = dict.fromkeys(OPERATIONS, 0)
    levels = []

    def counting(name):
        def operation(image, level):
            counts[name] += 1
            levels.append(level if name in TWO_WAYS else abs(level))
            return image

        return operation

    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, counting(name))
    step = RandAugment()
    for seed in range(3000):
        step.apply({"rgb": PHOTO}, stream(seed))
    total = sum(counts.values())
    assert abs(total / 6000 - 0.5) < 0.02  # two operations, each with probability 1/2
    assert all(abs(count / total - 1 / len(OPERATIONS)) < 0.02 for count in counts.values())
    assert abs(np.mean(np.abs(levels)) - 0.9) < 0.01
    assert abs(np.std(np.abs(levels)) - 0.05) < 0.01  # a little less: none is above 1
    assert max(map(abs, levels)) <= 1
    share = len(TWO_WAYS) / len(OPERATIONS) / 2
    assert abs(np.mean(np.array(levels) < 0) - share) < 0.03
    assert set(OPERATIONS) == {*TWO_WAYS, *ONE_WAY}


def test_equal_streams_give_equal_pictures_and_nothing_given_is_changed():
    step = RandAugment(probability=1)
    given = PHOTO.copy()
    given.flags.writeable = False
    example = {"rgb": given, "label": 4}
    made = [step.apply(example, stream(seed))["rgb"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(made[0], made[1])
    assert (made[0] != made[2]).any()
    assert made[0].shape == PHOTO.shape
    assert step.apply(example, stream(0))["label"] == 4
    assert RandAugment(probability=0).apply(example, stream(0))["rgb"] is given
    assert RandAugment(operations=0).apply(example, stream(0))["rgb"] is given


def test_examples_with_maps_or_objects_are_refused():
    with pytest.raises(Open4MError, match=r"RandAugment: moves the picture alone, but the example has semseg, depth, "):
        RandAugment().apply(coordinates(5, 5), stream(0))
    with pytest.raises(Open4MError, match="has instances: use ColorJitter"):
        RandAugment().apply({key: coordinates(5, 5)[key] for key in ("rgb", "instances", "label")}, stream(0))
