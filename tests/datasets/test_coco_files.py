"""Masks of COCO's annotations, compared with those of COCO's library."""

import numpy as np
import pytest
from faster_coco_eval import mask as masks
from layout_trees import rle

from open4m.datasets.coco_files import about, mask_of

SIZE = (48, 64)


def outlines():
    rng = np.random.default_rng(1)
    for count in (3, 4, 7, 40):
        for scale in (3, 40, 200):
            for _ in range(8):
                points = rng.normal((32, 24), scale, (count, 2))
                yield points.round(2)
    yield np.array([[8, 8], [40, 8], [40, 40], [8, 40]])
    yield np.array([[0, 0], [64, 0], [64, 48], [0, 48]])  # all of it
    yield np.array([[5, 5], [5, 5], [20, 5], [20, 30], [20, 30]])  # edges without length
    yield np.array([[5.3, 5], [5.3, 30], [5.3, 17]])  # no area
    yield np.array([[-50, -50], [-10, -50], [-10, -10]])  # outside


@pytest.mark.parametrize("points", list(outlines()), ids=lambda points: f"{len(points)} points")
def test_an_outline_encloses_the_pixels_that_the_library_says(points):
    flat = points.astype(float).ravel().tolist()
    theirs = masks.decode(masks.merge(masks.frPyObjects([flat], *SIZE))).astype(bool)
    np.testing.assert_array_equal(mask_of([flat], SIZE), theirs)


def test_parts_of_one_object_are_united():
    parts = [[2.0, 2, 20, 2, 20, 20, 2, 20], [10.0, 10, 40, 10, 40, 30, 10, 30]]
    theirs = masks.decode(masks.merge(masks.frPyObjects(parts, *SIZE))).astype(bool)
    np.testing.assert_array_equal(mask_of(parts, SIZE), theirs)
    assert not mask_of([], SIZE).any()
    assert not mask_of([[1.0, 2, 3, 4]], SIZE).any()  # two points enclose nothing


def test_run_lengths_are_of_the_image_s_size():
    mask = np.random.default_rng(0).random(SIZE) < 0.5
    np.testing.assert_array_equal(mask_of(rle(mask), SIZE), mask)
    with pytest.raises(ValueError, match="in an image of"):
        mask_of(rle(mask), (64, 48))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("annotations/instances_train2017.json", ("instances", "train2017")),
        ("annotations/panoptic_val2017.json", ("panoptic", "val2017")),
        ("valid/_annotations.coco.json", ("instances", "valid")),
        ("result.json", ("instances", "images")),
        ("annotations/train.json", ("instances", "train")),
    ],
)
def test_a_file_s_name_says_what_it_is_about(path, found):
    assert about(path) == found
