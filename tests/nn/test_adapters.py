"""Low-rank adapters of linear layers, and tables of which some rows are trained."""

import pytest
import torch
from torch import nn

from open4m.nn.adapters import add_low_rank, is_plain, plain_state, train_rows
from open4m.nn.attention import FusedLinear
from open4m.rng import seeded


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 4), lambda: FusedLinear(6, 4, 3, bias=False)])
def test_an_adapter_adds_a_scaled_product_and_only_it_has_gradients(make):
    layer, x = make(), torch.randn(5, 6, generator=seeded(0))
    weight, before = layer.weight.detach().clone(), layer(x)
    add_low_rank(layer, 2, 3.0, seeded(1))
    for old, new in zip(before, layer(x), strict=True):
        assert torch.equal(old, new)  # B starts at 0
    adapter = layer.parametrizations.weight[0]
    with torch.no_grad():
        adapter.up.weight.normal_(generator=seeded(2))
    torch.testing.assert_close(layer.weight, weight + 1.5 * adapter.up.weight @ adapter.down.weight)
    torch.stack([part.square().sum() for part in layer(x)]).sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().sum()} == {
        "parametrizations.weight.0.down.weight",
        "parametrizations.weight.0.up.weight",
    }
    assert torch.equal(layer.parametrizations.weight.original, weight)


def test_fused_layers_keep_their_parts_for_the_optimizer():
    layer = FusedLinear(6, 4, 3, bias=False)
    add_low_rank(layer, 2, 1.0, seeded(0))
    assert isinstance(layer, FusedLinear)
    assert layer.parametrizations.weight[0].up.parts == 3
    assert [part.shape for part in layer(torch.zeros(5, 6))] == [(5, 4)] * 3


def test_merged_weights_compute_the_same_bit_by_bit_also_under_autocast():
    network = nn.Sequential(FusedLinear(8, 8, 1, bias=True))
    assert is_plain(network)
    add_low_rank(network[0], 3, 2.0, seeded(0))
    nn.init.normal_(network[0].parametrizations.weight[0].up.weight, generator=seeded(1))
    merged = nn.Sequential(FusedLinear(8, 8, 1, bias=True))
    merged.load_state_dict(plain_state(network))
    assert is_plain(merged)
    assert not is_plain(network)
    x = torch.randn(7, 8, generator=seeded(2))
    for reduced in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            assert torch.equal(network(x)[0], merged(x)[0])


def test_adapters_are_drawn_by_the_generator_alone():
    layers = [nn.Linear(6, 4) for _ in range(3)]
    state = torch.get_rng_state()
    for layer, seed in zip(layers, (1, 1, 2), strict=True):
        add_low_rank(layer, 2, 1.0, seeded(seed))
    first, same, other = (layer.parametrizations.weight[0].down.weight for layer in layers)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_that_are_not_chosen_never_change():
    table = nn.Embedding(5, 3)
    before = table.weight.detach().clone()
    train_rows(table, "weight", torch.tensor([False, True, False, False, True]))
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(3):
        table(torch.arange(5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = (plain_state(table)[".weight"] != before).all(1)
    assert changed.tolist() == [False, True, False, False, True]
