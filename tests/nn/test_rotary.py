"""Rotary positions: scores depend on relative places, also between grids of different size."""

import math

import pytest
import torch

from open4m.nn.attention import attend
from open4m.nn.rotary import angles_2d, rotate, rotated

HEADS, WIDTH = 2, 8  # of the model: heads of 4 channels, turned by 2 angles


def scores(q, k, grid, place):
    """The inner products of one query and one key at places of grids, as (row, column)."""
    angles = [angles_2d(*g, WIDTH // HEADS // 2, 8)[r * g[1] + c] for g, (r, c) in zip(grid, place, strict=True)]
    turned = [rotate(x[None], a[None], HEADS)[0] for x, a in zip((q, k), angles, strict=True)]
    return (turned[0] * turned[1]).view(HEADS, -1).sum(1)


@pytest.fixture
def vectors():
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(0))


def test_scores_depend_on_the_offset_alone(vectors):
    first = scores(*vectors, [(8, 8)] * 2, [(1, 2), (3, 5)])
    torch.testing.assert_close(first, scores(*vectors, [(8, 8)] * 2, [(4, 3), (6, 6)]))
    for other in ((3, 6), (4, 5)):
        assert (first - scores(*vectors, [(8, 8)] * 2, [(1, 2), other])).abs().max() > 1e-2


def test_one_place_in_two_grids_is_one_place(vectors):
    """The middle cell of 3 × 3 is the center of an image, and so is that of 5 × 5: no turn between them."""
    found = scores(*vectors, [(3, 3), (5, 5)], [(1, 1), (2, 2)])
    torch.testing.assert_close(found, (vectors[0] * vectors[1]).view(HEADS, -1).sum(1))


def test_frequencies_go_from_a_quarter_turn_per_half_image_to_one_per_cell():
    angles = angles_2d(8, 8, 6, 8)
    step = angles[1] - angles[0]  # to the next column
    torch.testing.assert_close(step[[0, 1, 2]], torch.zeros(3))
    assert step[3] * 4 == pytest.approx(math.pi / 2)  # half of the 8 cells
    assert step[5] == pytest.approx(math.pi / 2)


def test_a_pattern_turns_what_it_is_told_to():
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(1, n, WIDTH, generator=generator) for n in (3, 4, 4))
    turns = torch.randn(1, 3, 2, generator=generator), torch.randn(1, 4, 2, generator=generator)
    assert rotated(attend, None, None) is attend
    expected = attend(rotate(q, turns[0], HEADS), rotate(k, turns[1], HEADS), v, HEADS)
    torch.testing.assert_close(rotated(attend, *turns)(q, k, v, HEADS), expected)
    ready = rotate(k, turns[1], HEADS)
    torch.testing.assert_close(rotated(attend, turns[0], None)(q, ready, v, HEADS), expected)
