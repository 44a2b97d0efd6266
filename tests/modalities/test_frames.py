"""One frame per sample: what the square shows, where boxes are, and the way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m import modalities
from open4m.modalities.frames import FITS, Frame, frame_of, positioned, turned
from open4m.types import Boxes, Open4MError

RGB, DEPTH, BOXES, CLIP = (modalities.get(name) for name in ("rgb", "depth", "boxes", "clip"))
KNOWN = {name: modalities.get(name) for name in modalities.names()}
SIDES = st.integers(1, 90)


def ramp(height, width):
    """Depth that tells its place: rows in steps of 1000 m, columns of 1 m."""
    return (1000 * np.arange(height)[:, None] + np.arange(width) + 1).astype(np.float32)


def test_the_square_of_each_fit_by_hand():
    depth = ramp(2, 4)
    assert DEPTH.fit(depth, 2).tolist() == [[2, 3], [1002, 1003]]
    assert DEPTH.fit(depth, 4, "stretch").tolist() == [[1, 2, 3, 4]] * 2 + [[1001, 1002, 1003, 1004]] * 2
    assert DEPTH.fit(depth, 4, "letterbox").tolist() == [
        [1, 2, 3, 4],  # mirrored
        [1, 2, 3, 4],
        [1001, 1002, 1003, 1004],
        [1001, 1002, 1003, 1004],
    ]
    assert DEPTH.fit(depth.T, 4, "letterbox").T.tolist() == DEPTH.fit(depth, 4, "letterbox").tolist()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("extent", [(20, 40), (40, 20), (30, 30), (7, 90), (31, 30)])
def test_what_lies_in_bands_is_not_seen(fit, extent):
    frame = Frame(*extent, fit)
    outside = frame.outside((8, 8)).reshape(8, 8)
    rows, columns = frame.inside(64)
    seen = np.zeros((64, 64), dtype=bool)
    seen[rows, columns] = True
    if fit != "letterbox" or extent == (30, 30):
        assert seen.all()
        assert not outside.any()
        return
    by_cell = seen.reshape(8, 8, 8, 8).any((1, 3))
    assert np.array_equal(by_cell, ~outside)
    shown = np.array([rows.stop - rows.start, columns.stop - columns.start]) / 64
    np.testing.assert_allclose(shown, np.array(extent) / max(extent), atol=0.5 / 64)


@given(SIDES, SIDES, st.sampled_from(FITS), st.data())
@settings(max_examples=120, deadline=None)
def test_boxes_that_are_seen_come_back_from_the_square(height, width, fit, data):
    """Whatever the aspect: into the square and back, a box is what is seen of it."""
    frame = Frame(height, width, fit)
    x0, x1 = sorted(data.draw(st.tuples(*[st.floats(0, 1, width=32)] * 2)))
    y0, y1 = sorted(data.draw(st.tuples(*[st.floats(0, 1, width=32)] * 2)))
    boxes = Boxes([[x0, y0, x1, y1]], ["cube"], (0.5,), malformed=3)
    square = positioned({"boxes": boxes}, KNOWN, frame)["boxes"]
    back = frame.placed(BOXES, square)
    assert (back.labels, back.scores, back.malformed) == (square.labels, square.scores, 3)
    top, left, tall, broad = frame.window
    window = np.array([left / width, top / height, (left + broad) / width, (top + tall) / height])
    if fit != "crop" or height == width:
        assert len(back) == 1
        np.testing.assert_allclose(back.corners, boxes.corners, atol=1e-5)
    elif len(back):
        expected = np.clip(boxes.corners[0], np.tile(window[:2], 2), np.tile(window[2:], 2))
        np.testing.assert_allclose(back.corners[0], expected, atol=1e-5)


@pytest.mark.parametrize("corners", [(0.5, 0.5, 0.5, 0.5), (0.4, 0.5, 0.6, 0.5), (0.5, 0.1, 0.5, 0.9)])
def test_a_box_without_area_is_kept_where_it_is_seen(corners):
    """Whatever else is given: beside a square, a wide image, or none."""
    boxes = Boxes([corners, (0.05, 0.5, 0.05, 0.5)], ["cube", "ball"])
    for frame, left in ((None, 2), (Frame(30, 30), 2), (Frame(20, 40, "stretch"), 2), (Frame(20, 40), 1)):
        assert positioned({"boxes": boxes}, KNOWN, frame)["boxes"].labels == boxes.labels[:left]


@given(SIDES, SIDES, st.integers(1, 4), st.sampled_from(FITS))
@settings(max_examples=25, deadline=None)
def test_a_map_comes_back_at_the_resolution_of_the_picture(height, width, times, fit):
    """Of a square with a pixel for each of the picture, or several, nothing is lost."""
    frame, depth = Frame(height, width, fit), ramp(height, width)
    size = {"crop": min, "letterbox": max}.get(fit, lambda *sides: sides[0] * sides[1])(height, width) * times
    back = frame.restored(DEPTH, frame.squared(DEPTH, depth, size))
    expected = depth[frame.seen]
    assert back.shape == expected.shape
    off = int(fit != "stretch" and (height - width) % 2)  # a square between two pixels takes one or the other
    assert np.abs(back % 1000 - expected % 1000).max() <= off
    assert np.abs(back // 1000 - expected // 1000).max() <= off


# ---- maps of one picture


def shown(*extents):
    """Values of one sample, by name, of these heights and widths."""
    makers = {
        "rgb": lambda h, w: np.zeros((h, w, 3), np.uint8),
        "depth": lambda h, w: np.ones((h, w), np.float32),
        "semseg": lambda h, w: np.zeros((h, w), np.uint8),
        "clip": lambda h, w: np.ones((h, w, 5), np.float32),
    }
    return {name: makers[name](*extent) for name, extent in extents}


@pytest.mark.parametrize(
    "extents",
    [
        [("rgb", (375, 500)), ("depth", (375, 500)), ("clip", (12, 16))],
        [("depth", (94, 125)), ("rgb", (375, 500)), ("semseg", (47, 63))],  # rounded, up and down
        [("rgb", (224, 240)), ("clip", (14, 15))],
        [("rgb", (1, 1)), ("depth", (9, 9))],
    ],
)
def test_maps_of_one_picture_may_have_any_resolution(extents):
    """The frame is that of the image, whichever is named first and however large the others are."""
    assert frame_of(shown(*extents), KNOWN) == Frame(*dict(extents)["rgb"])


@pytest.mark.parametrize(
    ("extents", "message"),
    [
        ([("rgb", (20, 40)), ("depth", (9, 9))], r"rgb is 20×40 and depth 9×9 \(height × width\)"),
        ([("semseg", (64, 64)), ("rgb", (20, 40))], "rgb is 20×40 and semseg 64×64"),
        ([("rgb", (20, 40)), ("depth", (40, 20))], "depth 40×20 .* turn it as EXIF data turn the image"),
        ([("depth", (30, 90)), ("clip", (8, 8))], "depth is 30×90 and clip 8×8"),
        ([("rgb", (480, 640)), ("depth", (480, 600))], "rgb is 480×640 and depth 480×600"),
    ],
)
def test_maps_of_other_pictures_are_refused_with_both_sizes(extents, message):
    with pytest.raises(Open4MError, match=message):
        frame_of(shown(*extents), KNOWN)


def test_labels_of_the_central_square_stand_beside_a_wide_image():
    sample = shown(("clip", (8, 8)), ("rgb", (20, 40)))
    assert frame_of(sample, KNOWN, squares=("clip",)) == Frame(20, 40)
    with pytest.raises(Open4MError, match="clip 8×9"):
        frame_of(shown(("clip", (8, 9)), ("rgb", (20, 40))), KNOWN, squares=("clip",))


def test_without_maps_there_is_no_frame():
    boxes = Boxes([[0, 0, 0.1, 1]], ["cube"])
    assert frame_of({"caption": "a cube", "boxes": boxes}, KNOWN) is None
    assert positioned({"boxes": boxes}, KNOWN, None) == {"boxes": boxes}


@pytest.mark.parametrize("arguments", [(0, 3), (3, -1), (3, 3, "squash"), (3, 3, None)])
def test_frames_that_cannot_be_are_refused(arguments):
    with pytest.raises(Open4MError, match=r"a frame has at least one pixel|fit: expected one of crop, letterbox"):
        Frame(*arguments)


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", TURNS)
def test_labels_turn_as_their_image_does(orientation):
    """Of every orientation of EXIF data: pixels, classes, boxes, and normals, whose vectors turn with the surface."""
    rng, turn = np.random.default_rng(0), TURNS[orientation]
    pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    shown = pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
    for name, value in (("rgb", pixels), ("semseg", pixels[..., 0])):
        expected = shown if name == "rgb" else shown[..., 0]
        np.testing.assert_array_equal(turned(modalities.get(name), value, orientation), expected)

    marked = np.zeros((40, 60), np.uint8)
    marked[4:12, 30:54] = 255  # y 0.1 to 0.3, x 0.5 to 0.9
    rows, columns = np.nonzero(np.asarray(Image.fromarray(marked).transpose(turn)) if turn is not None else marked)
    height, width = (60, 40) if orientation >= 5 else (40, 60)
    box = turned(modalities.get("boxes"), Boxes(np.array([[0.5, 0.1, 0.9, 0.3]]), ("a",)), orientation)
    seen = [columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height]
    np.testing.assert_allclose(box.corners[0], seen, atol=1e-6)

    # A plane that faces right: after the turn it faces where the right edge of the image has gone to.
    right, center = np.zeros((9, 9), np.uint8), np.array([4, 4])
    right[4, 8] = 255
    moved = np.asarray(Image.fromarray(right).transpose(turn)) if turn is not None else right
    down, along = (np.argwhere(moved)[0] - center) / 4
    facing = np.broadcast_to(np.float32([1, 0, 0]), (5, 7, 3))
    normal = turned(modalities.get("normals"), facing, orientation)
    assert normal.shape[:2] == ((7, 5) if orientation >= 5 else (5, 7))
    np.testing.assert_allclose(normal[0, 0], [along, -down, 0], atol=1e-6)
    up = turned(modalities.get("normals"), np.broadcast_to(np.float32([0, 1, 0]), (5, 7, 3)), orientation)
    top = np.zeros((9, 9), np.uint8)
    top[0, 4] = 255
    moved = np.asarray(Image.fromarray(top).transpose(turn)) if turn is not None else top
    down, along = (np.argwhere(moved)[0] - center) / 4
    np.testing.assert_allclose(up[0, 0], [along, -down, 0], atol=1e-6)


def test_positions_that_cannot_turn_say_so():
    people = modalities.get("human_poses")
    with pytest.raises(Open4MError, match="save both upright"):
        turned(people, object(), 5)
