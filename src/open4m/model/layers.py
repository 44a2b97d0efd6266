"""Transformer blocks (paper 2.2, C.1, E.6): pre-norm, SwiGLU, blocks without biases."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every LayerNorm


def norm(dim: int) -> nn.LayerNorm:
    """A LayerNorm without bias (paper E.6)."""
    return nn.LayerNorm(dim, eps=EPS, bias=False)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Multi-head attention of q (B, M, D) over k, v (B, N, D); mask (B or 1, 1, M or 1, N) bool, True where allowed."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))  # (B, heads, ·, D/heads)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention; keys and values of earlier calls may be kept in a cache."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, cache: dict[str, Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        if cache is not None:
            if "k" in cache:
                k, v = torch.cat([cache["k"], k], 1), torch.cat([cache["v"], v], 1)
            cache["k"], cache["v"] = k, v
        return self.proj(attend(q, k, v, self.heads, mask))


class CrossAttention(nn.Module):
    """Attention of decoder tokens over the encoder's; its keys and values are computed once a context."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, keys_values: Tensor, mask: Tensor | None) -> Tensor:
        k, v = keys_values.chunk(2, -1)
        return self.proj(attend(self.q(x), k, v, self.heads, mask))


class SwiGLU(nn.Module):
    """Gated feed-forward layer, its width reduced by 2/3 to keep the parameter count (paper E.6)."""

    def __init__(self, dim: int, ratio: float):
        super().__init__()
        hidden = int(dim * ratio * 2 / 3)
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.attention = norm(dim), SelfAttention(dim, heads)
        self.norm2, self.mlp = norm(dim), SwiGLU(dim, mlp_ratio)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.self_attention = norm(dim), SelfAttention(dim, heads)
        self.query_norm, self.context_norm, self.cross_attention = norm(dim), norm(dim), CrossAttention(dim, heads)
        self.norm2, self.mlp = norm(dim), SwiGLU(dim, mlp_ratio)

    def keys_values(self, context: Tensor) -> Tensor:
        """What this block's cross-attention reads of a context (B, N, D): (B, N, 2D)."""
        return self.cross_attention.kv(self.context_norm(context))

    def forward(
        self,
        x: Tensor,
        keys_values: Tensor,
        self_mask: Tensor | None,
        context_mask: Tensor | None,
        cache: dict[str, Tensor] | None = None,
    ) -> Tensor:
        x = x + self.self_attention(self.norm1(x), self_mask, cache)
        x = x + self.cross_attention(self.query_norm(x), keys_values, context_mask)
        return x + self.mlp(self.norm2(x))
