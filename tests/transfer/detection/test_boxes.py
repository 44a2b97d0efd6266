"""Boxes: areas, overlaps, deltas."""

import math

import numpy as np
import pytest
import torch
from rectangles import random_boxes

from open4m.transfer.detection.boxes import LARGEST_LOG, area, clip, covered, decode, encode, intersection, iou, is_box

WEIGHTS = (10.0, 20.0, 5.0, 4.0)


def naive_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def test_overlaps_are_those_of_each_pair():
    rng = np.random.default_rng(0)
    first, second = torch.tensor(random_boxes(rng, 7, 30)), torch.tensor(random_boxes(rng, 5, 30))
    first[3], second[2] = torch.tensor([4.0, 4, 4, 4]), torch.tensor([4.0, 4, 4, 4])  # a point
    second[4] = first[0]
    expected = [[naive_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(iou(first, second), torch.tensor(expected), rtol=0, atol=1e-6)
    batched = iou(torch.stack([first, first + 1]), torch.stack([second, second + 1]))
    torch.testing.assert_close(batched, torch.tensor(expected).expand(2, -1, -1), rtol=0, atol=1e-5)


def test_what_boxes_share_and_how_much_of_one_lies_in_another():
    first = torch.tensor([[0.0, 0, 4, 2], [5, 5, 5, 9], [10, 10, 11, 11]])
    second = torch.tensor([[3.0, 1, 9, 9], [0, 0, 4, 2]])
    assert intersection(first, second).tolist() == [[1, 8], [0, 0], [0, 0]]
    assert covered(first, second).tolist() == [[1 / 8, 1], [0, 0], [0, 0]]
    assert covered(second, first)[0].tolist() == pytest.approx([1 / 48, 0, 0])
    assert area(first).tolist() == [8, 0, 1]


def test_deltas_are_ways_in_sides_and_logarithms_of_their_ratios():
    anchor, box = torch.tensor([[10.0, 20, 20, 40]]), torch.tensor([[15.0, 25, 35, 35]])
    expected = [10 * 1.0, 0, 5 * math.log(2), 4 * math.log(0.5)]
    assert encode(box, anchor, WEIGHTS)[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert decode(torch.tensor([expected]), anchor, WEIGHTS)[0].tolist() == pytest.approx([15, 25, 35, 35], abs=1e-5)


def test_deltas_are_read_back():
    rng = np.random.default_rng(1)
    anchors, boxes = torch.tensor(random_boxes(rng, 50, 90)), torch.tensor(random_boxes(rng, 50, 90))
    torch.testing.assert_close(decode(encode(boxes, anchors, WEIGHTS), anchors, WEIGHTS), boxes, rtol=0, atol=1e-3)


def test_a_side_grows_by_a_limit_at_most():
    moved = decode(torch.tensor([[0.0, 0, 1e4, -1e4]]), torch.tensor([[0.0, 0, 8, 8]]), (1.0, 1.0, 1.0, 1.0))
    assert moved[0].tolist() == pytest.approx([4 - 4 * math.exp(LARGEST_LOG), 4, 4 + 4 * math.exp(LARGEST_LOG), 4])


def test_boxes_are_clipped_each_to_its_region():
    boxes = torch.tensor([[-5.0, 2, 30, 40], [50, 50, 60, 60]])
    regions = torch.tensor([[0.0, 0, 20, 16], [10, 10, 20, 20]])
    assert clip(boxes, regions).tolist() == [[0, 2, 20, 16], [20, 20, 20, 20]]


def test_a_box_is_finite_and_has_an_area():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 1], [2, 0, 1, 1], [0, 0, math.inf, 1], [0, math.nan, 1, 1]])
    assert is_box(boxes).tolist() == [True, False, False, False, False]
