"""The layers against explicit float64 formulas, one vector at a time."""

from dataclasses import replace

import pytest
import torch
from tiny_model import CONFIG, gelu, silu, slow_attention, slow_norm

from open4m.nn.attention import CrossAttention, SelfAttention, attend, masked
from open4m.nn.blocks import DecoderBlock, EncoderBlock, drop_path, feed_forward


def randomized(layer):
    """The layer in float64, with weights and biases that matter."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape).double() / 2
    return layer.double()


def close(found, expected):  # float64 of some hundred operations; measured below 1e-14
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def affine(linear, x):
    return linear.weight @ x + (0 if linear.bias is None else linear.bias)


def slow_layer(layer, query, keys, values):
    """The attention of one projected query over projected keys and values, up to the layer's output."""
    if layer.qk_norm is not None:
        query, *keys = (
            torch.cat([slow_norm(p, norm.weight, 0 if norm.bias is None else norm.bias) for p in x.chunk(layer.heads)])
            for norm, x in [(layer.qk_norm.query, query), *((layer.qk_norm.key, key) for key in keys)]
        )
    return affine(layer.proj, slow_attention(query, keys, values, layer.heads))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("qk_norm", [False, True], ids=["", "qk_norm"])
def test_attention_of_unequal_samples(qk_norm, bias):
    config = replace(CONFIG, qk_norm=qk_norm, qkv_bias=bias, proj_bias=bias, norm_bias=bias)
    x, context = torch.randn(3, 5, 16).double(), torch.randn(3, 6, 16).double()
    # self-attention where every query sees keys of its own; cross-attention of samples of 6, 1 and no tokens
    layer, mask = randomized(SelfAttention(config)), torch.rand(3, 1, 5, 5) < 0.5
    mask[1, 0, 2] = False  # a query that sees nothing
    found = layer(x, masked(mask))
    for sample in range(3):
        qkv = [affine(layer.qkv, t).chunk(3) for t in x[sample]]
        for i in range(5):
            seen = [qkv[j] for j in range(5) if mask[sample, 0, i, j]]
            close(found[sample, i], slow_layer(layer, qkv[i][0], [k for _, k, _ in seen], [v for *_, v in seen]))
    layer, lengths = randomized(CrossAttention(config)), (6, 1, 0)
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None])[:, None, None]
    found = layer(x, layer.keys_values(context), masked(mask))
    for sample, length in enumerate(lengths):
        kv = [affine(layer.kv, t).chunk(2) for t in context[sample, :length]]
        for i in range(5):
            query = affine(layer.q, x[sample, i])
            close(found[sample, i], slow_layer(layer, query, [k for k, _ in kv], [v for _, v in kv]))


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("activation", ["swiglu", "geglu", "gelu", "silu"])
def test_feed_forward_layers(activation, bias):
    layer = randomized(feed_forward(replace(CONFIG, activation=activation, mlp_bias=bias, mlp_ratio=3.3)))
    function = gelu if activation in ("gelu", "geglu") else silu
    x = torch.randn(16).double()
    if activation in ("gelu", "silu"):
        hidden = function(affine(layer.up, x))
        assert len(hidden) == 52  # int(3.3 · 16)
    else:
        gate, up = affine(layer.gate_up, x).chunk(2)
        hidden = function(gate) * up
        assert len(hidden) == 34  # int(⅔ · 52): rounded down twice, as in the public checkpoints
    close(layer(x), affine(layer.down, hidden))
    assert all((linear.bias is not None) == bias for linear in layer.children())


def test_each_branch_of_a_block_is_scaled_alone_in_each_sample():
    """Three samples: nothing is left out, everything, all but one branch."""
    x = torch.randn(3, 5, 16).double()
    encoder, decoder = randomized(EncoderBlock(CONFIG)), randomized(DecoderBlock(CONFIG))
    keys_values = decoder.keys_values(torch.randn(3, 4, 16).double())
    branches_of = {
        encoder: [lambda y: encoder.attention(encoder.norm1(y), attend), lambda y: encoder.mlp(encoder.norm2(y))],
        decoder: [
            lambda y: decoder.self_attention(decoder.norm1(y), attend),
            lambda y: decoder.cross_attention(decoder.query_norm(y), keys_values, attend),
            lambda y: decoder.mlp(decoder.norm2(y)),
        ],
    }
    for block, arguments in ((encoder, [attend]), (decoder, [keys_values, attend, attend])):
        branches = branches_of[block]
        for left_out in range(len(branches)):
            keep = torch.ones(3, len(branches))
            keep[1], keep[2, left_out] = 0, 0
            expected = x
            for i, branch in enumerate(branches):
                expected = expected + keep[:, i, None, None].double() * branch(expected)
            close(block(x, *arguments, keep=keep), expected)
            close(block(x, *arguments, keep=keep)[1], x[1])


def test_the_rate_of_stochastic_depth_grows_from_0_and_expectations_are_kept():
    first, second, third = drop_path(0.5, 3, 2, 5000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert first is None
    for factors, rate in ((second, 0.25), (third, 0.5)):
        assert factors.shape == (5000, 2)
        assert factors.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
        # branches are drawn one by one; 5 standard deviations of the mean of 5000
        for left_out in ((factors == 0).double().mean(0) - rate).tolist():
            assert abs(left_out) < 5 * (rate * (1 - rate) / 5000) ** 0.5
    assert not torch.equal(second == 0, third == 0)
    assert not torch.equal(second[:, 0], second[:, 1])
    assert drop_path(0.5, 1, 2, 4, torch.Generator(), torch.device("cpu")) == [None]
