"""Every map, box and mask of an example lies where the affine map says, whatever the step and the picture's shape."""

import math

import numpy as np
import pytest
from coordinate_examples import boxed, coordinates, copied
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.datasets.labelled.base import IGNORED
from open4m.modalities.crops import Crop, resample
from open4m.rng import stream
from open4m.transfer.augment.geometric import (
    CenterCrop,
    Fit,
    Flip,
    LargeScaleJitter,
    RandomCrop,
    RandomResizedCrop,
    Stretch,
)
from open4m.transfer.augment.pipeline import Pipeline
from open4m.types import Open4MError

LISTS = {
    "stretch": (Stretch(side=48),),
    "fit": (Fit(side=48),),
    "center_crop": (CenterCrop(side=48),),
    "center_crop of a part": (CenterCrop(side=48, share=0.7),),
    "random_resized_crop": (RandomResizedCrop(side=48, scale=(0.1, 1.0)),),
    "random_crop": (RandomCrop(side=48, scale=(1.0, 3.0)),),
    "large_scale_jitter": (LargeScaleJitter(side=48),),
    "flip": (Flip(probability=1), Fit(side=48)),
    "all": (
        Flip(),
        RandomResizedCrop(side=64),
        Flip(),
        CenterCrop(side=56, share=0.9),
        LargeScaleJitter(side=48, scale=(1, 2)),
    ),
}
FILLED = [name for name in LISTS if "crop" in name or name == "stretch"]
SIZES = [(60, 90), (90, 60), (48, 48), (20, 31), (7, 200), (200, 7), (1, 1), (1, 150), (250, 2)]
BOXES = {(60, 90): [(0, 0, 90, 60), (10, 20, 30, 50), (70, 5, 90, 9), (40, 40, 41, 41)]}


def inverse(placed):
    """The places (rows, columns) of the picture that the middles of the square's pixels show."""
    middles = np.arange(placed.side) + 0.5
    return [(middles - offset) / scale for scale, offset in zip(placed.scale, placed.offset, strict=True)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LISTS)
def test_all_maps_lie_where_the_affine_map_says(name, size):
    example = coordinates(*size, BOXES.get(size, ()))
    for seed in range(4):
        moved, placed = Pipeline(steps=LISTS[name])(example, stream(seed))
        assert placed.size == size
        assert placed.side == 48
        assert moved["label"] == 3
        y, x = np.broadcast_arrays(*np.ix_(*inverse(placed)))
        near = 1e-4 * max(size)  # rounding of places that lie on an edge between two pixels
        empty = np.isnan(moved["depth"])
        assert empty.shape == (48, 48)
        if name in FILLED:
            assert not empty.any()
        inside = (y > 0) & (y < size[0]) & (x > 0) & (x < size[1])
        sure = np.minimum(abs(y), abs(y - size[0])) > near
        sure &= np.minimum(abs(x), abs(x - size[1])) > near
        assert (empty == ~inside)[sure].all()
        assert (moved["rgb"][empty] == 128).all()
        assert (moved["semseg"][empty] == IGNORED).all()
        assert np.isnan(moved["normals"][empty]).all()
        assert np.isnan(moved["places"][empty]).all()
        shown = ~empty
        sizings = sum(hasattr(step, "side") for step in LISTS[name])
        for number in (moved["semseg"], moved["depth"].astype(np.float64)):
            row, column = np.divmod(number[shown], 1000)
            # the pixel that holds the place; each step of a chain takes whole pixels of what it is given
            slack = 0.5 + near if sizings == 1 else 2.5 * max(1, 1 / min(map(abs, placed.scale)))
            assert np.abs(row + 0.5 - y[shown]).max() <= slack
            assert np.abs(column + 0.5 - x[shown]).max() <= slack
        assert ((moved["semseg"] == moved["depth"]) | empty).all()
        # what is interpolated is exact but for the edges, where the filter sees one side only
        reach = [max(1, 1 / abs(s)) + 1 for s in placed.scale]
        middle = shown & (y > reach[0]) & (y < size[0] - reach[0]) & (x > reach[1]) & (x < size[1] - reach[1])
        if sizings == 1:
            for axis, place in ((0, y), (1, x)):
                # a tent between whole pixels is a plane's mean to 0.09 of a pixel; measured 0.06
                tolerance = 0.1 if abs(placed.scale[axis]) < 1 else 1e-3
                assert np.abs(moved["places"][..., axis] - place)[middle].max(initial=0) < tolerance
                assert np.abs(moved["rgb"][..., axis] + 0.5 - place)[middle].max(initial=0) < 0.51 + tolerance
        assert (moved["rgb"][..., 2][shown] == 77).all()


@pytest.mark.parametrize("name", LISTS)
def test_normals_turn_with_their_pixels_and_stay_unit_vectors(name):
    example = coordinates(60, 90)
    for seed in range(6):
        moved, placed = Pipeline(steps=LISTS[name])(example, stream(seed))
        shown = ~np.isnan(moved["depth"])
        row, column = np.divmod(moved["depth"][shown].astype(np.int64), 1000)
        expected = example["normals"][row, column] * [np.sign(placed.scale[1]), 1, 1]
        np.testing.assert_array_equal(moved["normals"][shown], expected.astype(np.float32))
        np.testing.assert_allclose(np.linalg.norm(moved["normals"][shown], axis=-1), 1, atol=1e-6)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(LISTS)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    seed=st.integers(0, 1 << 20),
    data=st.data(),
)
def test_boxes_of_masks_are_masks_of_boxes(name, size, seed, data):
    """Rectangles of whole pixels: what is left of a box has the box of what is left of its mask, to a pixel."""
    height, width = size
    starts = data.draw(st.lists(st.tuples(st.integers(0, width - 1), st.integers(0, height - 1)), max_size=5))
    boxes = [(x, y, data.draw(st.integers(x + 1, width)), data.draw(st.integers(y + 1, height))) for x, y in starts]
    example = coordinates(height, width, boxes)
    moved, placed = Pipeline(steps=LISTS[name])(example, stream(seed))
    left = moved["instances"]
    assert set(left.classes) <= set(range(len(boxes)))
    (vertical, horizontal), (down, across) = placed.scale, placed.offset
    for i, box in enumerate(left.boxes):
        x0, y0, x1, y1 = boxes[left.classes[i]]
        xs, ys = (
            sorted((x0 * horizontal + across, x1 * horizontal + across)),
            (y0 * vertical + down, y1 * vertical + down),
        )
        expected = np.clip([xs[0], ys[0], xs[1], ys[1]], 0, placed.side)
        # a mask is moved in whole pixels by each step of a list; one of a chain may be off by a few
        slack = 1.01 if name != "all" else 4 * max(1, abs(vertical), abs(horizontal))
        assert np.abs(box - expected).max() <= slack
        rows, columns = left.masks[i].any(1).nonzero()[0], left.masks[i].any(0).nonzero()[0]
        of_mask = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(box - of_mask).max() <= slack
        assert left.masks[i][rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (box[2:] > box[:2]).all()
    if name != "all":
        for i, (x0, y0, x1, y1) in enumerate(boxes):
            if i not in left.classes:
                xs = np.clip([x0 * horizontal + across, x1 * horizontal + across], 0, placed.side)
                ys = np.clip([y0 * vertical + down, y1 * vertical + down], 0, placed.side)
                thin = min(abs(xs[1] - xs[0]), abs(ys[1] - ys[0])) < 1.01  # it may lie between the pixels of a mask
                assert thin or abs(xs[1] - xs[0]) * abs(ys[1] - ys[0]) < 1.01


@pytest.mark.parametrize("name", LISTS)
def test_nothing_that_is_given_is_changed_and_equal_streams_give_equal_examples(name):
    example = coordinates(60, 90, BOXES[60, 90])
    before = copied(example)
    first, placed = Pipeline(steps=LISTS[name])(example, stream(1, 2))
    for array in (v for v in example.values() if isinstance(v, np.ndarray)):
        array.flags.writeable = False  # nor is it tried
    again, same = Pipeline(steps=LISTS[name])(example, stream(1, 2))
    assert same == placed
    for key, value in before.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(example[key], value)
            np.testing.assert_array_equal(first[key], again[key])
    np.testing.assert_array_equal(first["instances"].boxes, again["instances"].boxes)
    if Pipeline(steps=LISTS[name]).is_random and name != "flip":
        assert any(Pipeline(steps=LISTS[name])(example, stream(s))[1] != placed for s in range(5))


@pytest.mark.parametrize(
    "step",
    [
        Stretch(side=40),
        Fit(side=40),
        CenterCrop(side=40),
        RandomResizedCrop(side=40, scale=(1, 1), ratio=(1, 1)),
        RandomCrop(side=40),
        LargeScaleJitter(side=40, scale=(1, 1)),
    ],
)
def test_a_square_of_the_side_stays_as_it_is_at_scale_1(step):
    example = coordinates(40, 40, [(3, 4, 20, 30)])
    moved, placed = Pipeline(steps=(step,))(example, stream(0))
    assert placed.scale == (1, 1)
    assert placed.offset == (0, 0)
    for key in ("rgb", "semseg", "depth", "normals", "places"):
        np.testing.assert_array_equal(moved[key], example[key])
    np.testing.assert_array_equal(moved["instances"].masks, example["instances"].masks)
    np.testing.assert_array_equal(moved["instances"].boxes, example["instances"].boxes)


def test_pictures_are_resized_by_the_filter_of_pre_training():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (70, 101, 3)).astype(np.uint8)
    for step, crop in (
        (CenterCrop(side=32), Crop.center(70, 101, 32)),
        (CenterCrop(side=100), Crop.center(70, 101, 100)),
        (Stretch(side=32), Crop(size=(32, 32))),
    ):
        moved = step.apply({"rgb": rgb}, None)["rgb"].astype(float)
        expected = resample(rgb, crop, "linear")
        assert np.abs(moved - expected).max() < 1.6  # Pillow rounds after each direction, in fixed point


def test_a_random_resized_crop_is_that_of_pre_training():
    step = RandomResizedCrop(side=16, scale=(0.2, 0.9), ratio=(0.75, 1.333))
    for seed in range(20):
        crop = Crop.random(60, 90, 16, stream(seed), (0.2, 0.9), (0.75, 1.333))
        top, left, bottom, right = step.move(coordinates(60, 90), stream(seed)).region
        np.testing.assert_allclose(
            [top, left, bottom - top, right - left],
            np.array([crop.top, crop.left, crop.height, crop.width]) * [60, 90, 60, 90],
            atol=1e-9,
        )
        share = (bottom - top) * (right - left) / 5400
        assert share + 1e-9 >= 0.2
        assert share <= 0.9 + 1e-9


def test_the_factor_of_large_scale_jitter_is_uniform_and_every_crop_is_possible():
    example = coordinates(60, 90)
    step = LargeScaleJitter(side=50, scale=(0.1, 2.0))
    moves = [step.move(example, stream(seed)) for seed in range(2000)]
    factors = np.array([move.scale[1] * 90 / 50 for move in moves])
    assert factors.min() < 0.12
    assert factors.max() > 1.98
    assert abs(factors.mean() - 1.05) < 0.04  # 3 standard errors are 0.037
    assert abs((factors < 0.5).mean() - 0.4 / 1.9) < 0.03
    for move in moves:
        assert move.content[0] == min(50, max(1, round(move.scale[0] * 60)))
        assert move.offset[0] <= 1e-9
        assert move.offset[1] <= 1e-9
    large = [move for move, factor in zip(moves, factors, strict=True) if factor > 1.9]
    assert min(move.offset[1] for move in large) < -40  # the right end
    assert max(move.offset[1] for move in large) > -5  # the left end


def test_a_random_crop_reaches_all_ends_and_its_scale():
    example = coordinates(40, 80)
    moves = [RandomCrop(side=20, scale=(1, 2)).move(example, stream(seed)) for seed in range(500)]
    lengths = np.array([move.region[2] - move.region[0] for move in moves])
    assert lengths.min() < 20.5
    assert lengths.max() > 39
    assert min(move.region[1] for move in moves) < 2
    assert max(move.region[3] for move in moves) > 78
    assert all(move.scale[0] == pytest.approx(move.scale[1]) for move in moves)
    assert all(move.region[0] >= -1e-9 and move.region[2] <= 40 + 1e-9 for move in moves)


def test_a_flip_happens_with_its_probability():
    example = coordinates(4, 6)
    for probability in (0, 0.25, 1):
        moves = [Flip(probability=probability).move(example, stream(seed)) for seed in range(800)]
        assert abs(np.mean([move.mirrored for move in moves]) - probability) < 0.05


def test_a_flip_mirrors_and_a_second_one_restores():
    example = coordinates(30, 50, [(3, 4, 20, 30)])
    flip = Flip(probability=1)
    once = flip.apply(example, stream(0))
    np.testing.assert_array_equal(once["rgb"], example["rgb"][:, ::-1])
    np.testing.assert_array_equal(once["normals"], example["normals"][:, ::-1] * np.float32([-1, 1, 1]))
    np.testing.assert_array_equal(once["instances"].boxes, [[30, 4, 47, 30]])
    twice = flip.apply(once, stream(0))
    for key in ("rgb", "semseg", "depth", "normals", "places"):
        np.testing.assert_array_equal(twice[key], example[key])
    np.testing.assert_array_equal(twice["instances"].masks, example["instances"].masks)


def test_what_a_mirror_would_make_untrue_is_not_flipped():
    example = {"rgb": coordinates(4, 6)["rgb"], "caption": "a cup on the left"}
    assert Flip(probability=1).apply(example, stream(0))["rgb"][0, 0, 1] == 0
    example["caption"] = "a cup"
    assert Flip(probability=1).apply(example, stream(0))["rgb"][0, 0, 1] == 5


def test_objects_are_clipped_scaled_dropped_and_stay_crowds():
    # the crop shows rows 0 to 40 and columns 20 to 60 of 40 × 80 pixels, half as large
    objects = [(25, 10, 35, 30), (0, 0, 30, 40), (0, 0, 20, 40), (59, 0, 80, 3), (58, 0, 80, 20)]
    example = coordinates(40, 80, ())
    example["instances"] = boxed((40, 80), objects, crowd=[False, True, False, False, True])
    moved = CenterCrop(side=20).apply(example, None)["instances"]
    assert moved.classes.tolist() == [0, 1, 4]  # of the fourth, 1/2 × 3/2 pixels are left
    np.testing.assert_allclose(moved.boxes, [[2.5, 5, 7.5, 15], [0, 0, 5, 20], [19, 0, 20, 10]], atol=0.51)
    assert moved.crowd.tolist() == [False, True, True]
    np.testing.assert_allclose(moved.area, [50, 100, 10])
    assert moved.masks.shape == (3, 20, 20)


def test_without_masks_an_object_keeps_the_share_of_its_area_that_its_box_keeps():
    example = coordinates(40, 80, [(25, 10, 35, 30), (0, 0, 40, 40)])
    objects = example["instances"]
    example["instances"] = type(objects)(
        boxes=objects.boxes, classes=objects.classes, masks=None, crowd=objects.crowd, area=np.float32([120, 800])
    )
    moved = CenterCrop(side=20).apply(example, None)["instances"]
    assert moved.masks is None
    np.testing.assert_allclose(moved.boxes, [[2.5, 5, 7.5, 15], [0, 0, 10, 20]])
    np.testing.assert_allclose(moved.area, [30, 100])  # a quarter; a quarter of the half that is shown


def test_a_cut_object_gets_the_box_of_what_is_left_of_it():
    """Of an L, a crop that hides its upright leaves a flat bar."""
    example = coordinates(40, 80, [(10, 0, 60, 40)])
    example["instances"].masks[0, :30, 20:] = False  # upright: columns 10 to 20; foot: rows 30 to 40
    moved = CenterCrop(side=40).apply(example, None)["instances"]
    np.testing.assert_array_equal(moved.boxes, [[0, 30, 40, 40]])
    assert moved.area.tolist() == [400]


def test_examples_without_objects_keep_none():
    for step in (Fit(side=9), CenterCrop(side=9), LargeScaleJitter(side=9), Flip(probability=1)):
        moved = step.apply(coordinates(30, 40), stream(0))["instances"]
        assert len(moved) == 0
        assert moved.masks.shape[0] == 0
        assert moved.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stretch(side=0), "Stretch: side: expected at least 1"),
        (lambda: CenterCrop(side=4, share=1.5), "CenterCrop: share: expected at most 1"),
        (lambda: RandomResizedCrop(side=4, scale=(0.5, 0.2)), r"scale: expected \(lowest, highest\), got \(0.5, 0.2\)"),
        (lambda: RandomResizedCrop(side=4, ratio=(2, 1)), "ratio: expected"),
        (lambda: RandomCrop(side=4, scale=(0.5, 1)), r"scale\[0\]: expected at least 1"),
        (lambda: LargeScaleJitter(side=4, scale=(math.nan, 1)), r"scale\[0\]: expected"),
        (lambda: Flip(probability=2), "probability: expected at most 1"),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(Open4MError, match=message):
        make()
