"""The weights of Vision Transformers as files name them, and as :class:`.network.VisionTransformer` does.

Names of transformers and of MultiMAE are turned into timm's. The sizes are those of the tensors: only what shapes do
not show has to be told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from open4m.transfer.vision_transformers.network import CHANNELS, OTHER_DISTANCES, VisionTransformerConfig
from open4m.types import Open4MError

Tensors = Mapping[str, Tensor]

HEAD_WIDTH = 64
"""Channels per head of nearly all published networks."""

OTHER_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Heads of those published widths that have other heads: SoViT-400M, ViT-H, ViT-g, ViT-G."""

RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        # MultiMAE: the adapter of images
        (r"^global_tokens$", "cls_token"),
        (r"^input_adapters\.rgb\.pos_emb$", "pos_embed"),
        (r"^input_adapters\.rgb\.proj\.", "patch_embed.proj."),
        (r"^encoder\.(\d+)\.", r"blocks.\1."),
        # transformers: around the blocks
        (r"^(vit|deit|beit|dinov2|dinov2_with_registers|vision_model)\.", ""),
        (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^(embeddings\.)?register_tokens$", "reg_token"),
        (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
        (r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^(pooler\.layernorm|post_layernorm)\.", "fc_norm."),
        (r"^layernorm\.", "norm."),
        (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
        # transformers, and DINOv2 itself: in blocks
        (r"^encoder\.layers?\.(\d+)\.", r"blocks.\1."),
        (r"^(blocks\.\d+)\.(layernorm_before|layer_norm1)\.", r"\1.norm1."),
        (r"^(blocks\.\d+)\.(layernorm_after|layer_norm2)\.", r"\1.norm2."),
        (r"^(blocks\.\d+)\.attention\.attention\.(query|key|value|relative_position_bias)\.", r"\1.attn.\2."),
        (r"^(blocks\.\d+)\.self_attn\.([qkv])_proj\.", r"\1.attn.\2."),
        (r"^(blocks\.\d+)\.attn\.(query|key|value)\.", lambda found: f"{found[1]}.attn.{found[2][0]}."),
        (r"^(blocks\.\d+)\.(attention\.output\.dense|self_attn\.out_proj)\.", r"\1.attn.proj."),
        (r"^(blocks\.\d+)\.(intermediate\.dense|mlp\.(weights_in|w12))\.", r"\1.mlp.fc1."),
        (r"^(blocks\.\d+)\.(output\.dense|mlp\.(weights_out|w3))\.", r"\1.mlp.fc2."),
        (r"^(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
        (r"^(blocks\.\d+)\.(lambda|gamma)_([12])$", r"\1.ls\3.gamma"),
        # BEiT's attention
        (r"^(blocks\.\d+)\.attn\.relative_position_bias\.", r"\1.attn."),
        (r"^(blocks\.\d+)\.attn\.([qkv])_bias$", r"\1.attn.\2.bias"),
    )
)
"""Patterns of names and what stands for them, applied one after another."""

OUTSIDE = re.compile(
    r"(head|head_dist|classifier|cls_classifier|distillation_classifier|decoder|lm_head|pooler|decode_head|"
    r"auxiliary_head|fpn\d?|input_adapters|output_adapters|text_model|text_projection|visual_projection)\.|"
    r"decoder_|(embeddings\.)?mask_token$|logit_scale$|.*(relative_position_index|position_ids)$"
)
"""Names of what is no part of an encoder: heads, decoders, what stands for masked patches, indices."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the shapes of weights do not show. ``heads``: None for that of published networks of the width."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    heads: int | None = None
    activation: str = "gelu"
    epsilon: float | None = None


def read(tensors: Tensors, told: Told, where: str) -> tuple[VisionTransformerConfig, dict[str, Tensor]]:
    """The network that tensors belong to, and its weights.

    Raises :class:`Open4MError`, which names ``where`` they are from, if they are no Vision Transformer's, or hold
    anything that :class:`.network.VisionTransformer` does not compute.
    """
    named = {renamed(name): tensor for name, tensor in tensors.items()}
    return _Reader({name: tensor for name, tensor in named.items() if not OUTSIDE.match(name)}, where).read(told)


def renamed(name: str) -> str:
    """The name in timm of a tensor."""
    for pattern, other in RENAMED:
        name = pattern.sub(other, name)
    return name


class _Reader:
    """Takes tensors one by one, so that what is left was not understood."""

    def __init__(self, tensors: dict[str, Tensor], where: str):
        self.left, self.where = tensors, where

    def has(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, *shape: int | None) -> Tensor:
        """A tensor, float32, that must be there and have this shape; None: any size."""
        if name not in self.left:
            raise self.error(f"no {name} among its tensors")
        tensor = self.left.pop(name).float()
        if len(tensor.shape) != len(shape) or any(s not in (None, t) for s, t in zip(shape, tensor.shape, strict=True)):
            wanted = "×".join("any" if side is None else str(side) for side in shape)
            raise self.error(f"{name} has shape {'×'.join(map(str, tensor.shape))}, expected {wanted}")
        return tensor

    def bias(self, name: str, width: int) -> Tensor:
        """A bias; zeros where a layer has none."""
        return self.take(name, width) if self.has(name) else torch.zeros(width)

    def error(self, what: str) -> Open4MError:
        return Open4MError(
            f"{self.where}: {what}; expected a Vision Transformer in the naming of transformers (vit, vit_mae, deit, "
            "beit, dinov2, clip), timm or MultiMAE"
        )

    def read(self, told: Told) -> tuple[VisionTransformerConfig, dict[str, Tensor]]:
        weight = self.take("patch_embed.proj.weight", None, CHANNELS, None, None)
        width, patch = weight.shape[0], weight.shape[2]
        if weight.shape[3] != patch:
            raise self.error(f"patches are of {patch}×{weight.shape[3]} pixels")
        state = {"patches.weight": weight, "patches.bias": self.bias("patch_embed.proj.bias", width)}
        extra = self._extra(width)
        depth = 1 + max((int(m[1]) for m in map(re.compile(r"blocks\.(\d+)\.").match, self.left) if m), default=-1)
        if not depth:
            raise self.error("no blocks")
        blocks = [self._block(f"blocks.{i}", width) for i in range(depth)]
        shared = self._shared_distances()
        for block in blocks:
            block |= {} if shared is None else {"distances": shared.clone()}
        kinds = {tuple(sorted((name, tuple(tensor.shape)) for name, tensor in block.items())) for block in blocks}
        if len(kinds) > 1:
            raise self.error("its blocks differ in what they are made of")
        positions, grid = self._positions(extra, width)
        distances = blocks[0].get("distances")
        if positions is None and distances is None:
            raise self.error("no pos_embed and no relative positions among its tensors")
        if distances is not None:
            own = (math.isqrt(len(distances) - OTHER_DISTANCES) + 1) // 2
            if grid not in (0, own) or (2 * own - 1) ** 2 + OTHER_DISTANCES != len(distances):
                raise self.error(f"relative positions are a table of {len(distances)} rows, of no square grid")
            grid = own
        state |= {"extra": extra} | ({} if positions is None else {"positions": positions})
        state |= {f"encoder.{i}.{name}": tensor for i, block in enumerate(blocks) for name, tensor in block.items()}
        has_norm_before = self.has("norm_pre.weight")
        if has_norm_before:
            state |= self._norm("norm_pre", "norm_before", width)
        norm = "tokens" if self.has("norm.weight") else "pooled" if self.has("fc_norm.weight") else "none"
        if norm != "none":
            state |= self._norm("norm" if norm == "tokens" else "fc_norm", "encoder_norm", width)
        self.left = {name: tensor for name, tensor in self.left.items() if not name.startswith("fc_norm.")}  # of a head
        if self.left:
            raise self.error(f"{len(self.left)} tensors that are not understood, {min(self.left)} first")
        config = VisionTransformerConfig(
            width=width,
            depth=depth,
            heads=self._heads(told, width, distances),
            hidden=blocks[0]["mlp.down.weight"].shape[1],
            patch=patch,
            grid=grid,
            extra_tokens=len(extra),
            mean=tuple(told.mean),
            std=tuple(told.std),
            activation="swiglu" if "mlp.gate_up.weight" in blocks[0] else told.activation,
            epsilon=told.epsilon or (1e-5 if has_norm_before else 1e-6),
            positions=positions is not None,
            relative_positions=distances is not None,
            layer_scale="scale1" in blocks[0],
            norm_before=has_norm_before,
            norm=norm,
        )
        return config, state

    def _heads(self, told: Told, width: int, distances: Tensor | None) -> int:
        heads = told.heads or (None if distances is None else distances.shape[1]) or OTHER_HEADS.get(width)
        if heads is None and width % HEAD_WIDTH:
            raise Open4MError(
                f"{self.where}: how many heads a width of {width} has is not in the file: name it with ?heads=, as in "
                f"vit:model.safetensors?heads=6"
            )
        return heads or width // HEAD_WIDTH

    def _extra(self, width: int) -> Tensor:
        """The tokens without a place, (n, D), the class token first."""
        found = [self.left.pop(name).float() for name in ("cls_token", "dist_token", "reg_token") if self.has(name)]
        if any(tensor.shape[-1] != width for tensor in found):
            raise self.error(f"class and register tokens are not of the width {width}")
        return torch.cat([tensor.reshape(-1, width) for tensor in found]) if found else torch.zeros(0, width)

    def _positions(self, extra: Tensor, width: int) -> tuple[Tensor | None, int]:
        """Positions (n·n, D) of patches and n; those of the other tokens are added to these, in place."""
        if not self.has("pos_embed"):
            return None, 0
        table = self.left.pop("pos_embed").float()
        counts = dict.fromkeys((len(extra), 1, 0))  # of all tokens, of patches and the class token, of patches alone
        if table.ndim == 4:  # MultiMAE: (1, D, h, w)
            table, counts = table.flatten(2).mT, (0,)
        table = table.reshape(-1, table.shape[-1])
        for others in counts:
            grid = math.isqrt(max(0, len(table) - others))
            if table.shape[1] == width and others <= len(extra) and grid and grid**2 == len(table) - others:
                extra[:others] += table[:others]
                return table[others:], grid
        raise self.error(
            f"pos_embed has {'×'.join(map(str, table.shape))} numbers, of no square grid and width {width}"
        )

    def _shared_distances(self) -> Tensor | None:
        name = "rel_pos_bias.relative_position_bias_table"
        return self.take(name, None, None) if self.has(name) else None

    def _norm(self, name: str, own: str, width: int) -> dict[str, Tensor]:
        return {f"{own}.weight": self.take(f"{name}.weight", width), f"{own}.bias": self.bias(f"{name}.bias", width)}

    def _block(self, name: str, width: int) -> dict[str, Tensor]:
        """The weights of one block by our names; queries, keys and values are one matrix, and so are a gate and what
        it is multiplied with."""
        block = self._norm(f"{name}.norm1", "norm1", width) | self._norm(f"{name}.norm2", "norm2", width)
        attention = f"{name}.attn"
        if self.has(f"{attention}.qkv.weight"):
            block["attention.qkv.weight"] = self.take(f"{attention}.qkv.weight", 3 * width, width)
        else:
            parts = [self.take(f"{attention}.{part}.weight", width, width) for part in "qkv"]
            block["attention.qkv.weight"] = torch.cat(parts)
        if self.has(f"{attention}.qkv.bias"):
            block["attention.qkv.bias"] = self.take(f"{attention}.qkv.bias", 3 * width)
        else:
            block["attention.qkv.bias"] = torch.cat([self.bias(f"{attention}.{part}.bias", width) for part in "qkv"])
        block["attention.proj.weight"] = self.take(f"{attention}.proj.weight", width, width)
        block["attention.proj.bias"] = self.bias(f"{attention}.proj.bias", width)
        if self.has(table := f"{attention}.relative_position_bias_table"):
            block["distances"] = self.take(table, None, None)
        down = self.take(f"{name}.mlp.fc2.weight", width, None)
        up = self.take(f"{name}.mlp.fc1.weight", None, width)
        if len(up) not in (down.shape[1], 2 * down.shape[1]):
            raise self.error(f"{name}.mlp has {len(up)} outputs, and {down.shape[1]} inputs")
        first = "mlp.up" if len(up) == down.shape[1] else "mlp.gate_up"
        block |= {f"{first}.weight": up, f"{first}.bias": self.bias(f"{name}.mlp.fc1.bias", len(up))}
        block |= {"mlp.down.weight": down, "mlp.down.bias": self.bias(f"{name}.mlp.fc2.bias", width)}
        for number in "12":
            if self.has(scale := f"{name}.ls{number}.gamma"):
                block[f"scale{number}"] = self.take(scale, width)
        return block
