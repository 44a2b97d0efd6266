import math

import pytest
import torch

from open4m.nn.attention import attend
from open4m.nn.blocks import EncoderBlock
from open4m.nn.positions import sincos_2d
from open4m.nn.vit import ViTConfig, ViTDecoder, ViTEncoder
from open4m.types import Open4MError


@pytest.mark.parametrize(("h", "w", "width"), [(1, 1, 4), (2, 3, 8), (4, 4, 64), (5, 2, 192)])
def test_positions_equal_the_slow_formula(h, w, width):
    expected = torch.zeros(h * w, width, dtype=torch.float64)
    quarter = width // 4
    for row in range(h):
        for column in range(w):
            for k in range(quarter):
                f = 10000 ** (-k / quarter)
                values = (math.sin(row * f), math.cos(row * f), math.sin(column * f), math.cos(column * f))
                for part, value in enumerate(values):
                    expected[row * w + column, part * quarter + k] = value
    # float32 phases of a few radians: the worst error seen is 2e-7
    torch.testing.assert_close(sincos_2d(h, w, width).double(), expected, atol=1e-6, rtol=0)


def test_block_equals_an_explicit_float64_computation():
    torch.manual_seed(0)
    block = EncoderBlock(ViTConfig(width=12, depth=1, heads=3, mlp_ratio=2).block).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)

    def norm(v, layer):
        centered = v - v.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias

    def linear(v, layer):
        return v @ layer.weight.T + layer.bias

    y = norm(x, block.norm1)
    q, k, v = linear(y, block.attention.qkv).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        s = slice(4 * head, 4 * head + 4)
        heads.append(torch.softmax(q[..., s] @ k[..., s].transpose(1, 2) / math.sqrt(4), -1) @ v[..., s])
    expected = x + linear(torch.cat(heads, -1), block.attention.proj)
    hidden = linear(norm(expected, block.norm2), block.mlp.up)
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = expected + linear(gelu, block.mlp.down)
    torch.testing.assert_close(block(x, attend), expected, atol=1e-12, rtol=1e-12)


def test_encoder_reads_patches_and_decoder_writes_them_in_place():
    config = ViTConfig(width=8, depth=1, heads=2)
    encoder, decoder = ViTEncoder(config, channels=3, patch_size=4), ViTDecoder(config, channels=2, patch_size=4)
    assert encoder(torch.zeros(2, 3, 8, 12)).shape == (2, 8, 2, 3)
    assert decoder(torch.zeros(2, 8, 2, 3)).shape == (2, 2, 8, 12)
    with torch.no_grad():  # a bias of 0..31 writes channel, row, column of a patch
        decoder.out_proj.weight.zero_()
        decoder.out_proj.bias.copy_(torch.arange(32.0))
    image = decoder(torch.zeros(1, 8, 2, 3))[0]
    patch = torch.arange(32.0).view(2, 4, 4)
    assert torch.equal(image[:, 4:8, 8:12], patch)
    assert torch.equal(image[:, :4, :4], patch)


def test_positions_made_in_inference_mode_can_be_trained_with_later():
    with torch.inference_mode():
        sincos_2d(3, 7, 8, torch.device("cpu"))
    encoder = ViTEncoder(ViTConfig(width=8, depth=1, heads=2), channels=1, patch_size=1)
    encoder(torch.ones(1, 1, 3, 7)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("fields", [{"width": 10, "heads": 2}, {"width": 16, "heads": 3}])
def test_impossible_sizes_are_refused(fields):
    with pytest.raises(Open4MError, match="multiple of"):
        ViTConfig(**fields)
