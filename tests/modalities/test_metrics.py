"""Metrics of the modalities, against values worked out by hand or computed another way."""

from __future__ import annotations

import numpy as np
import pytest

from open4m import modalities
from open4m.types import Boxes

DEPTH, NORMALS, SEMSEG, BOXES, RGB, CLIP = map(modalities.get, ("depth", "normals", "semseg", "boxes", "rgb", "clip"))


def random_depth(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 10, (6, 5)).astype(np.float32)


# ---- depth


def test_abs_rel_is_the_mean_error_relative_to_the_label():
    label = np.float32([[1, 2], [4, 8]])
    metrics = DEPTH.metrics([label + 1], [label])
    assert metrics["abs_rel"] == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 8) / 4)


def test_standardized_l1_by_hand():
    label, prediction = np.float32([[1, 3]]), np.float32([[3, 1]])  # standardized: (-1, 1) and (1, -1)
    assert DEPTH.metrics([prediction], [label])["standardized_l1"] == pytest.approx(2)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, 7.0), (0.25, 2.0)])
def test_standardized_l1_does_not_see_scale_and_shift(scale, shift):
    labels, predictions = [random_depth(0), random_depth(1)], [random_depth(2), random_depth(3)]
    moved = [scale * p + shift for p in predictions]
    plain = DEPTH.metrics(predictions, labels)
    # float32 maps of 30 pixels: 3e-7 measured
    assert DEPTH.metrics(moved, labels)["standardized_l1"] == pytest.approx(plain["standardized_l1"], rel=1e-5)
    assert DEPTH.metrics(moved, labels)["abs_rel"] != pytest.approx(plain["abs_rel"], rel=1e-2)


def test_a_constant_depth_is_one_mean_deviation_away():
    label = random_depth(0)
    expected = np.abs((label - label.mean()) / label.std()).mean()
    measured = DEPTH.metrics([np.full_like(label, 3.0)], [label])["standardized_l1"]
    assert measured == pytest.approx(expected, rel=1e-5)


# ---- normals


@pytest.mark.parametrize("degrees", [0, 30, 90, 180])
def test_mean_angle_of_rotated_normals_is_the_rotation(degrees):
    generator = np.random.default_rng(0)
    flat = generator.uniform(0, 2 * np.pi, (4, 4))  # normals in the plane that is turned
    turned = flat + np.radians(degrees)
    label, prediction = (np.stack([np.cos(a), np.sin(a), 0 * a], -1).astype(np.float32) for a in (flat, turned))
    # arccos near 1 turns float32's 1e-7 into 0.03 degrees
    assert NORMALS.metrics([prediction], [label])["mean_angle"] == pytest.approx(degrees, abs=0.05)


def test_mean_angle_averages_over_pixels_and_images():
    up, front = np.float32([0, 1, 0]), np.float32([0, 0, 1])
    label = np.stack([[front, front]])
    predictions = [np.stack([[front, up]]), label]  # 0 and 90 degrees; 0 and 0
    assert NORMALS.metrics(predictions, [label, label])["mean_angle"] == pytest.approx(22.5)


# ---- segmentation


def test_miou_by_hand_ignores_a_class_that_does_not_occur():
    label, prediction = np.uint8([[0, 0], [2, 2]]), np.uint8([[0, 2], [2, 2]])
    metrics = SEMSEG.metrics([prediction], [label])
    assert metrics["miou"] == pytest.approx((1 / 2 + 2 / 3) / 2)  # class 1 is neither label nor prediction
    assert metrics["pixel_accuracy"] == pytest.approx(3 / 4)


def test_a_predicted_class_without_labels_costs_the_classes_it_hides():
    label, prediction = np.uint8([[0, 0], [2, 2]]), np.uint8([[0, 1], [2, 2]])
    assert SEMSEG.metrics([prediction], [label])["miou"] == pytest.approx((1 / 2 + 1) / 2)


def test_miou_is_over_all_pixels_together():
    labels = [np.uint8([[0, 0]]), np.uint8([[0, 1]])]
    predictions = [np.uint8([[0, 0]]), np.uint8([[1, 1]])]
    assert SEMSEG.metrics(predictions, labels)["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


# ---- boxes

LEFT, RIGHT = (0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


def test_perfect_boxes_have_an_ap_of_one():
    labels = [Boxes([LEFT, RIGHT], ("box", "cone")), Boxes([LEFT], ("box",)), Boxes(np.zeros((0, 4)), ())]
    assert BOXES.metrics(labels, labels) == pytest.approx({"ap": 1.0, "ap50": 1.0})


def test_no_boxes_have_an_ap_of_zero():
    nothing, labels = Boxes(np.zeros((0, 4)), ()), [Boxes([LEFT], ("box",)), Boxes([RIGHT, LEFT], ("box", "box"))]
    assert BOXES.metrics([nothing, nothing], labels) == {"ap": 0.0, "ap50": 0.0}
    assert BOXES.metrics(labels, [nothing, nothing]) == {"ap": 0.0, "ap50": 0.0}


def test_a_wrong_class_is_a_miss():
    assert BOXES.metrics([Boxes([LEFT], ("cone",))], [Boxes([LEFT], ("box",))])["ap"] == 0


def test_ap_counts_the_thresholds_that_a_box_passes():
    label = Boxes([(0.0, 0.0, 1.0, 1.0)], ("box",))
    prediction = Boxes([(0.0, 0.0, 1.0, 0.78)], ("box",))  # IoU 0.78 passes 0.5, 0.55, ... 0.75: 6 of 10
    assert BOXES.metrics([prediction], [label]) == pytest.approx({"ap": 0.6, "ap50": 1.0})


def test_ap_by_hand_of_unequal_numbers_of_boxes():
    labels = [Boxes([LEFT, RIGHT], ("box", "box"), None), Boxes([LEFT], ("box",))]
    predictions = [
        Boxes([LEFT, (0.0, 0.6, 0.2, 0.8)], ("box", "box"), (0.9, 0.8)),  # a hit, a false alarm; one box missed
        Boxes([LEFT], ("box",), (0.7,)),  # a hit
    ]
    # Ranked: hit (precision 1, recall 1/3), false, hit (2/3, 2/3). Of COCO's 101 recall levels 34 are up to 1/3,
    # with precision 1, and 33 more up to 2/3, with precision 2/3.
    expected = (34 * 1 + 33 * 2 / 3) / 101
    assert BOXES.metrics(predictions, labels) == pytest.approx({"ap": expected, "ap50": expected})


def test_without_scores_earlier_boxes_rank_first():
    label = [Boxes([LEFT], ("box",))]
    first, last = Boxes([LEFT, RIGHT], ("box", "box")), Boxes([RIGHT, LEFT], ("box", "box"))
    assert BOXES.metrics([first], label)["ap"] == pytest.approx(1)
    assert BOXES.metrics([last], label)["ap"] == pytest.approx(0.5)


# ---- images and features


def test_psnr_by_hand():
    label = np.zeros((2, 2, 3), np.uint8)
    assert RGB.metrics([label + 255, label + 51], [label, label])["psnr"] == pytest.approx(10 * np.log10(25) / 2)


@pytest.mark.parametrize("shape", [(40, 31, 3), (11, 11, 3)])
def test_ssim_is_that_of_scikit_image(shape):
    from skimage.metrics import structural_similarity

    generator = np.random.default_rng(0)
    label = (np.linspace(0, 200, shape[1])[None, :, None] + generator.uniform(0, 40, shape)).astype(np.uint8)
    prediction = (label * 0.8 + generator.uniform(0, 30, shape)).astype(np.uint8)
    expected = structural_similarity(
        label, prediction, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert 0.2 < expected < 0.95
    assert RGB.metrics([prediction, label], [label, label])["ssim"] == pytest.approx((expected + 1) / 2, abs=1e-9)


def test_cosine_of_features_ignores_their_length():
    label = np.float32([[[1, 0], [0, 1]]])
    assert CLIP.metrics([3 * label], [label])["cosine"] == pytest.approx(1)
    assert CLIP.metrics([label[:, ::-1]], [label])["cosine"] == pytest.approx(0)


def test_a_global_feature_is_its_direction():
    feature = modalities.get("dinov2_global")
    x, y = np.float32([1, 0, 0]), np.float32([1, 1, 0])
    # the cosine of 45 degrees, and 1
    assert feature.metrics([5 * x, 3 * y], [y, y])["cosine"] == pytest.approx((0.5**0.5 + 1) / 2)
    np.testing.assert_allclose(feature.error_map(2 * x, 7 * y), [[1 - 0.5**0.5, 0.5**0.5], [0, 0]], atol=1e-12)
    expected = (np.array([1, 0, 0]) + np.array([0.5**0.5, 0.5**0.5, 0])) / 2  # lengths do not weigh
    np.testing.assert_allclose(feature.trivial([9 * x, y]), expected, rtol=1e-6)


def test_the_error_of_a_pose_is_that_of_its_entries():
    pose = modalities.get("human_pose")
    label = np.zeros(207, np.float32)
    prediction = label.copy()
    prediction[[0, 206]] = 1, -2.45
    # (1 + 2.45) / 207 of one, 0 of the other
    assert pose.metrics([prediction, label], [label, label])["mean_absolute_error"] == pytest.approx(3.45 / 207 / 2)
    errors = pose.error_map(prediction, label)
    assert errors.shape == (15, 15)  # the smallest square of 207 cells
    assert errors.ravel()[[0, 206]] == pytest.approx([1, 2.45])
    assert errors.sum() == pytest.approx(3.45)


def test_a_vector_is_drawn_as_blue_and_red_cells_in_raster_order():
    drawn = np.asarray(modalities.get("dinov2_global").render(np.float32([2, -2, 0, 1]), 4)).astype(int)
    plus, minus, zero, half = drawn[0, 0], drawn[0, 3], drawn[3, 0], drawn[3, 3]
    assert plus[0] > 200 > 100 > plus[2]
    assert minus[2] > 200 > 100 > minus[0]
    assert (zero == 255).all()
    assert plus[2] < half[2] < 255


# ---- trivial predictors


def test_trivial_predictors_are_means_and_most_frequent_values():
    np.testing.assert_allclose(DEPTH.trivial([np.float32([[1, 2]]), np.float32([[3, 6]])]), [[2, 4]])
    maps = [np.uint8([[0, 2]]), np.uint8([[1, 2]]), np.uint8([[1, 0]])]
    np.testing.assert_array_equal(SEMSEG.trivial(maps), [[1, 2]])
    x, y = np.float32([[[1, 0, 0]]]), np.float32([[[0, 1, 0]]])
    np.testing.assert_allclose(NORMALS.trivial([x, y]), [[[0.5**0.5, 0.5**0.5, 0]]], rtol=1e-6)
    np.testing.assert_array_equal(
        RGB.trivial([np.uint8([[[0, 10, 255]]]), np.uint8([[[10, 20, 255]]])]), [[[5, 15, 255]]]
    )
    boxes = BOXES.trivial([Boxes([LEFT, (0.3, 0.3, 0.6, 0.6)], ("box", "box")), Boxes([RIGHT], ("cone",))])
    assert boxes.labels == ("box",)
    np.testing.assert_allclose(boxes.corners, [[0.2, 0.2, 0.5, 0.5]], rtol=1e-6)
    assert len(BOXES.trivial([Boxes(np.zeros((0, 4)), ())])) == 0


@pytest.mark.parametrize("name", modalities.names())
def test_every_metric_has_a_direction(name):
    assert set(modalities.get(name).better.values()) <= {"higher", "lower"}


def test_a_consensus_is_a_median_a_mean_direction_or_a_vote():
    depths = [np.full((1, 1), value, np.float32) for value in (1.0, 2.0, 9.0)]
    assert DEPTH.consensus(depths).tolist() == [[2.0]]
    assert DEPTH.consensus(depths).dtype == np.float32
    left, up = (np.float32([[vector]]) for vector in ((-1, 0, 0), (0, 1, 0)))
    np.testing.assert_allclose(NORMALS.consensus([left, up]), [[[-(0.5**0.5), 0.5**0.5, 0]]], atol=1e-6)
    votes = [np.array([[3, 1]], np.uint8), np.array([[3, 2]], np.uint8), np.array([[0, 0]], np.uint8)]
    assert SEMSEG.consensus(votes).tolist() == [[3, 0]]
    assert SEMSEG.consensus(votes).dtype == np.uint8
