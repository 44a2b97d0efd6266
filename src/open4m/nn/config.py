"""The configuration that all Transformer blocks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from open4m.types import Open4MError

Activation = Literal["swiglu", "geglu", "gelu", "silu"]


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The width of a block and its options; the defaults are those of 4M's final models (paper E.6)."""

    dim: int
    heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "swiglu"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        if wrong := [name for name in ("dim", "heads") if getattr(self, name) < 1]:
            raise Open4MError(
                f"{', '.join(wrong)} must be positive, got {', '.join(str(getattr(self, name)) for name in wrong)}"
            )
        if self.dim % self.heads:
            raise Open4MError(f"dim {self.dim} must be a multiple of heads ({self.heads})")
