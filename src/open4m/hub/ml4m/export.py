"""Models and tokenizers in the authors' format: the inverse of :mod:`.transformer` and :mod:`.tokenizer`.

All names, shapes and settings are theirs; numbers are float32. What they have no counterpart for is an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from open4m.hub.ml4m import names
from open4m.hub.ml4m.tokenizer import CODEBOOK, MEMORIES, MEMORY
from open4m.hub.ml4m.transformer import ACTIVATIONS
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.embeddings import module_name
from open4m.model.fourm import FourMTransformer
from open4m.nn.mlp import MLPConfig
from open4m.nn.positions import sincos_1d, sincos_2d
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.network import published_name, weights_of
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

SIDE = 16
"""Pixels of an image per token, by which domains are named: ``tok_rgb@224`` has 14 × 14 tokens."""

SIDES = {"tok_dinov2": 14, "tok_imagebind": 14}
"""Of the domains that are not :data:`SIDE`."""

OWN = {
    "position_temperature": 10_000.0,
    "position_deviation": None,
    "patch_embedding": "linear",
    "patch_norm": False,
    "rotary": False,
}
"""Options of an architecture that are ours, and their values in theirs."""

RENAMED = (
    (r"^context_proj\.", "decoder_proj_context."),
    (r"^(encoder\.\d+)\.attention\.", r"\1.attn."),
    (r"^(decoder\.\d+)\.(self|cross)_attention\.", r"\1.\2_attn."),
    (r"\.qk_norm\.query\.", ".q_norm."),
    (r"\.qk_norm\.key\.", ".k_norm."),
    (r"\.mlp\.up\.", ".mlp.fc1."),
    (r"\.mlp\.down\.", ".mlp.fc2."),
)
"""Parts of our names of a transformer's weights, and theirs."""

VITS = {(512, 8, 8): "vit_s", (768, 12, 12): "vit_b", (1024, 24, 16): "vit_l"}
"""Their names of Vision Transformers, by width, depth and heads."""

UNET = "unet_patched"
"""Their name of the UNet of the paper's size."""


# ---- transformers


def domains_of(config: FourMConfig) -> dict[str, str]:
    """Their name of each modality by our key. Raises :class:`Open4MError` if reading them back gives other keys."""
    stems = {ours: theirs for theirs, ours in names.DOMAINS.items()}
    found = {}
    for spec in config.modalities:
        stem, at, resolution = spec.key.partition("@")
        theirs = stems.get(stem, f"tok_{stem}" if spec.has_codebook else stem)
        if not spec.is_sequence and spec.has_places:
            side = spec.patch_size or SIDES.get(theirs, SIDE)
            theirs = f"{theirs}@{resolution if at else spec.grid[0] * side}"
        found[spec.key] = theirs
    if names.keys_of([*found.values()]) != {theirs: key for key, theirs in found.items()}:
        raise Open4MError(f"modalities {', '.join(found)}: the authors' names {', '.join(found.values())} mix them up")
    return found


def transformer(model: FourMTransformer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a transformer in their format.

    Raises :class:`Open4MError` that lists the options that have no counterpart.
    """
    config = model.config
    wrong = [f"{name} = {getattr(config, name)!r}" for name, own in OWN.items() if getattr(config, name) != own]
    wrong += [f"{m.key} on a grid {m.grid}" for m in config.modalities if not m.is_sequence and len({*m.grid}) != 1]
    patches = {m.patch_size for m in config.modalities if m.content == "pixels"}
    wrong += [f"patches of {sorted(patches)} pixels"] * (len(patches) > 1)
    if wrong:
        raise Open4MError(f"this model has no counterpart among the authors' ones: {', '.join(wrong)}")
    domains, (activation, gated) = domains_of(config), next(k for k, v in ACTIVATIONS.items() if v == config.activation)
    patch = next(iter(patches), SIDE)
    settings = {
        "domains_in": [domains[m.key] for m in config.modalities if m.is_input],
        "domains_out": [domains[m.key] for m in config.modalities if m.is_target],
        "dim": config.dim,
        "encoder_depth": config.encoder_depth,
        "decoder_depth": config.decoder_depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "proj_bias": config.proj_bias,
        "mlp_bias": config.mlp_bias,
        "norm_bias": config.norm_bias,
        "act_layer": activation,
        "gated_mlp": gated,
        "qk_norm": config.qk_norm,
        "num_register_tokens": config.register_tokens,
        "image_size": max((m.grid[0] * patch for m in config.modalities if m.content == "pixels"), default=224),
        "patch_size": patch,
    }
    return settings, transformer_tensors(model, domains)


def transformer_tensors(model: FourMTransformer, domains: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a transformer, by their names. ``domains``: theirs of each of our modalities."""
    found = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("embeddings."):
            continue
        for pattern, theirs in RENAMED:
            name = re.sub(pattern, theirs, name)
        gated = re.fullmatch(r"(.*\.mlp)\.gate_up\.(\w+)", name)
        if gated:  # both halves are one matrix here
            gate, up = tensor.chunk(2)
            found |= {f"{gated[1]}.fc1.{gated[2]}": gate, f"{gated[1]}.fc3.{gated[2]}": up}
        else:
            found[name] = tensor
            if "norm" in name.split(".")[-2] and not model.config.norm_bias:
                found[f"{name.removesuffix('weight')}bias"] = torch.zeros_like(tensor)  # a buffer of theirs
    embeddings, dim = model.embeddings, model.config.dim
    found["mask_token"] = embeddings.mask_token.view(1, 1, dim)
    if embeddings.registers is not None:
        found["register_tokens"] = embeddings.registers[None]
    for spec in model.config.modalities:
        found |= _embedding(model, spec, domains[spec.key])
    return {name: tensor.detach().float().clone() for name, tensor in found.items()}  # files hold each by itself


def _embedding(model: FourMTransformer, spec: ModalitySpec, domain: str) -> dict[str, Tensor]:
    """The tensors of one modality."""
    own, embeddings, found = model.embeddings.of(spec.key), model.embeddings, {}
    for side, is_used in (("encoder", spec.is_input), ("decoder", spec.is_target)):
        if is_used:
            here = f"{side}_embeddings.{domain}"
            found[f"{here}.mod_emb"] = own["modality"][None, None]
            learned = own.get(f"{side} positions") if spec.learned_positions else None
            found[f"{here}.pos_emb"] = (_positions(spec, model.config.dim) if learned is None else learned)[None]
    if spec.is_input:
        here = f"encoder_embeddings.{domain}"
        if spec.content == "pixels":
            weight = embeddings.patches[module_name(spec.key)].state_dict()["weight"]
            by_channel = weight.view(model.config.dim, spec.channels, spec.patch_size, spec.patch_size)
            found[f"{here}.proj.weight"] = by_channel.permute(0, 2, 3, 1).flatten(1)  # theirs have channels last
        elif spec.content == "vectors":
            for part, tensor in embeddings.vectors[module_name(spec.key)].state_dict().items():
                found[f"{here}.emb_proj.{part}"] = tensor
        else:
            found[f"{here}.token_emb.weight"] = own["inputs"]
    if spec.is_target:
        here = f"decoder_embeddings.{domain}"
        untied = spec.is_causal and embeddings.queries is not None
        found[f"{here}.to_logits.weight"] = own["outputs"]
        found[f"{here}.token_emb.weight"] = own["queries"] if untied else own["outputs"]  # without effect for grids
    return found


def _positions(spec: ModalitySpec, dim: int) -> Tensor:
    if spec.is_sequence:
        return sincos_1d(torch.arange(spec.positions), dim)
    return sincos_2d(*spec.grid, dim)


# ---- tokenizers


def tokenizer(own: Tokenizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors of a tokenizer in their format.

    Raises :class:`Open4MError` for networks and quantizers that their code has no name for.
    """
    config = own.config
    unit = 16 if own.modality.feature_map else config.patch_size  # of a feature map, each cell is a patch of an image
    settings: dict[str, Any] = {
        "image_size": max([config.image_size, *config.resolutions]) // config.patch_size * unit,
        "patch_size": unit,
        "n_channels": config.channels,
        "enc_type": _kind(config, config.encoder, "enc"),
        "dec_type": _kind(config, config.decoder, "dec"),
        "latent_dim": config.latent_dim,
        "codebook_size": config.codebook_size,
    }
    if isinstance(config.encoder, ViTConfig):
        settings |= {"post_mlp": config.encoder.post_mlp, "norm_codes": True}
        settings["patch_proj"] = not own.modality.feature_map
    if isinstance(config.decoder, ViTConfig) and config.decoder.out_conv:
        settings["out_conv"] = True
    if config.categorical:
        settings["n_labels"] = len(config.class_names)
    quantizers = {"vq": "lucid", "memcodes": MEMORY}
    if config.quantizer not in quantizers or (config.quantizer == "vq" and config.codebooks > 1):
        several = f" with {config.codebooks} codebooks" * (config.codebooks > 1)
        raise Open4MError(f"tokenizer of {config.modality}: no counterpart of quantizer {config.quantizer!r}{several}")
    settings |= {"quant_type": quantizers[config.quantizer], "num_codebooks": config.codebooks}
    if config.diffusion is not None:
        settings |= {
            "num_train_timesteps": config.diffusion.train_steps,
            "beta_schedule": config.diffusion.schedule,
            "zero_terminal_snr": config.diffusion.zero_terminal_snr,
            "clip_sample": config.diffusion.clip,
            "prediction_type": "sample",
            "thresholding": False,
        }
    return settings, tokenizer_tensors(own)


def tokenizer_tensors(own: Tokenizer) -> dict[str, Tensor]:
    """The tensors of a tokenizer, by their names."""
    tensors = {published_name(name): tensor for name, tensor in weights_of(own.model).items()}
    learned = {name: tensors.pop(name) for name in [*tensors] if name.startswith("quantizer.")}
    for ours, theirs in {"codebook": CODEBOOK, **MEMORIES}.items():
        each = [tensor for name, tensor in learned.items() if name.rpartition(".")[2] == ours]
        if each:  # one for each codebook
            tensors[theirs] = torch.stack(each)
    for side, part in (("encoder", own.config.encoder), ("decoder", own.config.decoder)):
        if isinstance(part, ViTConfig):
            h, w = (part.position_grid,) * 2 if part.position_grid else own.config.grid
            tensors[f"{side}.pos_emb"] = sincos_2d(h, w, part.width).T.reshape(1, part.width, h, w).contiguous()
    return {name: tensor.detach().float() for name, tensor in tensors.items()}


def _kind(config: TokenizerConfig, network: ViTConfig | UNetConfig | MLPConfig, end: str) -> str:
    """Their name of a network. Raises :class:`Open4MError` for sizes that have none."""
    name = None
    if isinstance(network, MLPConfig):
        name = (
            f"BottleneckMLP/B_{network.depth}-Wi_{network.width}" if network.expansion == MLPConfig.expansion else None
        )
    elif isinstance(network, ViTConfig):
        known = VITS.get((network.width, network.depth, network.heads))
        name = f"{known}_{end}" if known and network.mlp_ratio == ViTConfig.mlp_ratio else None
    elif network == UNetConfig():
        name = UNET
    if name is None:
        raise Open4MError(f"tokenizer of {config.modality}: the authors' code has no name for {_words(network)}")
    return name


def _words(network: ViTConfig | UNetConfig | MLPConfig) -> str:
    """A network, its sizes, and what else it does not leave at its default."""
    own = [(f.name, getattr(network, f.name), f.default) for f in dataclasses.fields(network)]
    said = ", ".join(f"{name} {value}" for name, value, usual in own if type(value) is int or value != usual)
    return f"a {type(network).__name__.removesuffix('Config')} of {said}"
