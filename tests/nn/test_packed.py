"""Packed layers compute what the layers that they are made from do, on their own weights."""

import pytest
import torch
from torch import nn

from open4m.nn import packed as module
from open4m.nn.attention import FusedLinear
from open4m.nn.packed import BLOCKS, FEW, PackedLinear, is_steady, is_usual, packed, padded
from open4m.types import Open4MError

TOLERANCE = {"exact": 1e-6, "int8": 0.03}  # relative to the largest output


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 9, 64, 65, 70, 300])
def test_a_packed_layer_computes_what_the_layer_does(precision, bias, rows):
    torch.manual_seed(rows)
    layer = nn.Linear(48, 40, bias=bias)
    x = torch.randn(rows, 48) * torch.logspace(-2, 2, rows)[:, None]  # tokens of unlike sizes, each with its own error
    with torch.inference_mode():
        expected = layer(x)
        made = PackedLinear(layer.weight, layer.bias, precision=precision)(x)
    assert made.shape == expected.shape
    if rows:
        error = (made - expected).abs().amax(1) / expected.abs().amax(1)
        assert error.max() < TOLERANCE[precision]
        assert precision == "exact" or error.max() > 1e-5  # it is rounded


@pytest.mark.parametrize("precision", TOLERANCE)
def test_a_copy_is_packed_and_shares_the_other_weights(precision):
    torch.manual_seed(0)
    module = nn.Sequential(nn.LayerNorm(16), FusedLinear(16, 8, 3, bias=False))
    x = torch.randn(2, 5, 16)
    made = packed(module, precision)
    assert [p.data_ptr() for p in made.parameters()] == [p.data_ptr() for p in module[0].parameters()]
    with torch.inference_mode():
        for ours, theirs in zip(made(x), module(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=0.05 if precision == "int8" else 1e-5, rtol=0)
    assert isinstance(module[1], FusedLinear)  # the module itself stays as it is


def test_eight_bits_are_refused_where_there_is_no_kernel(monkeypatch):
    monkeypatch.setattr("open4m.nn.packed._ENGINES", [])
    from open4m.nn.packed import can_pack

    with pytest.raises(Open4MError, match="int8"):
        can_pack(torch.zeros(2, 2), "int8")


def test_few_numbers_of_rows_are_computed():
    """Each one takes memory for good."""
    assert {padded(rows) for rows in range(1, FEW + 1)} == {*range(1, 9), *range(16, FEW + 1, 8)}
    assert all(padded(rows) >= rows for rows in range(FEW + 1))


@pytest.mark.parametrize("width", [48, 683])
def test_many_rows_are_computed_in_blocks_of_few_sizes(width, monkeypatch):
    layer, seen = PackedLinear(torch.randn(40, width)), set()
    few, usual = layer._few, module.usual_product
    monkeypatch.setattr(layer, "_few", lambda x: seen.add(len(x)) or few(x))
    monkeypatch.setattr(module, "usual_product", lambda x, *rest: seen.add(len(x)) or usual(x, *rest))
    for rows in (*range(65, 200, 7), 300, 2048, 5000):
        x = torch.randn(rows, width)
        torch.testing.assert_close(layer(x), x @ layer.weight.T, atol=1e-3, rtol=0)
    assert all(count in BLOCKS or count <= FEW or count % module.STEP == 0 for count in seen)
    assert len(seen) < 45


def test_a_row_alone_is_computed_as_two_where_its_sum_would_have_another_order():
    assert padded(1, 1024) == 1
    assert padded(1, 1025) == 2


@pytest.mark.parametrize(("width", "outputs"), [(48, 40), (683, 64), (2048, 32)])
def test_a_row_has_the_same_bits_whatever_is_computed_with_it(width, outputs):
    """What is_steady says of this machine is what layers do, at every number of rows, and at other places."""
    draw = torch.Generator().manual_seed(0)
    layer = PackedLinear(torch.randn(outputs, width, generator=draw), torch.randn(outputs, generator=draw))
    x = torch.randn(1500, width, generator=draw)
    whole = layer(x)
    same = [
        torch.equal(layer(x[:n]), whole[:n]) for n in (*range(1, 70), 127, 129, 200, 255, 257, 300, 513, 1023, 1400)
    ]
    assert all(same) or not is_steady(width, outputs, torch.get_num_threads())
    middle = torch.equal(layer(x[700:703]), whole[700:703])
    assert middle or not is_steady(width, outputs, torch.get_num_threads())


def test_the_usual_product_is_taken_only_where_it_has_the_bits_of_the_packed_one(monkeypatch):
    usual, threads = module.usual_product, torch.get_num_threads()

    def wrong(x, weight, bias, out):
        usual(x, weight, bias, out)
        out += 1e-3 if len(x) == 256 else 0

    is_usual.cache_clear()
    layer, x = PackedLinear(torch.randn(16, 32)), torch.randn(256, 32)
    right = layer(x)
    is_usual.cache_clear()
    monkeypatch.setattr(module, "usual_product", wrong)
    assert not is_usual(32, 16, 256, threads)
    assert not is_usual(1000, 16, 128, threads)
    assert torch.equal(layer(x), right) or not is_steady(32, 16, threads)
    is_usual.cache_clear()
