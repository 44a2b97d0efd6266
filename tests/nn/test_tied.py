"""A tied table against torch's embedding and linear layer, whose gradients autograd adds up."""

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import profile

from open4m.nn.tied import TiedTable

INDEX = torch.tensor([[0, 2, 2], [5, 2, 0]])  # rows that are read more than once


def table():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()


def tied(weight, index):
    own = TiedTable(weight)
    return (own.rows(index).tanh() @ own.weight.T).square().sum()


def plain(weight, index):
    return (F.embedding(index, weight).tanh() @ weight.T).square().sum()


@pytest.mark.parametrize("index", [INDEX, INDEX[:0]], ids=["rows", "none"])
def test_the_gradient_is_the_sum_of_both_uses(index):
    gradients = []
    for function in (tied, plain):
        weight = table()
        function(weight, index).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)


def test_several_passes_add_up_before_and_after_a_backward_pass():
    gradients = []
    for function in (tied, plain):
        weight = table()
        (function(weight, INDEX) + function(weight, INDEX.flip(0)[:, :1]) + weight.sum()).backward()
        function(weight, INDEX[:1]).backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients)


def test_each_use_alone_has_its_gradient():
    weight = table()
    TiedTable(weight).rows(INDEX).sum().backward()
    expected = torch.zeros(6, 4).double()
    expected[0], expected[2], expected[5] = 2, 3, 1
    assert torch.equal(weight.grad, expected)
    weight.grad = None
    own = TiedTable(weight)
    own.rows(INDEX)
    own.weight.sum().backward()
    assert torch.equal(weight.grad, torch.ones(6, 4).double())
    own = TiedTable(weight)
    weight.grad = None
    (own.weight.sum() + own.rows(INDEX).sum()).backward()  # of the sum, a single number
    assert torch.equal(weight.grad, expected + 1)


def test_a_frozen_table_has_no_gradient_and_passes_none_on():
    weight = table().detach()
    own, other = TiedTable(weight), torch.ones(4, 1).double().requires_grad_()
    (own.rows(INDEX) @ other).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(other.grad[:, 0], weight[INDEX].sum((0, 1)))


def test_no_second_tensor_of_the_table_size_is_made():
    made = []
    for function in (tied, plain):
        weight = table()
        cost = function(weight, INDEX)
        with profile(record_shapes=True) as record:
            cost.backward()
        whole = ("aten::fill_", "aten::add", "aten::add_")
        made.append(sum(e.name in whole and [6, 4] in e.input_shapes for e in record.events()))
    assert made[0] == 0 < made[1]
