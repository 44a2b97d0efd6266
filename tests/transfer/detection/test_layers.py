"""Convolutions with norms over channels."""

import math

import torch
from torch import nn

from open4m.rng import seeded
from open4m.transfer.detection.layers import LayerNorm2d, convolution, convolutions, initialize, start_small


def test_the_norm_is_one_over_channels_at_each_place():
    x = torch.randn(2, 5, 3, 4, generator=seeded(0)) * 3 + 1
    layer, plain = LayerNorm2d(5), nn.LayerNorm(5, eps=1e-6)
    for each in (layer, plain):
        each.weight.data, each.bias.data = torch.arange(1.0, 6), torch.arange(5.0)
    expected = torch.stack([torch.stack([plain(x[b, :, i].T) for i in range(3)]) for b in range(2)])
    torch.testing.assert_close(layer(x), expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)


def test_convolutions_keep_the_size_of_maps():
    x = torch.randn(1, 4, 7, 5, generator=seeded(0))
    assert convolution(4, 6, 1)(x).shape == (1, 6, 7, 5)
    assert convolutions(4, 6, 3)(x).shape == (1, 6, 7, 5)
    assert convolutions(4, 6, 3)(x).min() == 0
    assert convolutions(4, 6, 0)(x) is x


def test_initial_weights_depend_on_the_generator_alone_and_keep_the_scale():
    layers = [nn.Sequential(convolutions(64, 64, 1), nn.ConvTranspose2d(8, 64, 2), nn.Linear(50, 30)) for _ in range(2)]
    for each in layers:
        initialize(each, seeded(5))
    for first, second in zip(*(each.parameters() for each in layers), strict=True):
        assert torch.equal(first, second)
    wide, norm = layers[0][0][0]
    assert abs(wide.weight.std() / math.sqrt(2 / (64 * 9)) - 1) < 0.02
    assert (norm.weight == 1).all()
    assert not layers[0][2].bias.any()
    start_small(layers[0][2], 0.01, seeded(0))
    assert abs(layers[0][2].weight.std() / 0.01 - 1) < 0.1
