"""One Vision Transformer with the options in which published ones differ; it has what transfers use of a
:class:`~open4m.transfer.backbone.Backbone`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.datasets.labelled.base import PICTURE
from open4m.model.config import ModalitySpec
from open4m.model.patches import normalized
from open4m.nn.attention import FusedLinear, Norm, SelfAttention, attend, split_heads
from open4m.nn.blocks import MLP, GatedMLP, drop_path, scaled
from open4m.nn.config import BlockConfig
from open4m.ranges import Decay, Finite, Layers, Length, Positive, Range, Size, check_ranges
from open4m.rng import Part
from open4m.transfer.encoder import Encoder
from open4m.transfer.heads.base import Features
from open4m.types import Open4MError

CHANNELS = 3

OTHER_DISTANCES = 3
"""Relative positions of the class token: from it to patches, from patches to it, to itself."""

INITIAL_SCALE = 1e-4
"""Of residual branches that are scaled, in a training from scratch (DeiT III, https://arxiv.org/abs/2204.07118)."""

INITIAL_DEVIATION = 0.02
"""Of positions and of tokens without a place."""


def quick_gelu(x: Tensor) -> Tensor:
    """The GELU of OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu, "swiglu": F.silu}
"""By name; "swiglu" is a gated layer."""


@dataclass(frozen=True, kw_only=True)
class VisionTransformerConfig:
    """What a Vision Transformer is: saved with a transfer, so that it needs no pre-trained one to be read.

    ``hidden``: width inside the feed-forward layers. ``patch``: pixels along its side. ``grid``: patches along a side
    of the images that it was trained on. ``extra_tokens``: those without a place in the image; the first is the class
    token. ``mean``, ``std``: of the colors that it reads, between 0 and 1. ``positions``: learned, added to patches;
    ``relative_positions``: learned, added to the scores of attention (BEiT). ``layer_scale``: residual branches are
    scaled per channel. ``norm_before``: a LayerNorm before the first block (CLIP). ``norm``: what the LayerNorm after
    the last block normalizes: all tokens, the pooled features alone, or there is none (MultiMAE). ``epsilon``: of
    LayerNorm.
    """

    width: Size
    depth: Layers
    heads: Layers
    hidden: Size
    patch: Size
    grid: Size
    extra_tokens: Length = 1
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    activation: Literal["gelu", "quick_gelu", "swiglu"] = "gelu"
    epsilon: Annotated[float, Range(0, 1, above=True)] = 1e-6
    positions: bool = True
    relative_positions: bool = False
    layer_scale: bool = False
    norm_before: bool = False
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    drop_path: Decay = 0.0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.width % self.heads:
            raise Open4MError(f"a width of {self.width} is no multiple of {self.heads} heads")
        if self.relative_positions and self.extra_tokens != 1:
            raise Open4MError(f"relative positions are of one class token, got {self.extra_tokens} tokens")

    @property
    def image_size(self) -> int:
        """H = W in pixels of the images that it was trained on."""
        return self.grid * self.patch

    @property
    def distances(self) -> int:
        """Relative positions between the places of the trained grid, and those of the class token."""
        return (2 * self.grid - 1) ** 2 + OTHER_DISTANCES

    def backbone(self, pooling: str) -> VisionTransformer:
        """The network without its weights."""
        return VisionTransformer(self, pooling)

    def dropping(self, rate: float) -> VisionTransformerConfig:
        """The same with another rate of stochastic depth."""
        return dataclasses.replace(self, drop_path=rate)


class Block(nn.Module):
    """Self-attention and feed-forward of x (B, N, D), pre-norm, of a grid of h × w patches."""

    def __init__(self, config: VisionTransformerConfig):
        super().__init__()
        width, self.grid = config.width, config.grid
        self.norm1 = Norm(width, eps=config.epsilon)
        self.attention = SelfAttention(BlockConfig(dim=width, heads=config.heads, qkv_bias=True, proj_bias=True))
        self.norm2 = Norm(width, eps=config.epsilon)
        activation = ACTIVATIONS[config.activation]
        if config.activation == "swiglu":
            self.mlp = GatedMLP(width, -(-3 * config.hidden // 2), activation, True)  # which takes two thirds of it
        else:
            self.mlp = MLP(width, config.hidden, activation, True)
        scales = [nn.Parameter(torch.ones(width)) if config.layer_scale else None for _ in range(2)]
        self.scale1, self.scale2 = scales
        self.distances = None
        if config.relative_positions:
            self.distances = nn.Parameter(torch.zeros(config.distances, config.heads))

    def forward(self, x: Tensor, size: tuple[int, int], keep: Tensor | None = None) -> Tensor:
        """``size``: (h, w). ``keep`` scales the residual branches: see :func:`~open4m.nn.blocks.drop_path`."""
        pattern = attend if self.distances is None else partial(attend_biased, bias=self.bias(size))
        branch = self.attention(self.norm1(x), pattern)
        x = x + scaled(branch if self.scale1 is None else branch * self.scale1, keep, 0)
        branch = self.mlp(self.norm2(x))
        return x + scaled(branch if self.scale2 is None else branch * self.scale2, keep, 1)

    def bias(self, size: tuple[int, int]) -> Tensor:
        """What relative positions add to scores: (heads, 1 + h·w, 1 + h·w). Those of other sizes than the trained one
        are interpolated bilinearly, as transformers does it."""
        table, last = self.distances[:-OTHER_DISTANCES], self.distances[-OTHER_DISTANCES:]
        if size != (self.grid, self.grid):
            old, new = (2 * self.grid - 1,) * 2, tuple(2 * side - 1 for side in size)
            square = table.T.unflatten(1, old)[None]
            table = F.interpolate(square, size=new, mode="bilinear", align_corners=False)[0].flatten(1).T
        return torch.cat([table, last])[distance_places(*size).to(table.device)].movedim(-1, 0)


def attend_biased(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor) -> Tensor:
    """Attention with ``bias`` (heads, M, N) added to the scores of q (B, M, D) and k, v (B, N, D)."""
    q, k, v = (split_heads(part, heads) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
    return out.transpose(1, 2).flatten(2)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def distance_places(h: int, w: int) -> Tensor:
    """Where the relative position of each pair of tokens (query, key) is in a table of an h × w grid, int64.

    The first of (1 + h·w, 1 + h·w) is the class token. Patches: raster order of the differences of their rows and of
    their columns. Shared: do not change it.
    """
    with torch.device("cpu"):
        rows, columns = (axis.flatten() for axis in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        down, right = rows[:, None] - rows + h - 1, columns[:, None] - columns + w - 1
        last = (2 * h - 1) * (2 * w - 1)
        places = torch.full((1 + h * w, 1 + h * w), last)  # from the class token to patches
        places[:, 0] = last + 1
        places[0, 0] = last + 2
        places[1:, 1:] = down * (2 * w - 1) + right
    return places


class VisionTransformer(Encoder):
    """Reads pictures (B, 3, H, W), uint8, or normalized floating-point numbers.

    ``specs``: its one input. ``width``: of its features. ``patch``: pixels of the image per place of its map.
    ``pooling``: what stands for the whole image, the mean of the patches' tokens or the class token.
    """

    def __init__(self, config: VisionTransformerConfig, pooling: str = "tokens"):
        super().__init__()
        if pooling not in ("tokens", "class"):
            raise Open4MError(f"backbone.pooling: a Vision Transformer pools tokens or its class token, not {pooling}")
        if pooling == "class" and not config.extra_tokens:
            raise Open4MError("backbone.pooling: the network has no class token; pool tokens")
        self.config, self.pooling = config, pooling
        self.width, self.patch = config.width, config.patch
        grid = (config.grid, config.grid)
        spec = ModalitySpec(key=PICTURE, family="pixels", grid=grid, patch_size=config.patch, channels=CHANNELS)
        self.specs = {PICTURE: spec}
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            self.patches = nn.Conv2d(CHANNELS, config.width, config.patch, stride=config.patch)
            self.extra = nn.Parameter(torch.zeros(config.extra_tokens, config.width))
            self.positions = nn.Parameter(torch.zeros(config.grid**2, config.width)) if config.positions else None
            self.norm_before = Norm(config.width, eps=config.epsilon) if config.norm_before else None
            self.encoder = nn.ModuleList([Block(config) for _ in range(config.depth)])
            self.encoder_norm = None if config.norm == "none" else Norm(config.width, eps=config.epsilon)
        self.register_buffer("scale", torch.tensor([config.mean, config.std]), persistent=False)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw new weights, as a training from scratch begins with."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for weight in module.weight.chunk(module.parts if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(weight.flatten(1), generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Block):
                for scale in filter(lambda scale: scale is not None, (module.scale1, module.scale2)):
                    nn.init.constant_(scale, INITIAL_SCALE)
                if module.distances is not None:
                    nn.init.zeros_(module.distances)
        for drawn in (self.extra, self.positions):
            if drawn is not None:
                nn.init.normal_(drawn, std=INITIAL_DEVIATION, generator=generator)

    # ---- the forward pass
    def check_size(self, image_size: int) -> None:
        """Raise :class:`Open4MError` unless images of this size have whole patches."""
        if image_size < self.patch or image_size % self.patch:
            raise Open4MError(f"backbone.image_size: expected a multiple of {self.patch} pixels, got {image_size}")

    def forward(self, inputs: Mapping[str, Tensor], generator: torch.Generator | Part | None = None) -> Features:
        """``generator`` draws what stochastic depth drops; without one nothing is dropped."""
        pixels = inputs[PICTURE]
        for side in pixels.shape[2:]:
            self.check_size(side)
        read = normalized(pixels.flatten(2), self.scale.float()).unflatten(2, pixels.shape[2:])
        x = self.patches(read.to(self.patches.weight.dtype))  # (B, D, h, w)
        size = tuple(x.shape[2:])
        x = x.flatten(2).mT
        if self.positions is not None:
            x = x + self.positions_of(size).to(x.dtype)
        count = len(self.extra)
        x = torch.cat([self.extra.to(x.dtype).expand(len(x), -1, -1), x], 1)
        x = x if self.norm_before is None else self.norm_before(x)
        rate, depth = self.config.drop_path, self.depth
        drops = generator is not None and rate > 0
        kept = drop_path(rate, depth, 2, len(x), generator, x.device) if drops else [None] * depth
        for block, keep in zip(self.encoder, kept, strict=True):
            x = block(x, size, keep)
        x = self.encoder_norm(x) if self.config.norm == "tokens" else x
        tokens = x[:, count:]
        pooled = x[:, 0] if self.pooling == "class" else tokens.mean(1)
        pooled = self.encoder_norm(pooled) if self.config.norm == "pooled" else pooled
        return Features(map=tokens.mT.unflatten(2, size), tokens=tokens, pooled=pooled)

    def positions_of(self, size: tuple[int, int]) -> Tensor:
        """The positions (h·w, D) of a grid of any size: those of the trained one, interpolated bicubically."""
        grid = (self.config.grid, self.config.grid)
        if size == grid:
            return self.positions
        table = self.positions.T.unflatten(1, grid)[None].float()
        return F.interpolate(table, size=size, mode="bicubic", align_corners=False)[0].flatten(1).T
