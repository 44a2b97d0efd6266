"""A table that is embedding and output layer at once, whose gradient is one dense tensor instead of a sum of two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Rows = list[tuple[Tensor, Tensor]]
"""Which rows of a table (n,) have gradients of their own, and these (n, D)."""


class TiedTable:
    """A table (V, D) in one forward pass: ``weight`` is the output layer, ``rows`` are embeddings.

    The gradient of the rows is added to that of ``weight`` in place. Autograd would make a tensor of the table's size
    for each of the two, and add them up.
    """

    def __init__(self, table: Tensor):
        self._rows: Rows = []
        self.weight: Tensor = _Weight.apply(table, self._rows)

    def rows(self, index: Tensor) -> Tensor:
        """The rows (..., D) at ``index`` (...)."""
        return _Lookup.apply(self.weight, index, self._rows)


class _Weight(torch.autograd.Function):
    """The table, whose gradient is completed by the rows that were looked up."""

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, rows: Rows):
        ctx.rows = rows
        return table.view_as(table)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor):
        gradient = gradient.contiguous()  # one that is spread from fewer numbers is no place for more
        while ctx.rows:
            index, rows = ctx.rows.pop()
            gradient.scatter_add_(0, index[:, None].expand_as(rows), rows)
        return gradient, None


class _Lookup(torch.autograd.Function):
    """An embedding that leaves its gradient in a list, for :class:`_Weight`, whose backward pass is later."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, index: Tensor, rows: Rows):
        ctx.index, ctx.rows = index, rows
        return F.embedding(index, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor):
        if ctx.needs_input_grad[0]:
            ctx.rows.append((ctx.index.flatten(), gradient.reshape(-1, gradient.shape[-1])))
        return None, None, None
