"""The sheet of an augmented example shows what the pipeline makes."""

import numpy as np
from coordinate_examples import boxed, coordinates
from PIL import Image

from open4m.pictures import picture
from open4m.rng import stream
from open4m.transfer.augment import lists
from open4m.transfer.augment.drawing import contact_sheet, draw_instances

RED = np.array([209, 73, 91])
"""The first of the colors of objects."""


def contains(sheet, tile):
    """Whether a picture is somewhere in a larger one, pixel for pixel."""
    sheet, tile = np.asarray(sheet).astype(int), np.asarray(tile).astype(int)
    height, width = tile.shape[:2]
    corner = (sheet[: -height + 1 or None, : -width + 1 or None] == tile[0, 0]).all(-1)
    return any((sheet[y : y + height, x : x + width] == tile).all() for y, x in np.argwhere(corner))


def test_a_sheet_has_the_example_and_a_version_of_each_seed():
    rng = np.random.default_rng(0)
    example = {**coordinates(30, 40, [(2, 2, 20, 20)]), "rgb": rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)}
    pipeline = lists.ade20k(64).train
    sheet = contact_sheet(example, pipeline, seeds=(3, 5), tile=64)
    assert contains(sheet, picture(example["rgb"], 64))
    for seed in (3, 5):
        made, _ = pipeline(example, stream(seed))
        assert contains(sheet, picture(made["rgb"], 64))
        assert contains(sheet, draw_instances(made["rgb"], made["instances"], 64))
    made, _ = pipeline(example, stream(4))
    assert not contains(sheet, picture(made["rgb"], 64))
    rows = 6  # rgb, semseg, depth, normals, places, instances; the label has no place
    assert sheet.height > rows * 64
    assert sheet.height < (rows + 1) * 64


def test_maps_without_measurements_and_examples_without_objects_are_drawn_too():
    example = coordinates(30, 40)
    for key in ("depth", "normals", "places"):
        example[key] = np.full_like(example[key], np.nan)
    example["semseg"] = np.full((30, 40), 255, np.uint8)
    sheet = contact_sheet(example, lists.nyuv2(32).train, seeds=(0,), tile=48)
    assert sheet.width > 2 * 48


def test_boxes_lie_on_their_objects_and_masks_are_tinted():
    black = np.zeros((50, 100, 3), np.uint8)
    drawn = np.asarray(draw_instances(black, boxed((50, 100), [(20, 10, 60, 40)]), 200))
    # 50 × 100 pixels fill rows 50 to 150 of 200; the box is drawn at twice its size
    edges = np.abs(drawn - RED.astype(int)).sum(-1) == 0
    rows, columns = edges.any(1).nonzero()[0], edges.any(0).nonzero()[0]
    assert (rows[0], rows[-1] + 1) == (70, 130)
    assert (columns[0], columns[-1] + 1) == (40, 120)
    inside = drawn[75:125, 45:115]
    assert np.abs(inside - (RED / 2).round()).max() <= 1
    assert (drawn[55:65, 45:115] == 0).all()
    assert (drawn[:49] == 255).all()  # the band above


def test_crowds_are_dashed_and_classes_written():
    black = np.zeros((40, 40, 3), np.uint8)
    alone, crowd = boxed((40, 40), [(5, 5, 35, 35)]), boxed((40, 40), [(5, 5, 35, 35)], crowd=[True])
    plain, dashed = (np.asarray(draw_instances(black, objects, 80)) for objects in (alone, crowd))

    def edges(image):
        return (np.abs(image - RED.astype(int)).sum(-1) == 0).sum()

    assert 0.3 * edges(plain) < edges(dashed) < 0.8 * edges(plain)
    named = np.asarray(draw_instances(black, alone, 80, classes=["cat"]))
    rows, columns = (named != plain).any(-1).nonzero()
    assert rows.size > 30
    assert rows.max() < 40  # in the upper left corner of the box
    assert columns.max() < 50
    assert isinstance(draw_instances(black, boxed((40, 40), []), 80), Image.Image)
