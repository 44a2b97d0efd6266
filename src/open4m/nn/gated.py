"""The second half of a gated feed-forward layer as one operation, which keeps nothing but its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

SLOPES = {F.silu: torch.ops.aten.silu_backward, F.gelu: torch.ops.aten.gelu_backward}
"""The activations that :class:`GatedLinear` knows the gradient of."""


class GatedLinear(torch.autograd.Function):
    """``linear(activation(gate) * up)``, whose product is computed again in the backward pass instead of being kept.

    Otherwise the activated gates and the product would be kept as well, as much memory again, and a copy would put the
    gradients of both halves of the input together.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, gate_up: Tensor, weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor]
    ):
        """(..., D) from ``gate_up`` (..., 2·H), gates first, ``weight`` (D, H) and ``bias`` (D,).

        Under autocast both products have its type, as those of ``nn.Linear`` do.
        """
        kind = gate_up.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else gate_up.dtype
        with torch.autocast(kind, enabled=False):
            rows = gate_up.to(dtype).reshape(-1, gate_up.shape[-1])
            gate, up = rows.chunk(2, -1)
            out = F.linear(activation(gate) * up, weight.to(dtype), None if bias is None else bias.to(dtype))
        ctx.save_for_backward(rows, weight)
        ctx.activation, ctx.shape, ctx.types = (
            activation,
            gate_up.shape,
            (gate_up.dtype, bias is not None and bias.dtype),
        )
        return out.view(*gate_up.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor):
        rows, weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, len(weight))
        gate, up = rows.chunk(2, -1)
        active = ctx.activation(gate)
        of_hidden, of_rows = gradient @ weight.to(rows.dtype), torch.empty_like(rows)
        of_gate, of_up = of_rows.chunk(2, -1)  # written in place: no copy puts them together
        torch.mul(of_hidden, active, out=of_up)
        SLOPES[ctx.activation].grad_input(of_hidden.mul_(up), gate, grad_input=of_gate)
        of_input, bias_type = ctx.types
        return (
            of_rows.view(ctx.shape).to(of_input),
            (gradient.T @ active.mul_(up)).to(weight.dtype) if ctx.needs_input_grad[1] else None,
            gradient.sum(0).to(bias_type) if ctx.needs_input_grad[2] else None,
            None,
        )


def keeps_little(linear: nn.Module, activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether :class:`GatedLinear` is of use, where gradients are computed, and can be used: for a linear layer that
    nobody listens to, and not while ``torch.compile`` traces, which fuses the same passes."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or activation not in SLOPES:
        return False
    return isinstance(linear, nn.Linear) and not linear._forward_hooks and not linear._forward_pre_hooks
