"""The fused output layers against logits written out and torch's cross-entropy, in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F

from open4m.model import heads
from open4m.model.embeddings import consecutive
from open4m.model.heads import LinearCrossEntropy

DIM, COUNTS, SIZES = 6, [3, 0, 1, 5], [7, 4, 2, 11]  # unequal classifiers, one without targets
PARTS = list(zip(consecutive(COUNTS), consecutive(SIZES), strict=True))


def inputs(dtype=torch.float64, loud=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = loud * torch.randn(sum(COUNTS), DIM, generator=generator, dtype=torch.float64)
    table = torch.randn(sum(SIZES), DIM, generator=generator, dtype=torch.float64)
    target = torch.cat([torch.randint(0, v, (n,), generator=generator) for n, v in zip(COUNTS, SIZES, strict=True)])
    return hidden.to(dtype).requires_grad_(), table.to(dtype).requires_grad_(), target


def written_out(hidden, table, target):
    return torch.cat([F.cross_entropy(hidden[r] @ table[e].T, target[r], reduction="none") for r, e in PARTS])


def gradients(cost, hidden, table, weights):
    return torch.autograd.grad((cost * weights).sum(), (hidden, table))


@pytest.mark.parametrize("loud", [1.0, 300.0])  # logits of some thousands: nothing may overflow
def test_costs_and_gradients_are_those_of_logits_written_out(loud):
    hidden, table, target = inputs(loud=loud)
    weights = torch.linspace(-1, 2, len(target), dtype=torch.float64)  # every target has a slope of its own
    found, expected = LinearCrossEntropy.apply(hidden, table, target, PARTS), written_out(hidden, table, target)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(*(gradients(c, hidden, table, weights) for c in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    hidden, table, target = inputs()
    cost = LinearCrossEntropy.apply(torch.zeros_like(hidden), table, target, PARTS)
    expected = torch.cat([torch.full((n,), v).double().log() for n, v in zip(COUNTS, SIZES, strict=True)])
    torch.testing.assert_close(cost, expected)


def test_a_classifier_without_targets_has_a_gradient_of_zero():
    hidden, table, target = inputs()
    junk = torch.full((1000,), 7.0)  # what a new gradient's memory may hold
    del junk
    LinearCrossEntropy.apply(hidden, table, target, PARTS).sum().backward()
    assert torch.equal(table.grad[PARTS[1][1]], torch.zeros(4, DIM).double())
    assert all(table.grad[PARTS[i][1]].abs().sum() > 0 for i in (0, 2, 3))


def test_only_what_is_trained_gets_a_gradient():
    for frozen in (0, 1):
        hidden, table, target = inputs()
        weights = torch.ones(len(target), dtype=torch.float64)
        expected = gradients(written_out(hidden, table, target), hidden, table, weights)[1 - frozen]
        (hidden, table)[frozen].requires_grad_(False)
        LinearCrossEntropy.apply(hidden, table, target, PARTS).sum().backward()
        assert (hidden, table)[frozen].grad is None
        torch.testing.assert_close((hidden, table)[1 - frozen].grad, expected)


def test_under_autocast_logits_are_bfloat16_and_sums_float32():
    hidden, table, target = inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = LinearCrossEntropy.apply(hidden, table, target, PARTS)
    rounded = [x.detach().bfloat16() for x in (hidden, table)]
    logits = [rounded[0][rows] @ rounded[1][entries].T for rows, entries in PARTS]
    assert all(x.dtype == torch.bfloat16 for x in logits)
    expected = [
        F.cross_entropy(x.float(), target[r], reduction="none") for x, (r, _) in zip(logits, PARTS, strict=True)
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.cat(expected))
    weights = torch.ones(len(target))
    exact = gradients(written_out(hidden, table, target), hidden, table, weights)
    for mine, theirs in zip(gradients(found, hidden, table, weights), exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.05)


def test_what_the_caller_gave_is_left_as_it_is_and_a_second_backward_pass_is_refused():
    hidden, table, target = inputs()
    before = [x.detach().clone() for x in (hidden, table, target)]
    cost = LinearCrossEntropy.apply(hidden, table, target, PARTS).sum()
    cost.backward(retain_graph=True)
    assert all(torch.equal(x, y) for x, y in zip((hidden, table, target), before, strict=True))
    with pytest.raises(RuntimeError, match="no second one"):
        cost.backward()


@pytest.mark.parametrize("cached", [1, 8, 1000])  # a row at a time; pieces that do not fit; all at once
def test_pieces_of_any_size_give_the_same(cached, monkeypatch):
    hidden, table, target = inputs()
    expected = written_out(hidden, table, target)
    monkeypatch.setattr(heads, "CACHED", cached)
    found, weights = LinearCrossEntropy.apply(hidden, table, target, PARTS), torch.linspace(-1, 2, len(target)).double()
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(*(gradients(c, hidden, table, weights) for c in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_gradient_of_a_confident_answer_is_not_rounded_away_under_autocast():
    """p = 1 - 3e-4: in bfloat16 p - 1 would be 0 or -0.004."""
    hidden, table = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[8.0], [0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        LinearCrossEntropy.apply(hidden, table, torch.tensor([0]), [(slice(0, 1), slice(0, 2))]).sum().backward()
    assert hidden.grad.item() == pytest.approx(8 * (1 / (1 + math.exp(-8)) - 1), rel=2**-7)
