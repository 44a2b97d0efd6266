"""Transformer blocks (paper 2.2, C.1, E.6): pre-norm; those of 4M and of the tokenizers' Vision Transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.nn.attention import EPS, Attend, CrossAttention, FusedLinear, Norm, SelfAttention
from open4m.nn.config import BlockConfig
from open4m.nn.gated import GatedLinear, keeps_little
from open4m.rng import Part, of_rows


def norm(config: BlockConfig) -> Norm:
    """A LayerNorm, without bias by default (paper E.6)."""
    return Norm(config.dim, eps=EPS, bias=config.norm_bias)


class GatedMLP(nn.Module):
    """Gated feed-forward layer, its width reduced by 2/3 to keep the parameter count (paper E.6)."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], bias: bool):
        super().__init__()
        hidden = int(2 * hidden / 3)
        self.activation = activation
        self.gate_up = FusedLinear(dim, hidden, 2, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if keeps_little(self.down, self.activation):
            gate_up = self.gate_up.product(x)
            return GatedLinear.apply(gate_up, self.down.weight, self.down.bias, self.activation)
        gate, up = self.gate_up(x)
        return self.down(self.activation(gate) * up)


class MLP(nn.Module):
    """Feed-forward layer, with a GELU in the reference model (paper Table 14)."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], bias: bool):
        super().__init__()
        self.activation = activation
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


_FEED_FORWARD: dict[str, tuple[type[GatedMLP | MLP], Callable[[Tensor], Tensor]]] = {
    "swiglu": (GatedMLP, F.silu),
    "geglu": (GatedMLP, F.gelu),
    "silu": (MLP, F.silu),
    "gelu": (MLP, F.gelu),
    "tanh": (MLP, torch.tanh),
}


def feed_forward(config: BlockConfig, activation: str | None = None) -> GatedMLP | MLP:
    """The feed-forward layer of a block; ``activation``: another one than the configuration's, or "tanh"."""
    kind, function = _FEED_FORWARD[activation or config.activation]
    return kind(config.dim, int(config.dim * config.mlp_ratio), function, config.mlp_bias)


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward of x (..., D). ``keep`` scales the residual branches: see :func:`drop_path`."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm1, self.attention = norm(config), SelfAttention(config)
        self.norm2, self.mlp = norm(config), feed_forward(config)

    def forward(self, x: Tensor, attend: Attend, keep: Tensor | None = None) -> Tensor:
        x = x + scaled(self.attention(self.norm1(x), attend), keep, 0)
        return x + scaled(self.mlp(self.norm2(x)), keep, 1)


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward of x (..., D)."""

    def __init__(self, config: BlockConfig):
        super().__init__()
        self.norm1, self.self_attention = norm(config), SelfAttention(config)
        self.query_norm, self.context_norm = norm(config), norm(config)
        self.cross_attention = CrossAttention(config)
        self.norm2, self.mlp = norm(config), feed_forward(config)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """What this block's cross-attention reads of a context (..., D): keys and values (..., D).

        Generation computes them once for many forward passes.
        """
        return self.cross_attention.keys_values(self.context_norm(context))

    def forward(
        self,
        x: Tensor,
        context: Tensor | tuple[Any, Any],
        attend_self: Attend,
        attend_context: Attend,
        keep: Tensor | None = None,
    ) -> Tensor:
        """``context``: (..., D), or the keys and values of it, in the form that ``attend_context`` reads."""
        keys_values = self.keys_values(context) if isinstance(context, Tensor) else context
        x = x + scaled(self.self_attention(self.norm1(x), attend_self), keep, 0)
        x = x + scaled(self.cross_attention(self.query_norm(x), keys_values, attend_context), keep, 1)
        return x + scaled(self.mlp(self.norm2(x)), keep, 2)


def scaled(branch: Tensor, keep: Tensor | None, index: int) -> Tensor:
    """A residual branch (B, N, D) times its column of ``keep`` (B, branches)."""
    return branch if keep is None else branch * keep[:, index, None, None].to(branch.dtype)


def drop_path(
    rate: float, depth: int, branches: int, size: int, generator: torch.Generator | Part, device: torch.device
) -> list[Tensor | None]:
    """Stochastic depth: for each of ``depth`` blocks, factors (B, branches) that are 0 where a sample skips a branch.

    The rate grows linearly from 0 in the first block to ``rate`` in the last. Branches that are kept are scaled up, so
    that their expectation stays the same.
    """

    def uniform(n: int, source: torch.Generator | None) -> Tensor:
        return torch.rand(n, branches, generator=source, device=device)

    rates = [rate * block / max(1, depth - 1) for block in range(depth)]
    return [(of_rows(uniform, size, generator) >= r).float() / (1 - r) if r else None for r in rates]
