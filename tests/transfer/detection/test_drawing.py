"""Pictures of what is there and what was found."""

import numpy as np
import pytest
from PIL import ImageColor
from rectangles import picture, rectangles

from open4m.datasets.labelled.run_lengths import encode
from open4m.modalities.boxes import color_of
from open4m.transfer.detection.drawing import LEAST_SCORE, draw

NAMES = ("red", "green", "blue")


def example(side=64):
    true = rectangles([[8, 8, 28, 40], [36, 20, 60, 50]], [0, 2], side=side)
    return {"rgb": picture(true, side), "instances": true}


def detections(true, scores, with_masks=True):
    found = {"boxes": true.boxes, "classes": true.classes, "scores": np.float32(scores)}
    return found | ({"masks": [encode(mask) for mask in true.masks]} if with_masks else {})


def count(image, color):
    return int((np.asarray(image) == ImageColor.getrgb(color)).all(-1).sum())


def test_the_truth_is_drawn_beside_the_prediction_in_the_same_colors():
    given = example()
    sheet = draw(given, detections(given["instances"], [0.9, 0.8]), NAMES)
    assert sheet.width > 3 * 256 > sheet.width - 60
    found, truth = sheet.crop((262, 0, 524, sheet.height)), sheet.crop((524, 0, sheet.width, sheet.height))
    for name in ("red", "blue"):
        assert count(truth, color_of(name, NAMES)) > 200
        assert count(found, color_of(name, NAMES)) > count(truth, color_of(name, NAMES))  # the label has a score too
    assert count(sheet, color_of("green", NAMES)) == 0


def test_what_is_unsure_is_not_drawn():
    given = example()
    sheet = draw(given, detections(given["instances"], [0.9, LEAST_SCORE / 2]), NAMES)
    found = sheet.crop((262, 0, 524, sheet.height))
    assert count(found, color_of("red", NAMES)) > 200
    assert count(found, color_of("blue", NAMES)) == 0


def test_masks_are_outlined_and_boxes_drawn_without_them():
    given = example()
    given["instances"].masks[0, :, :] = False
    given["instances"].masks[0, 20:30, 12:20] = True
    nothing = detections(rectangles([]), [])
    outlined = draw(given, nothing, NAMES)
    flat = draw(
        given | {"instances": rectangles([[8, 8, 28, 40], [36, 20, 60, 50]], [0, 2], masks=False)}, nothing, NAMES
    )
    red = color_of("red", NAMES)
    assert 100 < count(outlined, red) - count(flat, red) < 200  # four sides of 32 and 40 pixels, one wide
    assert (np.asarray(outlined)[:, :258] == np.asarray(flat)[:, :258]).all()


def test_pictures_of_any_shape_without_a_truth_and_with_nothing_found():
    pixels = np.full((30, 300, 3), 200, np.uint8)
    sheet = draw({"rgb": pixels}, detections(rectangles([], side=300), [], with_masks=False), NAMES)
    assert sheet.width > 600
    assert sheet.height < 120


@pytest.mark.parametrize(("scores", "title"), [([0.9, 0.8], "prediction"), ([0.2, 0.1], "nothing above 30%")])
def test_a_picture_in_which_nothing_is_sure_says_so(monkeypatch, scores, title):
    titles = []
    monkeypatch.setattr("open4m.transfer.detection.drawing.grid", lambda rows, columns: titles.extend(columns))
    given = example()
    draw(given, detections(given["instances"], scores), NAMES)
    assert titles == ["image", title, "truth"]
