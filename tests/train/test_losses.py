"""The loss against sums by hand."""

import math

import pytest
import torch

from open4m.train.losses import aggregate


def costs_of(depth=(), caption=(), clip=()):
    return {
        key: torch.tensor(values, dtype=torch.float32).requires_grad_()
        for key, values in {"depth": depth, "caption": caption, "clip": clip}.items()
    }


UNEQUAL = {"depth": (1.0, 2.0, 6.0), "caption": (5.0,)}


def test_each_modality_counts_the_same_whatever_its_number_of_targets():
    costs = costs_of(**UNEQUAL)
    loss, means = aggregate(costs)
    assert {key: mean.item() for key, mean in means.items()} == {"depth": 3.0, "caption": 5.0, "clip": 0.0}
    assert loss.item() == pytest.approx((3 + 5 + 0) / 3)  # clip has no target here, and still takes its third
    loss.backward()
    torch.testing.assert_close(costs["depth"].grad, torch.full((3,), 1 / 9))
    torch.testing.assert_close(costs["caption"].grad, torch.full((1,), 1 / 3))
    assert costs["clip"].grad.shape == (0,)


def test_per_token_every_target_counts_the_same_whatever_its_modality():
    costs = costs_of(**UNEQUAL)
    loss, means = aggregate(costs, "per_token")
    assert loss.item() == pytest.approx((1 + 2 + 6 + 5) / 4)
    assert {key: mean.item() for key, mean in means.items()} == {"depth": 3.0, "caption": 5.0, "clip": 0.0}
    loss.backward()
    assert all(torch.equal(cost.grad, torch.full(cost.shape, 0.25)) for cost in costs.values())


@pytest.mark.parametrize("aggregation", ["per_modality", "per_token"])
def test_a_batch_without_any_target_costs_nothing_and_has_gradients(aggregation):
    costs = costs_of()
    loss, _ = aggregate(costs, aggregation)
    assert loss.item() == 0
    loss.backward()
    assert all(cost.grad.shape == (0,) for cost in costs.values())


@pytest.mark.parametrize("aggregation", ["per_modality", "per_token"])
def test_one_infinite_cost_makes_the_loss_infinite(aggregation):
    assert math.isinf(aggregate(costs_of(depth=(1.0, math.inf), caption=(2.0,)), aggregation)[0].item())
