"""Back onto the picture: what was moved returns to where it was."""

import numpy as np
import pytest
import torch
from coordinate_examples import coordinates

from open4m.rng import stream
from open4m.transfer import frames
from open4m.transfer.augment.geometric import CenterCrop, Fit, Flip, LargeScaleJitter, Stretch
from open4m.transfer.augment.pipeline import Pipeline
from open4m.transfer.frames import Placed, restore_boxes, restore_classes, restore_map

WHOLE = {
    "stretch": (Stretch(side=64),),
    "fit": (Fit(side=64),),
    "mirrored": (Flip(probability=1), Fit(side=64)),
    "mirrored after": (Fit(side=64), Flip(probability=1)),
    "smaller": (LargeScaleJitter(side=64, scale=(0.5, 0.5)),),
}
SIZES = [(50, 80), (80, 50), (64, 64), (200, 150), (1, 1), (3, 90), (90, 3)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_what_the_square_shows_returns_to_its_place(name, size):
    example = coordinates(*size)
    moved, placed = Pipeline(steps=WHOLE[name])(example, stream(0))
    back = restore_map(torch.from_numpy(moved["places"]).permute(2, 0, 1), placed)
    assert back.shape == (2, *size)
    step = [max(1, 1 / abs(s)) for s in placed.scale]  # pixels of the picture per pixel of the square
    for axis in (0, 1):
        error = np.abs(back[axis].numpy() - example["places"][..., axis])
        inner = error[tuple(slice(int(2 * s) + 1, n - int(2 * s) - 1) for s, n in zip(step, size, strict=True))]
        assert inner.max(initial=0) < (0.1 if step[axis] > 1 else 1e-3)  # as test_geometric.py says of the way there
        assert error.max() <= 0.75 * step[axis] + 0.02  # at an edge the last pixel of the square is repeated


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_of_the_empty_part_of_the_square_is_mixed_in(name):
    """A constant picture stays constant, though the square holds other numbers beside it."""
    for size in SIZES:
        moved, placed = Pipeline(steps=WHOLE[name])(coordinates(*size), stream(0))
        shown = torch.from_numpy(~np.isnan(moved["depth"]))
        values = torch.where(shown, 7.0, 1000.0)[None]
        back = restore_map(values, placed)
        assert back.shape == (1, *size)
        assert (back == 7).all()


def test_a_coarse_map_of_the_square_is_enlarged_about_its_places():
    """A plane that a map of 1/4 of the resolution samples at the middles of its cells, put back by plane geometry."""
    placed = Placed((30, 60), (64 / 60, 64 / 60), (0.0, 0.0), 64)
    middles = (torch.arange(16) + 0.5) * 4
    plane = torch.stack([middles[:, None].expand(16, 16), middles[None].expand(16, 16)])
    back = restore_map(plane, placed)
    rows, columns = np.mgrid[:30, :60] + 0.5
    inner = (slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(back[0][inner], (rows * 64 / 60)[inner], atol=1e-4)
    np.testing.assert_allclose(back[1][inner], (columns * 64 / 60)[inner], atol=1e-4)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_largest_scores_are_found_band_by_band(size, monkeypatch):
    scores = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(0))
    placed = Placed(size, (0.4, -0.4), (3.0, 33.0), 64)
    whole = restore_map(scores, placed)
    monkeypatch.setattr(frames, "LARGEST_BAND", 5 * 7 * size[1])  # seven rows
    held, real = [], frames.restore_map
    monkeypatch.setattr(frames, "restore_map", lambda *args, **how: held.append(real(*args, **how)) or held[-1])
    assert torch.equal(restore_classes(scores, placed), whole.argmax(0))
    assert torch.equal(torch.cat(held, 1), whole)
    assert max(band.numel() for band in held) <= frames.LARGEST_BAND


def test_what_the_square_does_not_show_is_marked_or_repeats_the_nearest():
    example = coordinates(40, 80)
    moved, placed = Pipeline(steps=(CenterCrop(side=40),))(example, stream(0))
    values = torch.from_numpy(moved["depth"])[None]
    back = restore_map(values, placed)
    np.testing.assert_array_equal(back[0, :, 20:60], example["depth"][:, 20:60])
    np.testing.assert_array_equal(back[0, :, :20], np.repeat(example["depth"][:, 20:21], 20, 1))
    marked = restore_map(values, placed, unseen=float("nan"))
    assert marked[0].isnan().sum() == 40 * 40
    assert torch.equal(
        restore_map(values, placed, float("nan"), slice(5, 9)).nan_to_num(-1), marked[:, 5:9].nan_to_num(-1)
    )
    assert not marked[0, :, 20:60].isnan().any()


def test_probabilities_stay_probabilities_and_the_type_is_kept():
    values = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(0)
    placed = Placed((21, 40), (0.4, -0.4), (0.0, 16.0), 16)
    back = restore_map(values, placed)
    np.testing.assert_allclose(back.sum(0), np.ones((21, 40)), rtol=1e-6)
    assert restore_map(values.bfloat16(), placed).dtype == torch.bfloat16


@pytest.mark.parametrize("name", WHOLE)
def test_boxes_return_to_the_picture(name):
    boxes = [(0, 0, 150, 200), (10, 20, 100, 90), (140, 180, 150, 200)]
    moved, placed = Pipeline(steps=WHOLE[name])(coordinates(200, 150, boxes), stream(0))
    back = restore_boxes(torch.from_numpy(moved["instances"].boxes), placed)
    np.testing.assert_allclose(back, boxes, atol=1e-3)


def test_boxes_beside_the_picture_are_clipped_to_it():
    placed = Placed((30, 60), (0.5, -0.5), (0.0, 30.0), 32)
    back = restore_boxes(torch.tensor([[-5.0, -5.0, 40.0, 40.0], [30.0, 15.0, 32.0, 32.0]]), placed)
    assert back.tolist() == [[0, 0, 60, 30], [0, 30, 0, 30]]
    assert restore_boxes(torch.zeros(0, 4), placed).shape == (0, 4)
