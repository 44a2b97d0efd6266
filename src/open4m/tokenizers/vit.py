"""The Vision Transformers around the codebook: a ViT encoder and a ViT decoder (paper B.3, Table 3).

Pre-norm blocks with biases and GELU, fixed 2-D sine-cosine positions, and after the last block one more residual
MLP with a tanh, which keeps what is quantized in a bounded range. Parameter names are those of the authors' public
tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from open4m.types import Open4MError


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The size of one Transformer; ViT-B is width 768, depth 12, heads 12."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    mlp_ratio: float = 4.0
    post_mlp: bool = True  # one more residual MLP with a tanh after the last block

    def __post_init__(self) -> None:
        if self.width % 4:
            raise Open4MError(f"ViTConfig: width {self.width} is not a multiple of 4, as 2-D positions need")
        if self.heads < 1 or self.width % self.heads:
            raise Open4MError(f"ViTConfig: width {self.width} is not a multiple of heads {self.heads}")


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def sincos_2d(h: int, w: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Fixed positions of an h × w grid: (h·w, width) float32, raster order.

    A quarter of the channels each: sine and cosine of the row, sine and cosine of the column, at frequencies
    10000^(-k / (width / 4)). The tensor is shared: do not change it.
    """
    frequencies = 10000.0 ** -(torch.arange(width // 4, device=device) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
    phases = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]  # each (h·w, width / 4)
    return torch.cat([wave(phase) for phase in phases for wave in (torch.sin, torch.cos)], dim=1)


class MLP(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, width: int, hidden: int, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention, scale 1/√(width of a head)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each (B, heads, L, width/heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm Transformer block."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-6)
        self.attn = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-6)
        self.mlp = MLP(config.width, int(config.width * config.mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, L, width)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Trunk(nn.Module):
    """What encoder and decoder share: positions, blocks, and the final residual MLP."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        if config.post_mlp:
            self.norm_mlp = nn.LayerNorm(config.width, eps=1e-6)
        self.post_mlp = MLP(config.width, int(config.width * config.mlp_ratio), nn.Tanh) if config.post_mlp else None

    def transform(self, x: torch.Tensor) -> torch.Tensor:
        """(B, width, h, w) to (B, h·w, width)."""
        _, width, h, w = x.shape
        x = x.flatten(2).transpose(1, 2).contiguous()  # (B, h·w, width); else every norm of every block copies it
        x = x + sincos_2d(h, w, width, x.device)
        for block in self.blocks:
            x = block(x)
        return x if self.post_mlp is None else x + self.post_mlp(self.norm_mlp(x))


class ViTEncoder(Trunk):
    """(B, C, H, W) to (B, width, H / patch, W / patch). Feature maps have patch size 1: no patch is projected."""

    def __init__(self, config: ViTConfig, channels: int, patch_size: int) -> None:
        super().__init__(config)
        self.proj = nn.Conv2d(channels, config.width, patch_size, stride=patch_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x)
        return self.transform(x).transpose(1, 2).unflatten(2, x.shape[2:])


class ViTDecoder(Trunk):
    """(B, width, h, w) to (B, C, h · patch, w · patch)."""

    def __init__(self, config: ViTConfig, channels: int, patch_size: int) -> None:
        super().__init__(config)
        self.patch_size = patch_size
        self.out_proj = nn.Linear(config.width, channels * patch_size**2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[2:]
        patches = self.out_proj(self.transform(x)).transpose(1, 2).unflatten(2, grid)  # (B, C·P·P, h, w)
        return F.pixel_shuffle(patches, self.patch_size)
