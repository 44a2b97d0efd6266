"""Attention by products against the same attention written out in double precision, and where it is chosen."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from open4m.nn import products
from open4m.nn.attention import attend, masked, over
from open4m.nn.products import AttentionByProducts

HEADS, DIM = 2, 12
SEEN = torch.tensor([[True, False, True], [False] * 3])


def written_out(q, k, v, heads, mask):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    sees = torch.ones(()) if mask is None else mask.any(-1, keepdim=True)
    if mask is not None:
        scores = scores.masked_fill(~(mask | ~sees), -math.inf)
    return (scores.softmax(-1) * sees @ v).transpose(1, 2).flatten(2)


def inputs(rows, queries, keys, dtype=torch.float64, loud=1.0):
    generator = torch.Generator().manual_seed(0)
    sizes = ((rows, queries, DIM), (rows, keys, DIM), (rows, keys, DIM))
    return [(loud * torch.randn(size, generator=generator)).to(dtype).requires_grad_() for size in sizes]


def results(function, tensors, mask):
    out = function(*tensors, HEADS, mask)
    slope = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad((out * slope).sum(), tensors)]


def masks(rows, queries, keys):
    """None; by key, with a row that sees nothing; by query and key, with a query that sees nothing; one for all."""
    generator = torch.Generator().manual_seed(1)
    by_key, by_pair, shared = (
        torch.rand(shape, generator=generator) < 0.6
        for shape in ((rows, 1, 1, keys), (rows, HEADS, queries, keys), (queries, keys))
    )
    by_key[-1:], by_pair[:1, :, :1] = False, False
    return None, by_key, by_pair, shared


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 6, 6), (1, 1, 1), (2, 3, 0), (2, 0, 3), (0, 2, 2)], ids=str)
def test_it_is_attention_written_out(sizes):
    tensors = inputs(*sizes)
    for mask in masks(*sizes):
        found, expected = (results(f, tensors, mask) for f in (AttentionByProducts.apply, written_out))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_query_that_sees_nothing_gets_0_and_gives_no_gradient():
    tensors = inputs(2, 3, 4, torch.bfloat16)
    mask = torch.tensor([True, False])[:, None, None, None].expand(2, 1, 3, 4)
    for found in results(AttentionByProducts.apply, tensors, mask):
        assert found[0].any()
        assert not found[1].any()


@pytest.mark.parametrize("loud", [1.0, 5.0])
def test_in_bfloat16_it_is_as_exact_as_the_fused_kernel(loud):
    """Measured: errors of 0.002 to 0.006 of the norm for both."""
    rounded = inputs(4, 33, 40, torch.bfloat16, loud)
    exact = [t.detach().double().requires_grad_() for t in rounded]
    mask = masks(4, 33, 40)[2]
    expected = results(written_out, exact, mask)
    found, fused = (results(f, rounded, mask) for f in (AttentionByProducts.apply, attend))
    for mine, theirs, right in zip(found, fused, expected, strict=True):
        assert mine.dtype == torch.bfloat16
        errors = [(x.double() - right).norm() for x in (mine, theirs)]
        assert errors[0] <= 2 * errors[1] + 2**-9 * right.norm()


def test_it_is_chosen_for_training_in_bfloat16_where_the_processor_has_products_of_it(monkeypatch):
    short, long, single = (
        inputs(1, 2, 3, torch.bfloat16),
        inputs(1, 2, products.LONGEST + 1, torch.bfloat16),
        inputs(1, 2, 3),
    )
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: False)
    assert not products.by_products(*short[:2])
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: True)
    assert products.by_products(*short[:2])
    assert not products.by_products(*long[:2])
    assert not products.by_products(*single[:2])
    assert not products.by_products(*(t.detach() for t in short[:2]))
    assert not products.by_products(*(t.to("meta") for t in short[:2]))
    with torch.no_grad():
        assert not products.by_products(*short[:2])


@pytest.mark.parametrize(
    "pattern", [attend, over(torch.tensor([[True, False, True], [False] * 3]))], ids=["all", "over"]
)
def test_patterns_give_the_same_by_products_also_when_recomputed_and_of_fake_tensors(pattern, monkeypatch):
    tensors = inputs(2, 3, 3, torch.bfloat16)

    def run(function):
        out = function(*tensors, HEADS)
        return [out, *torch.autograd.grad(out.sum(), tensors)]

    expected = run(pattern)
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: True)
    found = run(pattern)
    assert type(found[0].grad_fn).__name__ == "AttentionByProductsBackward"
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0.02)
    for mine, again in zip(found, run(lambda *args: checkpoint(pattern, *args, use_reentrant=False)), strict=True):
        assert torch.equal(mine, again)
    plain = [t.detach() for t in tensors]
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t).requires_grad_() for t in plain]
        mask = torch.ones(2, 1, 1, 3, dtype=torch.bool)
        out = masked(mask)(*fakes, HEADS)
        assert [out.shape, *(g.shape for g in torch.autograd.grad(out.sum(), fakes))] == [t.shape for t in found]
