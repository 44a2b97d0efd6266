"""Transformer blocks (paper 2.2, C.1, E.6): pre-norm; by default SwiGLU and no biases."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import FourMConfig

EPS = 1e-6  # of every LayerNorm


def norm(dim: int, config: FourMConfig) -> nn.LayerNorm:
    """A LayerNorm, without bias by default (paper E.6)."""
    return nn.LayerNorm(dim, eps=EPS, bias=config.norm_bias)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, D) → (B, heads, N, D/heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of q (B, heads, M, d) over k, v (B, heads, N, d) → (B, M, heads·d).

    ``mask`` (B or 1, 1, M or 1, N) bool is True where allowed.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Packed:
    """The real tokens of padded rows, one after another: linear layers see no padding, attention sees rows.

    ``valid`` (B, N) bool says which tokens are real.
    """

    def __init__(self, valid: Tensor):
        self.shape = valid.shape
        real = valid.flatten()
        count = int(real.sum())
        self.full = count == real.numel()  # then nothing needs to be moved
        if not self.full:
            self.places = real.nonzero()[:, 0]  # (T,), of every token among B·N
            self.index = (real.cumsum(0) - 1).clamp(min=0)  # (B·N,), of every place among tokens; of padding: any token

    def flat(self, x: Tensor) -> Tensor:
        """(B, N, ...) → (T, ...)."""
        x = x.flatten(0, 1)
        return x if self.full else x.index_select(0, self.places)

    def rows(self, x: Tensor) -> Tensor:
        """(T, ...) → (B, N, ...); what padding holds is finite and means nothing."""
        if not self.full:
            x = x.index_select(0, self.index) if len(x) else x.new_zeros(len(self.index), *x.shape[1:])
        return x.unflatten(0, self.shape)


class FusedLinear(nn.Linear):
    """Several linear layers of one input and equal widths, computed as one; each is initialized on its own."""

    def __init__(self, into: int, out: int, parts: int, bias: bool):
        super().__init__(into, parts * out, bias=bias)
        self.parts = parts

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(x).chunk(self.parts, -1)


class QKNorm(nn.Module):
    """LayerNorm of the queries and keys of every head (paper E.6, Table 26)."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        head = config.dim // config.heads
        self.query = norm(head, config)
        self.key = norm(head, config)


class Cache:
    """Keys and values of the tokens of a sequence so far, (rows, heads, n, d) each, with room for ``length``."""

    def __init__(self, rows: int, length: int, config: FourMConfig, like: Tensor):
        shape = (rows, config.heads, length, config.dim // config.heads)
        self.k, self.v = like.new_empty(shape), like.new_empty(shape)
        self.length = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values; all of them."""
        start, self.length = self.length, self.length + k.shape[2]
        self.k[:, :, start : self.length], self.v[:, :, start : self.length] = k, v
        return self.k[:, :, : self.length], self.v[:, :, : self.length]

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.k, self.v = self.k[rows], self.v[rows]


class SelfAttention(nn.Module):
    """Self-attention; keys and values of earlier calls may be kept in a cache."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = FusedLinear(config.dim, config.dim, 3, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, packed: Packed | None = None
    ) -> Tensor:
        q, k, v = (split_heads(part if packed is None else packed.rows(part), self.heads) for part in self.qkv(x))
        if self.qk_norm is not None:
            q, k = self.qk_norm.query(q), self.qk_norm.key(k)
        if cache is not None:
            k, v = cache.extend(k, v)
        out = attend(q, k, v, mask)
        return self.proj(out if packed is None else packed.flat(out))


class CrossAttention(nn.Module):
    """Attention of decoder tokens over the encoder's; its keys and values are computed once a context."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = FusedLinear(config.dim, config.dim, 2, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def keys_values(self, context: Tensor, packed: Packed | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, N, D/heads) of a context (B, N, D), or (T, D) if packed."""
        parts = self.kv(context)
        k, v = (split_heads(part if packed is None else packed.rows(part), self.heads) for part in parts)
        return (k if self.qk_norm is None else self.qk_norm.key(k)), v

    def forward(
        self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None, packed: Packed | None = None
    ) -> Tensor:
        q = self.q(x)
        q = split_heads(q if packed is None else packed.rows(q), self.heads)
        if self.qk_norm is not None:
            q = self.qk_norm.query(q)
        out = attend(q, *keys_values, mask)
        return self.proj(out if packed is None else packed.flat(out))


class GatedMLP(nn.Module):
    """Gated feed-forward layer, its width reduced by 2/3 to keep the parameter count (paper E.6); SwiGLU with SiLU."""

    def __init__(self, config: FourMConfig, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        hidden = int(2 * int(config.dim * config.mlp_ratio) / 3)
        self.activation = activation
        self.gate_up = FusedLinear(config.dim, hidden, 2, bias=config.mlp_bias)
        self.down = nn.Linear(hidden, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x)
        return self.down(self.activation(gate) * up)


class MLP(nn.Module):
    """Feed-forward layer, with a GELU in the reference model (paper Table 14)."""

    def __init__(self, config: FourMConfig, activation: Callable[[Tensor], Tensor]):
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.activation = activation
        self.up = nn.Linear(config.dim, hidden, bias=config.mlp_bias)
        self.down = nn.Linear(hidden, config.dim, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


def feed_forward(config: FourMConfig) -> GatedMLP | MLP:
    """The feed-forward layer of a block."""
    kind, activation = {
        "swiglu": (GatedMLP, F.silu), "geglu": (GatedMLP, F.gelu), "silu": (MLP, F.silu), "gelu": (MLP, F.gelu),
    }[config.activation]  # fmt: skip
    return kind(config, activation)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward. ``keep`` scales what a block adds: see :func:`drop_path`."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.norm1, self.attention = norm(config.dim, config), SelfAttention(config)
        self.norm2, self.mlp = norm(config.dim, config), feed_forward(config)

    def forward(
        self, x: Tensor, mask: Tensor | None, keep: Tensor | None = None, packed: Packed | None = None
    ) -> Tensor:
        x = x + scaled(self.attention(self.norm1(x), mask, packed=packed), keep, 0)
        return x + scaled(self.mlp(self.norm2(x)), keep, 1)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.norm1, self.self_attention = norm(config.dim, config), SelfAttention(config)
        self.query_norm, self.context_norm = norm(config.dim, config), norm(config.dim, config)
        self.cross_attention = CrossAttention(config)
        self.norm2, self.mlp = norm(config.dim, config), feed_forward(config)

    def keys_values(self, context: Tensor, packed: Packed | None = None) -> tuple[Tensor, Tensor]:
        """What this block's cross-attention reads of a context (B, N, D), or (T, D) if packed."""
        return self.cross_attention.keys_values(self.context_norm(context), packed)

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        self_mask: Tensor | None,
        context_mask: Tensor | None,
        cache: Cache | None = None,
        keep: Tensor | None = None,
        packed: Packed | None = None,
    ) -> Tensor:
        x = x + scaled(self.self_attention(self.norm1(x), self_mask, cache, packed), keep, 0)
        x = x + scaled(self.cross_attention(self.query_norm(x), keys_values, context_mask, packed), keep, 1)
        return x + scaled(self.mlp(self.norm2(x)), keep, 2)


def scaled(branch: Tensor, keep: Tensor | None, index: int) -> Tensor:
    """A residual branch (B, N, D) times its column of ``keep`` (B, branches)."""
    return branch if keep is None else branch * keep[:, index, None, None].to(branch.dtype)


def drop_path(
    rate: float, depth: int, branches: int, size: int, generator: torch.Generator, device: torch.device
) -> list[Tensor | None]:
    """Stochastic depth: for each of ``depth`` blocks, factors (B, branches), 0 where a sample skips a branch.

    The rate grows linearly from 0 in the first block to ``rate`` in the last; what is kept is scaled to keep its
    expectation.
    """
    rates = torch.linspace(0, rate, depth).tolist()
    return [
        (torch.rand(size, branches, generator=generator, device=device) >= r).float() / (1 - r) if r else None
        for r in rates
    ]
