"""The configuration that all Transformer blocks share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from open4m.ranges import Layers, Range, Size, check_ranges
from open4m.types import Open4MError

MLPRatio = Annotated[float, Range(0, 64, above=True)]
"""The width of the hidden layer of an MLP, relative to that of its block."""

Activation = Literal["swiglu", "geglu", "gelu", "silu"]


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The width of a block and its options; the defaults are those of 4M's final models (paper E.6)."""

    dim: Size
    heads: Layers
    mlp_ratio: MLPRatio = 4.0
    activation: Activation = "swiglu"
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.dim % self.heads:
            raise Open4MError(f"dim {self.dim} must be a multiple of heads ({self.heads})")
        if self.dim * self.mlp_ratio < 1:
            raise Open4MError(f"mlp_ratio {self.mlp_ratio} leaves an MLP of dim {self.dim} no hidden layer")
