"""open4m.transfer.heads.convnext."""

import torch
import torch.nn.functional as F

from open4m.rng import seeded
from open4m.transfer.heads.convnext import ChannelNorm, ConvNeXtBlock, ConvNeXtLayers


def test_a_block_is_a_depthwise_convolution_and_two_layers_per_place():
    block = ConvNeXtBlock(3, scale=0.5).double()
    x = torch.randn(2, 3, 5, 4, generator=seeded(0), dtype=torch.double)
    found = block(x)
    padded = F.pad(x, (3, 3, 3, 3))
    for b, y, column in ((0, 0, 0), (1, 4, 3), (1, 2, 1)):
        window = padded[b, :, y : y + 7, column : column + 7]
        mixed = (window * block.depthwise.weight[:, 0]).sum((1, 2)) + block.depthwise.bias
        normal = (mixed - mixed.mean()) / (mixed.var(correction=0) + 1e-6).sqrt()
        inner = F.gelu(block.up.weight @ normal + block.up.bias)
        expected = x[b, :, y, column] + 0.5 * (block.down.weight @ inner + block.down.bias)
        torch.testing.assert_close(found[b, :, y, column], expected)


def test_channels_are_normalized_at_each_place():
    x = torch.randn(2, 8, 3, 3, generator=seeded(0)) * 5 + 2
    out = ChannelNorm(8)(x)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)


def test_layers_have_the_papers_size():
    """MultiMAE's head: 6,144 numbers per token, as 4 × 4 places of 384 channels."""
    with torch.device("meta"):
        layers = ConvNeXtLayers(768, 150, depth=4, channels=384, finer=4)
    assert layers.proj.out_features == 6144
    per_block = 384 * 49 + 384 + 2 * 384 + 2 * 4 * 384 * 384 + 4 * 384 + 384 + 384
    count = sum(p.numel() for p in layers.parameters())
    assert count == 768 * 6144 + 6144 + 4 * per_block + 384 * 150 + 150
