"""Attention by batched matrix products, with a gradient of its own: the fused kernels of CPUs are slow in bfloat16."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

LONGEST = 512
"""More keys than these would make the probabilities, which are kept, larger than all else that a block keeps."""

UNSEEN = -1e30
"""What is added to the score of a key that is not seen: finite, so that no row is undefined."""


class AttentionByProducts(torch.autograd.Function):
    """Scaled dot-product attention whose probabilities are kept for the backward pass.

    The backward pass is four products then, as large as the two of the forward pass twice, and none is repeated.
    Scores and their softmax have single precision or more, probabilities and products the type of the values.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None):
        """(B, M, D) from q (B, M, D) and k, v (B, N, D) of one type; ``mask`` as :func:`open4m.nn.attention.attend`
        has it. A query that sees no key gets 0."""
        size, width = len(q), q.shape[2] // heads
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = (_by_head(x, heads) for x in (q, k, v))
            wide = torch.promote_types(q.dtype, torch.float32)
            scores = torch.bmm(q.to(wide) * width**-0.5, k.to(wide).transpose(1, 2))
            sees = None
            if mask is not None:
                mask = mask[(None,) * (4 - mask.ndim)]
                unseen = torch.zeros(mask.shape, dtype=wide, device=mask.device).masked_fill_(~mask, UNSEEN)
                scores.unflatten(0, (size, heads)).add_(unseen)
                sees = mask.any(-1).transpose(1, 2).unsqueeze(-1).to(q.dtype)  # (B, M, heads, 1), or 1 for B, M, heads
            shares = scores.softmax(-1).to(q.dtype)
            out = _by_token(torch.bmm(shares, v), heads, sees)
        ctx.save_for_backward(q, k, v, shares, sees)
        ctx.heads = heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor):
        (q, k, v, shares, sees), heads = ctx.saved_tensors, ctx.heads
        gradient = _by_head(gradient, heads, sees)
        of_shares = torch.bmm(gradient, v.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        scale = torch.tensor(q.shape[2] ** -0.5, dtype=torch.promote_types(q.dtype, torch.float32))
        of_q = _by_token(torch.bmm(of_scores, k), heads, scale)
        of_k = _by_token(torch.bmm(of_scores.transpose(1, 2), q), heads, scale)
        return of_q, of_k, _by_token(torch.bmm(shares.transpose(1, 2), gradient), heads), None, None


def _by_head(x: Tensor, heads: int, factor: Tensor | None = None) -> Tensor:
    """(B, N, D) → (B·heads, N, D/heads), contiguous; times ``factor``, which has (B, N, heads, D/heads) or is spread to
    it."""
    x = x.unflatten(-1, (heads, -1))
    return (x if factor is None else x * factor).transpose(1, 2).flatten(0, 1).contiguous()


def _by_token(x: Tensor, heads: int, factor: Tensor | None = None) -> Tensor:
    """The inverse of :func:`_by_head`, times ``factor``."""
    x = x.unflatten(0, (-1, heads)).transpose(1, 2)
    if factor is None:
        return x.flatten(2)
    return torch.mul(x, factor, out=x.new_empty(x.shape)).flatten(2)  # one pass: laid out anew and multiplied


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16: without them all products of it are slow."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported()


def by_products(q: Tensor, k: Tensor) -> bool:
    """Whether attention of q over k is faster by products: where gradients are computed in bfloat16 on a CPU that has
    products of it, over keys that are not too many, and ``torch.compile`` does not trace."""
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    suited = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[1] <= LONGEST
    return suited and training and not torch.compiler.is_compiling() and multiplies_bfloat16()
