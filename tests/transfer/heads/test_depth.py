"""open4m.transfer.heads.depth."""

import numpy as np
import pytest
import torch

from open4m.rng import seeded
from open4m.transfer.frames import Placed
from open4m.transfer.heads.base import Batch, Features
from open4m.transfer.heads.depth import Config, DepthEstimation, accuracy, berhu, reach

WHOLE = Placed((4, 4), (1.0, 1.0), (0.0, 0.0), 4)


def head(**options):
    return DepthEstimation(Config(depth=1, channels=4, finer=2, **options), 6, (), 8)


def test_figures_are_those_of_each_pixel_by_hand():
    truth = np.array([[1.0, 2.0], [np.nan, 4.0]], np.float32)
    found = np.array([[1.2, 3.0], [9.0, 4.0]], np.float32)
    figures = accuracy(found, truth)
    assert figures["delta1"] == pytest.approx(2 / 3)
    assert figures["abs_rel"] == pytest.approx((0.2 + 0.5 + 0.0) / 3, rel=1e-6)
    assert figures["rmse"] == pytest.approx(((0.04 + 1.0 + 0.0) / 3) ** 0.5, rel=1e-6)
    assert accuracy(found, np.full((2, 2), np.nan, np.float32)) is None
    assert accuracy(np.full((2, 2), np.nan, np.float32), truth) is None


def test_a_picture_says_the_meters_of_its_colors():
    assert reach(np.array([[0.512, np.nan], [9.0, np.inf]], np.float32)) == "0.51 to 9 m"
    assert reach(np.full((2, 2), np.nan, np.float32)) == "unknown"


def test_a_ratio_of_exactly_a_quarter_more_is_no_hit():
    figures = accuracy(np.array([[1.25, 0.8, 1.2499]]), np.array([[1.0, 1.0, 1.0]]))
    assert figures["delta1"] == pytest.approx(1 / 3)


def test_means_are_over_images_not_pixels():
    small, large = np.full((1, 1), 1.0, np.float32), np.full((10, 10), 1.0, np.float32)
    found = head().measure([small * 2, large], [{"depth": small}, {"depth": large}])
    assert found == {"delta1": 0.5, "abs_rel": 0.5, "rmse": 0.5}


def test_berhu_is_absolute_below_a_fifth_of_the_largest_error_of_an_image_and_quadratic_above():
    error = torch.tensor([[[0.0, 0.5], [1.0, 5.0]], [[0.0, 0.1], [0.2, 0.5]]])
    expected = [[[0.0, 0.5], [1.0, (25 + 1) / 2]], [[0.0, 0.1], [(0.04 + 0.01) / 0.2, (0.25 + 0.01) / 0.2]]]
    torch.testing.assert_close(berhu(error), torch.tensor(expected))


@pytest.mark.parametrize("loss", ["l1", "berhu"])
def test_the_loss_of_a_batch_is_that_of_its_parts_by_their_measured_pixels(loss):
    made, outputs = head(loss=loss), 9 * torch.randn(3, 1, 4, 4, generator=seeded(0))
    wanted = torch.rand(3, 4, 4, generator=seeded(1))
    wanted[1, :3] = torch.nan
    batches = [Batch({"depth": list(wanted[rows])}, [WHOLE] * len(wanted[rows])) for rows in (slice(3), [0], [1, 2])]
    whole, first, rest = (
        made.loss(outputs[rows], batch, seeded(0))[0].item() * made.count(batch)
        for rows, batch in zip((slice(3), [0], [1, 2]), batches, strict=True)
    )
    assert whole == pytest.approx(first + rest, rel=1e-6)


@pytest.mark.parametrize("loss", ["l1", "berhu"])
def test_pixels_without_a_measurement_change_nothing(loss):
    made, outputs = head(loss=loss), torch.randn(2, 1, 4, 4, generator=seeded(0)).requires_grad_()
    wanted = torch.rand(2, 4, 4, generator=seeded(1))
    wanted[0, :2], wanted[1] = torch.nan, torch.nan
    cost, _ = made.loss(outputs, Batch({"depth": list(wanted)}, [WHOLE] * 2), seeded(0))
    cost.backward()
    assert torch.isfinite(cost)
    assert (outputs.grad[1] == 0).all()
    assert (outputs.grad[0, 0, :2] == 0).all()
    alone, _ = made.loss(outputs[:1, :, 2:], Batch({"depth": [wanted[0, 2:]]}, [WHOLE]), seeded(0))
    assert cost.item() == pytest.approx(alone.item(), rel=1e-6)


def test_what_the_square_does_not_show_is_not_predicted():
    middle = Placed((4, 8), (1.0, 1.0), (0.0, -2.0), 4)
    found = head().predict(torch.full((1, 1, 4, 4), 3.0), [middle])[0]
    assert np.isnan(found[:, [0, 1, 6, 7]]).all()
    assert (found[:, 2:6] == 3.0).all()
    broken = head().predict(torch.full((1, 1, 4, 4), torch.nan), [middle])[0]
    assert np.isfinite(broken[:, 2:6]).all()  # wrong, not unseen: figures count it


def test_depth_is_near_the_datas_from_the_start_and_never_behind_the_camera():
    made = head(mean=5.0, deviation=0.1)
    made.initialize(seeded(0))
    maps = torch.randn(2, 6, 2, 2, generator=seeded(1))
    out = made(Features(map=maps, tokens=maps, pooled=maps))
    assert (out - 5).abs().max() < 1
    assert (made.predict(torch.full((1, 1, 4, 4), -3.0), [WHOLE])[0] == np.float32(1e-3)).all()
