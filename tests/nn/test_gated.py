"""The fused gated layer against the same layer written out, and what it keeps for the backward pass."""

import pytest
import torch
import torch.nn.functional as F

from open4m.nn.blocks import feed_forward
from open4m.nn.config import BlockConfig
from open4m.nn.gated import GatedLinear, keeps_little


def written_out(gate_up, weight, bias, activation):
    gate, up = gate_up.chunk(2, -1)
    return F.linear(activation(gate) * up, weight, bias)


def inputs(shape, dtype, bias=True):
    generator = torch.Generator().manual_seed(0)
    sizes = ((*shape, 10), (3, 5), *([(3,)] if bias else []))
    tensors = [torch.randn(size, generator=generator).to(dtype).requires_grad_() for size in sizes]
    return tensors if bias else [*tensors, None]


def gradients(out, tensors):
    slope = torch.linspace(-1, 2, out.numel()).view(out.shape).to(out.dtype)
    return torch.autograd.grad((out * slope).sum(), [t for t in tensors if t is not None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 4), (1,), (0, 4)], ids=str)
@pytest.mark.parametrize("activation", [F.silu, F.gelu])
def test_it_is_the_layer_written_out(activation, shape, dtype):
    for bias in (True, False):
        tensors = inputs(shape, dtype, bias)
        outs = [f(*tensors, activation) for f in (GatedLinear.apply, written_out)]
        torch.testing.assert_close(*outs)
        for mine, theirs in zip(*(gradients(out, tensors) for out in outs), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_under_autocast_it_is_what_a_linear_layer_does():
    tensors = inputs((2, 4), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = [f(tensors[0].bfloat16(), *tensors[1:], F.silu) for f in (GatedLinear.apply, written_out)]
    assert outs[0].dtype == torch.bfloat16
    torch.testing.assert_close(*outs)
    for mine, theirs in zip(*(gradients(out, tensors) for out in outs), strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0.02)  # of bfloat16: 2^-8 of values up to 4


def test_only_what_is_trained_gets_a_gradient():
    for frozen in range(3):
        tensors = inputs((2, 4), torch.float64)
        tensors[frozen].requires_grad_(False)
        trained = [t for t in tensors if t.requires_grad]
        outs = [f(*tensors, F.silu) for f in (GatedLinear.apply, written_out)]
        for mine, theirs in zip(*(gradients(out, trained) for out in outs), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_layer_that_is_trained_keeps_its_input_and_its_gates_alone():
    layer, x, kept = feed_forward(BlockConfig(dim=12, heads=1)), torch.randn(5, 12, requires_grad=True), {}
    weights = {w.untyped_storage().data_ptr() for w in layer.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trained = layer(x)
    assert sum(kept.values()) == 4 * 5 * (12 + 2 * 32)
    with torch.no_grad():
        assert not keeps_little(layer.down, layer.activation)
        assert torch.equal(layer(x), trained)
    assert not keeps_little(layer.down, torch.tanh)


def test_a_layer_that_someone_listens_to_is_called():
    layer, heard = feed_forward(BlockConfig(dim=12, heads=1)), []
    layer.down.register_forward_hook(lambda module, inputs, output: heard.append(output))
    out = layer(torch.randn(5, 12))
    assert len(heard) == 1
    assert heard[0] is out
