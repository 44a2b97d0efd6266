"""Attention. What sees what is an argument, so that one block serves padded batches, unpadded rows and caches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.nn.config import BlockConfig
from open4m.nn.products import AttentionByProducts, by_products

EPS = 1e-6
"""The epsilon of every LayerNorm."""

DEFINED_WITHOUT_KEYS = ("cpu",)
"""The devices on which attention over no key is 0, and its gradients are. Those of some GPU kernels are not finite."""

Attend = Callable[[Tensor, Any, Any, int], Tensor]
"""An attention pattern: from queries (..., D), keys and values, and the number of heads to (..., D).

:func:`attend`, :func:`masked` and :func:`over` are patterns of padded batches, where keys and values are (B, N, D).
Others, such as those of ``generate/varlen.py``, may keep keys and values in a form of their own.
"""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) → (B, heads, N, D/heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of q (B, M, D) over k, v (B, N, D) → (B, M, D).

    ``mask``: bool, broadcast to (B, heads, M, N), True where a query sees a key.
    """
    if by_products(q, k):
        return AttentionByProducts.apply(q, k, v, heads, mask)
    q, k, v = (split_heads(part, heads) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def masked(mask: Tensor) -> Attend:
    """The pattern of a padded batch in which queries see the keys where ``mask`` is True."""
    return partial(attend, mask=mask)


def over(valid: Tensor) -> Attend:
    """The pattern in which the queries of each row see its keys that are ``valid``, bool (B, N); 0 where none is.

    No query is left without a key but on ``DEFINED_WITHOUT_KEYS``.
    """
    if valid.device.type in DEFINED_WITHOUT_KEYS:
        return masked(valid[:, None, None])
    some = valid.any(1)[:, None]
    mask = (valid | ~some)[:, None, None]

    def pattern(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attend(q, k, v, heads, mask) * some[..., None]

    return pattern


class FusedLinear(nn.Linear):
    """Several linear layers of one input and equal widths, computed as one product; each is initialized on its own."""

    def __init__(self, into: int, out: int, parts: int, bias: bool):
        super().__init__(into, parts * out, bias=bias)
        self.parts = parts

    def product(self, x: Tensor) -> Tensor:
        """The product of all parts, (..., parts·out)."""
        return super().forward(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.product(x).chunk(self.parts, -1)


class Norm(nn.LayerNorm):
    """A LayerNorm whose weights may be less precise than its input, as those that FSDP gathers in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(dtype), bias, self.eps)


class QKNorm(nn.Module):
    """LayerNorm of the queries and keys of every head (paper E.6, Table 26)."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.heads = config.heads
        self.query = Norm(config.dim // config.heads, eps=EPS, bias=config.norm_bias)
        self.key = Norm(config.dim // config.heads, eps=EPS, bias=config.norm_bias)

    def queries(self, q: Tensor) -> Tensor:
        """Normalized queries (..., D)."""
        return self.query(q.unflatten(-1, (self.heads, -1))).flatten(-2)

    def keys(self, k: Tensor) -> Tensor:
        """Normalized keys (..., D)."""
        return self.key(k.unflatten(-1, (self.heads, -1))).flatten(-2)


class SelfAttention(nn.Module):
    """Self-attention of x (..., D)."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = FusedLinear(config.dim, config.dim, 3, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        q, k, v = self.qkv(x)
        if self.qk_norm is not None:
            q, k = self.qk_norm.queries(q), self.qk_norm.keys(k)
        return self.proj(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Attention of decoder tokens x (..., D) over the encoder's; keys and values may be computed once per context."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = FusedLinear(config.dim, config.dim, 2, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (..., D) of a context (..., D)."""
        k, v = self.kv(context)
        return (k if self.qk_norm is None else self.qk_norm.keys(k)), v

    def forward(self, x: Tensor, keys_values: tuple[Any, Any], attend: Attend) -> Tensor:
        q = self.q(x)
        if self.qk_norm is not None:
            q = self.qk_norm.queries(q)
        return self.proj(attend(q, *keys_values, self.heads))
