"""The output layers of all target modalities and their cross-entropy, in one operation with a gradient of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of linear classifiers, each with its own rows of the hidden states and of one fused table.

    The logits are the largest tensors of a training step. They are kept once and become their own gradient in place;
    the gradients of the classifiers are written into that of the fused table without a copy.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, table: Tensor, target: Tensor, parts: list[tuple[slice, slice]]):
        """The cross-entropy (n,) of each target, in nats.

        ``hidden`` (n, D); ``table`` (V, D), each of its entries in one of the parts; ``target`` (n,): ids that count
        from the first entry of their part; ``parts``: (rows of ``hidden``, entries of ``table``). Under autocast the
        logits have its type; all that follows has single precision, or that of the hidden states if it is higher.
        """
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        cost = torch.empty(len(target), dtype=wide, device=hidden.device)
        kept = []
        with torch.autocast(kind, enabled=False):
            hidden = hidden.to(dtype)
            for rows, entries in parts:
                logits = hidden[rows] @ table[entries].to(dtype).T
                log_total = logits.to(wide).logsumexp(1, keepdim=True)
                answer = logits.gather(1, target[rows, None])
                cost[rows] = (log_total - answer)[:, 0]
                if any(ctx.needs_input_grad):
                    kept.append((logits, log_total))
        ctx.save_for_backward(hidden, table, target)
        ctx.parts, ctx.kept = parts, kept
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, cost_gradient: Tensor):
        if ctx.kept is None:
            raise RuntimeError(
                "the logits became their own gradient in the first backward pass: there is no second one"
            )
        hidden, table, target = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        table_gradient = torch.empty_like(table) if ctx.needs_input_grad[1] else None
        for (rows, entries), (logits, log_total) in zip(ctx.parts, kept, strict=True):
            slope = logits.to(log_total.dtype).sub_(log_total).exp_()  # probabilities; of the answer, less 1
            slope.scatter_add_(1, target[rows, None], slope.new_full((1, 1), -1.0).expand(len(slope), 1))
            slope = slope.mul_(cost_gradient[rows, None]).to(hidden.dtype)
            if hidden_gradient is not None:
                torch.mm(slope, table[entries].to(hidden.dtype), out=hidden_gradient[rows])
            if table_gradient is not None:
                if table.dtype == hidden.dtype:
                    torch.mm(slope.T, hidden[rows], out=table_gradient[entries])
                else:
                    table_gradient[entries] = slope.T @ hidden[rows]
        return hidden_gradient, table_gradient, None, None
