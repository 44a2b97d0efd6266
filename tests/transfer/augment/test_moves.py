"""One move: its affine map, what is mixed and what is not, what lies beside the picture."""

import numpy as np
import pytest
from coordinate_examples import boxed, coordinates

from open4m.datasets.labelled.base import IGNORED
from open4m.transfer.augment.moves import Move, mask_boxes, moved, moved_instances, resized
from open4m.types import Boxes, Open4MError


@pytest.mark.parametrize("mirrored", [False, True])
def test_scale_and_offset_take_the_region_to_the_content(mirrored):
    move = Move((2, 3, 12, 23), (30, 10), (40, 40), mirrored)
    corners = np.array([[2, 3], [12, 23]]) * move.scale + move.offset
    np.testing.assert_allclose(corners, [[0, 10], [30, 0]] if mirrored else [[0, 0], [30, 10]])


def test_a_mirrored_region_is_padded_on_the_right_as_any_other():
    example = coordinates(20, 40)
    plain = moved(example, Move((0, 10, 20, 30), (20, 20), (32, 32)))
    mirror = moved(example, Move((0, 10, 20, 30), (20, 20), (32, 32), mirrored=True))
    np.testing.assert_array_equal(mirror["depth"][:20, :20], plain["depth"][:20, :20][:, ::-1])
    for key, empty in (("rgb", 128), ("semseg", IGNORED), ("depth", np.nan), ("places", np.nan)):
        assert mirror[key].dtype == example[key].dtype
        np.testing.assert_array_equal(mirror[key][20:], np.full_like(mirror[key][20:], empty))
        np.testing.assert_array_equal(mirror[key][:, 20:], np.full_like(mirror[key][:, 20:], empty))


def test_maps_of_yes_and_no_are_no_beside_the_picture():
    seen = moved(
        {"rgb": np.zeros((4, 4, 3), np.uint8), "seen": np.ones((4, 4), bool)}, Move((0, 0, 4, 4), (4, 4), (6, 6))
    )
    assert seen["seen"].dtype == bool
    assert seen["seen"].sum() == 16


def test_measurements_are_never_mixed():
    """Not across an edge, and not with what was not measured: all numbers that come out were there before."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 9, (37, 53)).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < 0.3] = np.nan
    for content in ((20, 20), (80, 90)):
        out = moved(
            {"rgb": np.zeros((37, 53, 3), np.uint8), "depth": depth}, Move((1.5, 2.25, 36, 50), content, content)
        )
        assert set(np.unique(out["depth"][~np.isnan(out["depth"])])) <= set(np.unique(depth))
        assert 0.2 < np.isnan(out["depth"]).mean() < 0.4


def test_interpolated_maps_mix_what_was_measured_and_stay_nan_where_the_nearest_is():
    values = np.full((20, 30), 5.0, np.float32)
    values[:, 10:] = np.nan
    out = resized(values, Move((0, 0, 20, 30), (40, 60), (40, 60)))
    np.testing.assert_allclose(out[:, :20], 5, rtol=1e-6)
    assert np.isnan(out[:, 20:]).all()
    small = resized(values, Move((0, 0, 20, 30), (7, 11), (7, 11)))
    measured = ~np.isnan(small)
    np.testing.assert_allclose(small[measured], 5, rtol=1e-5)
    # column i shows the middle 30 (i + 1/2) / 11: below 10 up to i = 3
    assert measured.all(0).tolist() == [True] * 4 + [False] * 7


def test_interpolation_is_that_of_a_naive_loop():
    """Bilinear with a tent as wide as a step, of a region with fractional edges, over all pixels of the picture."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(23, 31)).astype(np.float32)
    for region, content in (((3.3, 4.7, 19.2, 28.1), (9, 40)), ((0, 0, 23, 31), (50, 7))):
        out = resized(values, Move(region, content, content))
        expected = np.zeros(content)
        step = [(region[a + 2] - region[a]) / content[a] for a in (0, 1)]
        reach = [max(1.0, s) for s in step]
        for i in range(content[0]):
            for j in range(content[1]):
                y, x = region[0] + (i + 0.5) * step[0], region[1] + (j + 0.5) * step[1]
                weights = np.maximum(0, 1 - np.abs(np.arange(23) + 0.5 - y) / reach[0])[:, None]
                weights = weights * np.maximum(0, 1 - np.abs(np.arange(31) + 0.5 - x) / reach[1])
                expected[i, j] = (weights * values).sum() / weights.sum()
        np.testing.assert_allclose(out, expected, atol=2e-5)  # Pillow holds edges in float32: measured 6e-6


def test_objects_thinner_than_a_pixel_of_their_mask_are_dropped():
    objects = boxed((100, 100), [(10, 10, 11, 90), (50, 50, 90, 90)])  # 0.1 × 8 and 4 × 4 pixels
    left = moved_instances(objects, Move((0, 0, 100, 100), (10, 10), (10, 10)))
    assert left.classes.tolist() == [1]
    wider = moved_instances(objects, Move((0, 0, 100, 100), (20, 20), (20, 20)))  # 0.2 × 16, between the mask's pixels
    assert wider.classes.tolist() == [1]
    assert moved_instances(objects, Move((0, 0, 100, 100), (100, 100), (100, 100))).classes.tolist() == [0, 1]


def test_boxes_of_masks_are_those_of_a_naive_search():
    rng = np.random.default_rng(2)
    masks = rng.uniform(size=(6, 9, 13)) < 0.05
    masks[2] = False
    for mask, box in zip(masks, mask_boxes(masks), strict=True):
        rows, columns = np.nonzero(mask)
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if mask.any() else [0, 0, 0, 0]
        assert box.tolist() == expected


def test_positions_of_a_kind_that_cannot_be_moved_are_refused():
    example = {"rgb": np.zeros((4, 4, 3), np.uint8), "boxes": Boxes(np.zeros((0, 4)), ())}
    with pytest.raises(Open4MError, match="boxes: Boxes cannot be moved with its picture; give objects as Instances"):
        moved(example, Move((0, 0, 4, 4), (2, 2), (2, 2)))
