"""Transformer blocks (paper 2.2, C.1, E.6): pre-norm; by default SwiGLU and no biases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

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


Runs = Sequence[tuple[int, int]]
"""(rows, tokens of each) of equally long rows that follow one another; attention takes them together."""

KeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values (rows, heads, n, D/heads) of each run of rows, or of all rows, padded."""


class Packed:
    """The real tokens of padded rows, one after another: nothing is computed for padding.

    ``valid`` (B, N) bool says which tokens are real; ``lengths`` is how many each row has.
    """

    def __init__(self, valid: Tensor):
        self.lengths: list[int] = valid.sum(1).tolist()
        self.places = None if sum(self.lengths) == valid.numel() else valid.flatten().nonzero()[:, 0]
        self.runs: Runs = [(len([*rows]), n) for n, rows in itertools.groupby(self.lengths)]

    def flat(self, x: Tensor) -> Tensor:
        """(B, N, ...) → (T, ...)."""
        x = x.flatten(0, 1)
        return x if self.places is None else x.index_select(0, self.places)


def split_runs(x: Tensor, heads: int, runs: Runs) -> list[Tensor]:
    """(T, D) → (rows, heads, n, D/heads) of each run."""
    parts = x.split([rows * n for rows, n in runs])
    return [split_heads(part.unflatten(0, run), heads) for part, run in zip(parts, runs, strict=True)]


def attend_runs(q: Sequence[Tensor], keys_values: KeysValues) -> Tensor:
    """Attention of the rows of each run over all that they have keys and values of, 0 where there are none → (T, D)."""
    parts = [
        attend(own, k, v, None) if k.shape[2] else torch.zeros_like(own).transpose(1, 2).flatten(2)
        for own, (k, v) in zip(q, keys_values, strict=True)
    ]
    return torch.cat([part.flatten(0, 1) for part in parts]) if len(parts) > 1 else parts[0].flatten(0, 1)


def compact(x: Tensor, rows: Sequence[int]) -> Tensor:
    """The ``rows`` of x, in ascending order, moved to its beginning in place."""
    for new, old in enumerate(rows):
        if new != old:
            x[new] = x[old]
    return x[: len(rows)]


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
        self.heads = config.heads
        self.query = norm(config.dim // config.heads, config)
        self.key = norm(config.dim // config.heads, config)

    def forward(self, q: Tensor | None, k: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Queries and keys (..., D), either of which may be absent."""
        pairs = ((self.query, q), (self.key, k))
        return tuple(x if x is None else own(x.unflatten(-1, (self.heads, -1))).flatten(-2) for own, x in pairs)


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

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these, which are in ascending order."""
        for x in (self.k, self.v):
            compact(x[:, :, : self.length], rows)
        self.k, self.v = self.k[: len(rows)], self.v[: len(rows)]


class SelfAttention(nn.Module):
    """Self-attention of padded rows (B, N, D), or of ``runs`` of rows (T, D). With a ``cache``, x (rows, D) is the next
    token of each row and sees those before it."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = FusedLinear(config.dim, config.dim, 3, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None = None, runs: Runs | None = None) -> Tensor:
        q, k, v = self.qkv(x)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q, k)
        if runs is None:
            return self.proj(attend(*(split_heads(part, self.heads) for part in (q, k, v)), mask))
        runs = runs if cache is None else [(len(x), 1)]
        q, k, v = (split_runs(part, self.heads, runs) for part in (q, k, v))
        seen = [*zip(k, v, strict=True)] if cache is None else [cache.extend(*k, *v)]
        return self.proj(attend_runs(q, seen))


class CrossAttention(nn.Module):
    """Attention of decoder tokens over the encoder's; its keys and values are computed once a context."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.heads = config.heads
        self.q = nn.Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = FusedLinear(config.dim, config.dim, 2, bias=config.qkv_bias)
        self.qk_norm = QKNorm(config) if config.qk_norm else None
        self.proj = nn.Linear(config.dim, config.dim, bias=config.proj_bias)

    def keys_values(self, context: Tensor, runs: Runs | None = None) -> KeysValues:
        """Of a padded context (B, N, D), or of runs of rows (T, D)."""
        k, v = self.kv(context)
        if self.qk_norm is not None:
            _, k = self.qk_norm(None, k)
        if runs is None:
            return [(split_heads(k, self.heads), split_heads(v, self.heads))]
        return [*zip(*(split_runs(part, self.heads, runs) for part in (k, v)), strict=True)]

    def forward(self, x: Tensor, keys_values: KeysValues, mask: Tensor | None, runs: Runs | None = None) -> Tensor:
        q = self.q(x)
        if self.qk_norm is not None:
            q, _ = self.qk_norm(q, None)
        if runs is None:
            return self.proj(attend(split_heads(q, self.heads), *keys_values[0], mask))
        return self.proj(attend_runs(split_runs(q, self.heads, runs), keys_values))


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
    """Self-attention and feed-forward, of padded rows (B, N, D) or of ``runs`` of rows (T, D). ``keep`` scales what a
    block adds: see :func:`drop_path`."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.norm1, self.attention = norm(config.dim, config), SelfAttention(config)
        self.norm2, self.mlp = norm(config.dim, config), feed_forward(config)

    def forward(self, x: Tensor, mask: Tensor | None, keep: Tensor | None = None, runs: Runs | None = None) -> Tensor:
        x = x + scaled(self.attention(self.norm1(x), mask, runs=runs), keep, 0)
        return x + scaled(self.mlp(self.norm2(x)), keep, 1)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, config: FourMConfig):
        super().__init__()
        self.norm1, self.self_attention = norm(config.dim, config), SelfAttention(config)
        self.query_norm, self.context_norm = norm(config.dim, config), norm(config.dim, config)
        self.cross_attention = CrossAttention(config)
        self.norm2, self.mlp = norm(config.dim, config), feed_forward(config)

    def keys_values(self, context: Tensor, runs: Runs | None = None) -> KeysValues:
        """What this block's cross-attention reads of a padded context (B, N, D), or of runs of rows (T, D)."""
        return self.cross_attention.keys_values(self.context_norm(context), runs)

    def forward(
        self,
        x: Tensor,
        keys_values: KeysValues,
        self_mask: Tensor | None,
        context_mask: Tensor | None,
        cache: Cache | None = None,
        keep: Tensor | None = None,
        runs: Runs | None = None,
    ) -> Tensor:
        x = x + scaled(self.self_attention(self.norm1(x), self_mask, cache, runs), keep, 0)
        x = x + scaled(self.cross_attention(self.query_norm(x), keys_values, context_mask, runs), keep, 1)
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
