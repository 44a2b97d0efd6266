"""RoIAlign is the mean of interpolated samples of each bin; test_torchvision.py compares it with another library's."""

import math

import numpy as np
import pytest
import torch
from rectangles import random_boxes

from open4m.transfer.detection.roi_align import Maps, crop, levels_of, roi_align


def naive_sample(channel, y, x):
    """The value between the middles of four cells; 0 more than a cell beyond the outermost ones."""
    height, width = channel.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    total = 0.0
    for row in range(height):
        for column in range(width):
            total += max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column)) * float(channel[row, column])
    return total


def naive(channel, box, bins, stride, samples=0):
    x0, y0, x1, y1 = (float(corner) / stride - 0.5 for corner in box)
    height, width = (y1 - y0) / bins, (x1 - x0) / bins
    rows, columns = samples or math.ceil(height), samples or math.ceil(width)
    found = np.zeros((bins, bins))
    for i in range(bins):
        for j in range(bins):
            values = [
                naive_sample(channel, y0 + (i + (a + 0.5) / rows) * height, x0 + (j + (b + 0.5) / columns) * width)
                for a in range(rows)
                for b in range(columns)
            ]
            found[i, j] = np.mean(values) if values else 0
    return found


@pytest.mark.parametrize("samples", [0, 2])
def test_bins_are_means_of_samples(samples):
    rng = np.random.default_rng(0)
    maps = torch.tensor(rng.normal(size=(2, 2, 6, 9)))
    boxes = torch.tensor(np.concatenate([random_boxes(rng, 4, 40), [[-9, -7, 30, 60], [60, 3, 80, 50]]]))
    images = torch.tensor([1, 0, 0, 1, 0, 1])
    pooled = roi_align(maps, boxes, images, 3, 8.0, samples)
    for box, image, found in zip(boxes, images, pooled, strict=True):
        expected = [naive(channel, box, 3, 8.0, samples) for channel in maps[image]]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_each_box_is_pooled_from_its_level_and_its_image():
    rng = np.random.default_rng(1)
    maps = [torch.tensor(rng.normal(size=(2, 3, side, side + 1)), dtype=torch.float32) for side in (12, 6, 3)]
    strides = (4.0, 8.0, 16.0)
    boxes = torch.tensor(random_boxes(rng, 10, 48))
    images, levels = torch.tensor(rng.integers(0, 2, 10)), torch.tensor(rng.integers(0, 3, 10))
    pooled = Maps.of(maps, strides).pooled(boxes, images, 2, levels)
    for i, (image, level) in enumerate(zip(images, levels, strict=True)):
        alone = roi_align(maps[level][image : image + 1], boxes[i : i + 1], torch.tensor([0]), 2, strides[level])
        torch.testing.assert_close(pooled[i], alone[0], rtol=0, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(2)
    maps = torch.tensor(rng.normal(size=(1, 2, 4, 5)), requires_grad=True)
    boxes = torch.tensor([[1.0, 2, 17, 13], [-3, 0, 9, 30]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: roi_align(m, boxes, torch.tensor([0, 0]), 2, 4.0), (maps,))


def test_a_linear_map_is_read_at_the_middles_of_bins():
    """A map whose values are the places of its cells' middles; boxes well within it."""
    places = (torch.arange(16) + 0.5) * 4
    maps = torch.stack([places[:, None].expand(16, 16), places.expand(16, 16)])[None]
    pooled = roi_align(maps, torch.tensor([[10.0, 20, 34, 50]]), torch.tensor([0]), 3, 4.0)[0]
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor([25.0, 35, 45]))
    torch.testing.assert_close(pooled[1, 0], torch.tensor([14.0, 22, 30]))


def test_boxes_without_an_area_and_no_boxes_are_pooled_as_nothing():
    maps = torch.ones(1, 2, 4, 4)
    assert roi_align(maps, torch.tensor([[3.0, 3, 3, 3], [5, 5, 2, 9]]), torch.tensor([0, 0]), 2).abs().sum() == 0
    assert roi_align(maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 2).shape == (0, 2, 2, 2)


def test_a_level_is_that_of_the_root_of_the_area():
    sides = torch.tensor([1.0, 55, 57, 111, 113, 223, 225, 447, 449, 5000])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides * 2, sides / 2], 1)
    assert levels_of(boxes, (4.0, 8.0, 16.0, 32.0), 224.0).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert levels_of(boxes, (8.0, 16.0), 224.0).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert levels_of(boxes, (3.5, 7.0, 14.0), 224.0).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert levels_of(boxes, (4.0, 8.0, 16.0, 32.0), 112.0).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert levels_of(torch.tensor([[5.0, 5, 5, 5], [9, 9, 2, 2]]), (4.0, 8.0), 224.0).tolist() == [0, 0]


def test_masks_are_cropped_as_maps_are_pooled():
    rng = np.random.default_rng(4)
    masks = torch.tensor(rng.random((5, 23, 31)) < 0.5)
    boxes = torch.tensor(np.concatenate([random_boxes(rng, 4, 22), [[-8, -3, 50, 29]]]).astype(np.float32))
    expected = roi_align(masks[:, None].float(), boxes, torch.arange(5), 6)[:, 0]
    torch.testing.assert_close(crop(masks, boxes, 6), expected, rtol=0, atol=1e-5)
