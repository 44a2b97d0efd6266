"""Activation checkpointing: the same gradients, with less kept for the backward pass."""

import copy

import torch
from torch import nn

from open4m.train.recompute import recompute_blocks


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


def kept(model, x):
    """The gradients, and how many numbers were kept for the backward pass."""
    numbers = []

    def pack(tensor):
        numbers.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(x).square().sum()
    loss.backward()
    return [p.grad for p in model.parameters()], sum(numbers)


def test_gradients_stay_and_less_is_kept():
    torch.manual_seed(0)
    model, x = Blocks(), torch.randn(4, 8)
    other = copy.deepcopy(model)
    recompute_blocks(other)
    again = copy.deepcopy(other)  # a copy computes with its own weights
    expected, whole = kept(model, x)
    for candidate in (other, again):
        found, part = kept(candidate, x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert part < whole / 2
    assert list(other.state_dict()) == list(model.state_dict())
