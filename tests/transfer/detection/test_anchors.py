"""Anchors have the sides, shapes and places that they are given."""

import pytest
import torch

from open4m.transfer.detection.anchors import anchors


def test_anchors_of_a_small_map_are_known():
    found = anchors((2, 3), 8.0, 16.0, (0.25, 1.0), 0.5, torch.device("cpu"))
    assert found.shape == (12, 4)
    assert found[0].tolist() == [4 - 16, 4 - 4, 4 + 16, 4 + 4]  # four times as wide as high
    assert found[1].tolist() == [4 - 8, 4 - 8, 4 + 8, 4 + 8]
    assert found[3].tolist() == [12 - 8, 4 - 8, 12 + 8, 4 + 8]  # the next column
    assert found[7].tolist() == [4 - 8, 12 - 8, 4 + 8, 12 + 8]  # the next row


def test_aspects_keep_the_area_and_the_offset_moves_all():
    corner = anchors((4, 5), 4.0, 32.0, (0.5, 1.0, 2.0), 0.0, torch.device("cpu"))
    sizes = corner[:, 2:] - corner[:, :2]
    assert sizes.prod(1).tolist() == pytest.approx([32.0**2] * 60)
    assert (sizes[:, 1] / sizes[:, 0]).view(-1, 3)[7].tolist() == pytest.approx([0.5, 1, 2])
    assert (corner[:3, :2] + corner[:3, 2:]).abs().max() == 0  # the first cell's are around the corner of the picture
    middle = anchors((4, 5), 4.0, 32.0, (0.5, 1.0, 2.0), 0.5, torch.device("cpu"))
    torch.testing.assert_close(middle, corner + 2)
