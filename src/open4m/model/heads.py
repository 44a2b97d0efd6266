"""The output layers of all target modalities and their cross-entropy, in one operation with a gradient of its own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

CACHED = 2**19
"""So many logits are worked on at a time on a CPU: they stay in its cache from one pass to the next."""


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of linear classifiers, each with its own rows of the hidden states and of one fused table.

    The logits are the largest tensors of a training step. They are kept once and change in place: into probabilities
    that are not divided by their sums yet, so that each exponential is computed once, then into their own gradient.
    The gradients of the classifiers are written into that of the fused table without a copy.
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
        largest, total, answer = (torch.empty(len(target), 1, dtype=wide, device=hidden.device) for _ in range(3))
        kept = []
        with torch.autocast(kind, enabled=False):
            hidden = hidden.to(dtype)
            for rows, entries in parts:
                logits = hidden[rows] @ table[entries].to(dtype).T
                answer[rows] = logits.gather(1, target[rows, None]).to(wide)
                for some in _pieces(rows, logits):
                    piece = logits[some.start - rows.start : some.stop - rows.start]
                    powers = piece.to(wide)
                    largest[some] = powers.amax(1, keepdim=True)
                    total[some] = powers.sub_(largest[some]).exp_().sum(1, keepdim=True)
                    piece.copy_(powers)
                if any(ctx.needs_input_grad):
                    kept.append(logits)
        surprise = largest + total.log() - answer
        ctx.save_for_backward(hidden, table, target, total, surprise)
        ctx.parts, ctx.kept = parts, kept
        return surprise[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, cost_gradient: Tensor):
        if ctx.kept is None:
            raise RuntimeError(
                "the logits became their own gradient in the first backward pass: there is no second one"
            )
        hidden, table, target, total, surprise = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        weight = cost_gradient[:, None] / total
        of_answer = torch.expm1(-surprise) * cost_gradient[:, None]  # of the answer the gradient is p - 1, not p
        hidden_gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        table_gradient = torch.empty_like(table) if ctx.needs_input_grad[1] else None
        for (rows, entries), slope in zip(ctx.parts, kept, strict=True):
            for some in _pieces(rows, slope):
                piece = slope[some.start - rows.start : some.stop - rows.start]
                piece.copy_(piece.to(weight.dtype).mul_(weight[some]))
            slope.scatter_(1, target[rows, None], of_answer[rows].to(slope.dtype))
            if hidden_gradient is not None:
                torch.mm(slope, table[entries].to(hidden.dtype), out=hidden_gradient[rows])
            if table_gradient is not None:
                if table.dtype == hidden.dtype:
                    torch.mm(slope.T, hidden[rows], out=table_gradient[entries])
                else:
                    table_gradient[entries] = slope.T @ hidden[rows]
        return hidden_gradient, table_gradient, None, None


def _pieces(rows: slice, logits: Tensor) -> Iterator[slice]:
    """``rows``, one for each of the logits (n, V), in the pieces that are worked on in turn: one if not on a CPU."""
    size = CACHED // logits.shape[1] if logits.device.type == "cpu" else len(logits)
    for start in range(rows.start, rows.stop, max(1, size)):
        yield slice(start, min(start + max(1, size), rows.stop))
