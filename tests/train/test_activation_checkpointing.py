"""Activation checkpointing: the same gradients, with less kept for the backward pass."""

import copy

import pytest
import torch
from torch import nn

from open4m.nn.mlp import MLPConfig
from open4m.nn.unet import ResBlock, UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE
from open4m.train.distributed import checkpoint_activations


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
    checkpoint_activations(other)
    again = copy.deepcopy(other)  # a copy computes with its own weights
    expected, whole = kept(model, x)
    for candidate in (other, again):
        found, part = kept(candidate, x)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert part < whole / 2
    assert list(other.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("kind", ["unet", "product"])
def test_tokenizers_are_recomputed_once_and_their_codebooks_not_at_all(kind, monkeypatch):
    """Nested lists of blocks, and quantizers in a list, whose forward pass changes them."""
    if kind == "unet":
        vit = ViTConfig(width=16, depth=1, heads=1)
        unet = UNetConfig(channels=32, multipliers=(1, 1), blocks=1, attention=1)
        config = TokenizerConfig.of(
            "rgb", image_size=32, codebook_size=8, encoder=vit, decoder=unet, diffusion=DiffusionConfig()
        )
        x = torch.randn(2, 3, 32, 32)
    else:
        mlp = MLPConfig(width=16, depth=2)
        config = TokenizerConfig.of(
            "dinov2_global", channels=12, codebook_size=4, codebooks=2, encoder=mlp, decoder=mlp
        )
        x = torch.randn(6, 12, 1, 1)
    calls, plain = [], ResBlock.forward
    monkeypatch.setattr(ResBlock, "forward", lambda self, *a: calls.append(self) or plain(self, *a))
    found = []
    for recomputed in (False, True):
        model = VQVAE(config, torch.Generator().manual_seed(0)).train()
        if recomputed:
            checkpoint_activations(model)
        calls.clear()
        model.loss(x, torch.Generator().manual_seed(1))[0].backward()
        found.append(([p.grad for p in model.parameters()], model.quantizer.state_dict(), len(calls)))
    (expected, codebook, once), (gradients, again, twice) = found
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(expected, gradients, strict=True))
    assert all(torch.equal(codebook[name], again[name]) for name in codebook)
    assert once <= twice <= 2 * once  # blocks within blocks are not computed a third time
