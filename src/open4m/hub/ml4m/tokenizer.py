"""Import of tokenizers that the authors of 4M published, or that their code trained.

Their format: ``model.safetensors``, and the configuration as ``config.json`` or as strings in the header of the
safetensors file. Sizes are inferred from the shapes of tensors. The files name neither their modality nor their
classes: the caller does. Nothing in the files is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m.hub.ml4m import files
from open4m.modalities.families import STANDARDIZED, Palette
from open4m.nn.mlp import MLPConfig
from open4m.nn.positions import sincos_2d
from open4m.nn.unet import UNetConfig
from open4m.nn.vit import ViTConfig
from open4m.tokenizers.config import TokenizerConfig, grid_modality
from open4m.tokenizers.diffusion import DiffusionConfig
from open4m.tokenizers.network import VQVAE, published_name, weights_of
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError

HEAD_DIM = 64
"""Channels per attention head of their ViTs, unless the number of heads is in :data:`HEADS`."""

HEADS = {"vit_x": 4}
"""Attention heads of kinds of ViT that do not follow :data:`HEAD_DIM`."""

SMALLEST_GRID = 14
"""Tokens per side of the smallest values that their tokenizers of several sizes were trained on; all are even."""

CODEBOOK = "quantize._codebook.embed"
MEMORY = "memcodes"
"""The quantizer of their single vectors."""

MEMORIES = {"memory": "quantize.codes", "to_key": "quantize.to_k.weight", "to_value": "quantize.to_v.weight"}
"""Its tensors (codebooks, ...), by our names of those of one codebook."""

NETWORKS = {"lucid": (("vit_",), ("vit_", "unet_")), MEMORY: (("BottleneckMLP/",), ("BottleneckMLP/",))}
"""The kinds of encoders and of decoders around each of their quantizers that have a counterpart here."""

DEFAULTS = {
    "patch_size": 16,
    "patch_proj": True,
    "n_labels": None,
    "quant_type": "lucid",
    "norm_codes": True,
}
DIFFUSION = {
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "thresholding": True,
    "clip_sample": False,
    "zero_terminal_snr": True,
}
COUNTERPARTS = {  # the values of these settings that have a counterpart here
    "quant_type": tuple(NETWORKS),
    "prediction_type": ("sample",),
    "thresholding": (False,),
    "beta_schedule": ("linear", "squaredcos_cap_v2"),
}
INFERRED = (
    "image_size",
    "n_channels",
    "enc_type",
    "dec_type",
    "latent_dim",
    "post_mlp",
    "out_conv",
    "codebook_size",
    "num_codebooks",
)
NUMBERS = (
    "image_size",
    "patch_size",
    "n_channels",
    "latent_dim",
    "codebook_size",
    "num_codebooks",
    "n_labels",
    "num_train_timesteps",
)
FLAGS = ("patch_proj", "post_mlp", "out_conv", "clip_sample", "zero_terminal_snr")
"""Settings that are whole numbers, and those that are true or false."""

LARGEST_GRID = 256
"""The most tokens per side: a file may claim any."""

WITHOUT_EFFECT = (
    "sync_codebook",
    "ema_decay",
    "threshold_ema_dead_code",
    "code_replacement_policy",
    "commitment_weight",
    "kmeans_init",
    "ckpt_path",
    "ignore_keys",
    "freeze_enc",
    "undo_std",
    "norm_latents",
    "cls_free_guidance_dropout",
    "masked_cfg",
    "masked_cfg_low",
    "masked_cfg_high",
    "scheduler",
    "format",
    "image_size_enc",
    "image_size_dec",
    "conditioning",
    "dec_transformer_dropout",
)


@dataclass(frozen=True)
class Imported:
    """A ``tokenizer``, and how the tensors of its file were used.

    ``unused``: tensors of the file that it does not need. ``repeated``: tensors that the file declares to be equal to
    others instead of storing them, and those others.
    """

    tokenizer: Tokenizer
    unused: tuple[str, ...]
    repeated: dict[str, str]


def is_reference(path: Path) -> bool:
    """Whether a directory or safetensors file has the configuration of one of their tokenizers."""
    try:
        return "enc_type" in files.read_settings(path)
    except (Open4MError, FileNotFoundError):
        return False


def load(path: Path, modality: str, class_names: tuple[str, ...] = (), palette: Palette = ()) -> Tokenizer:
    """The tokenizer alone, without what :func:`read` tells of the file."""
    return read(path, modality, class_names, palette).tokenizer


def read(path: Path, modality: str, class_names: tuple[str, ...] = (), palette: Palette = ()) -> Imported:
    """Read a directory or a safetensors file of theirs, strictly, as a tokenizer of ``modality``.

    Values are normalized by the modality's fixed mean and deviation, if it has them. Where the modality has the form
    ``"standardized"``, as depth has, each value is standardized by itself, as the authors do. For a segmentation,
    ``class_names`` and a ``palette`` of their colors may be given; by default classes are named by their numbers.

    Raises :class:`Open4MError` that lists every tensor that is missing, unexpected or of another shape, or every
    setting that has no counterpart here.
    """
    settings = files.read_settings(path)
    if missing := [name for name in ("enc_type", "dec_type", "image_size", "n_channels") if name not in settings]:
        raise Open4MError(f"{path}: not a tokenizer of the authors: no {', '.join(missing)} in its configuration")
    if wrong := [f"{name} = {value!r}" for name, value in settings.items() if not _is_possible(name, value)]:
        raise Open4MError(f"{path}: settings with impossible values: {', '.join(wrong)}")
    kind = settings.get("quant_type", DEFAULTS["quant_type"])
    networks = zip(("enc_type", "dec_type"), NETWORKS.get(str(kind), NETWORKS["lucid"]), strict=True)
    for name, kinds in networks:
        if not str(settings[name]).startswith(kinds):
            only = ", ".join(f"{start}*" for start in kinds)
            raise Open4MError(
                f"{path}: {name} = {settings[name]!r} has no counterpart beside quant_type {kind!r}, only {only} have"
            )
    defaults = {**DEFAULTS, **(DIFFUSION if settings["dec_type"].startswith("unet_") else {})}
    if unknown := sorted(settings.keys() - {*defaults, *DIFFUSION, *INFERRED, *WITHOUT_EFFECT}):
        raise Open4MError(f"{path}: settings without a counterpart: {', '.join(unknown)}")
    settings = {**defaults, **settings}
    for name, values in COUNTERPARTS.items():
        if name in defaults and settings[name] not in values:
            allowed = " and ".join(map(repr, values))
            raise Open4MError(f"{path}: {name} = {settings[name]!r} has no counterpart, only {allowed} have")
    stored = files.read_tensors(path)
    tensors = stored.tensors
    memory = settings["quant_type"] == MEMORY
    for name, only in (("norm_codes", True), ("num_codebooks", 1)):  # which learned keys and values do not have
        if not memory and settings.get(name, only) != only:
            raise Open4MError(f"{path}: {name} = {settings[name]!r} has no counterpart, only {only} has")
    for name in MEMORIES.values() if memory else (CODEBOOK,):
        if name not in tensors:
            raise Open4MError(f"{path}: no {name} among its {len(tensors)} tensors")
        if memory and tensors[name].ndim != 3:
            raise Open4MError(f"{path}: {name} {tuple(tensors[name].shape)}: expected (codebooks, rows, columns)")
    with files.untrusted(path):
        if settings["n_labels"] != (len(tensors["cls_emb.weight"]) if "cls_emb.weight" in tensors else None):
            raise Open4MError(f"{path}: n_labels = {settings['n_labels']!r} is not the size of its table of classes")
        config = _config(path, settings, tensors, modality, class_names, palette)
        with torch.device("meta"):  # no memory is taken before the tensors are known to be there
            model = VQVAE(config)
        model, unused = _filled(path, model, stored)
    return Imported(Tokenizer(model), unused, stored.repeated)


def _is_possible(name: str, value: Any) -> bool:
    """Whether the value of a setting has its type and, if it is a number, the range of a size."""
    if name in NUMBERS:
        return (name == "n_labels" and value is None) or (type(value) is int and 0 < value < 2**31)
    return type(value) is bool if name in FLAGS else True


def _config(
    path: Path,
    settings: dict[str, Any],
    tensors: dict[str, Tensor],
    modality: str,
    class_names: tuple[str, ...],
    palette: Palette,
) -> TokenizerConfig:
    grid, patch, labels = grid_modality(modality), settings["patch_size"], settings["n_labels"]
    if grid.categorical != bool(labels):
        raise Open4MError(
            f"{path}: n_labels is {labels}, but {modality} has {'' if grid.categorical else 'no '}classes"
        )
    if labels and class_names and len(class_names) != labels:
        raise Open4MError(f"{path}: {labels} classes, got {len(class_names)} names")
    cells = not settings["patch_proj"]  # whether it reads a feature map, one vector per cell
    fields: dict[str, Any] = {} if grid.normalization == "fixed" else {"mean": (0.0,), "std": (1.0,)}
    fields["standardize"] = STANDARDIZED in grid.forms
    if labels:
        fields |= {"class_names": class_names or tuple(f"class {i}" for i in range(labels)), "palette": palette}
    if settings["quant_type"] == MEMORY:
        return _vector_config(path, settings, tensors, modality, fields)
    if settings["dec_type"].startswith("unet_"):
        decoder: ViTConfig | UNetConfig = _unet(path, tensors)
        diffusion = DiffusionConfig(
            train_steps=settings["num_train_timesteps"],
            schedule=settings["beta_schedule"],
            zero_terminal_snr=settings["zero_terminal_snr"],
            clip=settings["clip_sample"],
        )
    else:
        decoder, diffusion = _vit(path, settings, tensors, "decoder"), None
    codes, width = tensors[CODEBOOK].shape[-2:]
    unit = 1 if cells else patch  # pixels, or vectors, per token
    side = settings["image_size"] // patch
    if not 0 < side <= LARGEST_GRID:
        raise Open4MError(
            f"{path}: image_size {settings['image_size']} in patches of {patch}: expected 1 to {LARGEST_GRID} per side"
        )
    if side > SMALLEST_GRID:
        fields["resolutions"] = tuple(unit * count for count in range(SMALLEST_GRID, side + 1, 2))
    return TokenizerConfig.of(
        modality,
        image_size=side * unit,
        patch_size=unit,
        channels=settings["n_channels"],
        codebook_size=codes,
        latent_dim=width,
        encoder=_vit(path, settings, tensors, "encoder"),
        decoder=decoder,
        diffusion=diffusion,
        **fields,
    )


def _vector_config(
    path: Path, settings: dict[str, Any], tensors: dict[str, Tensor], modality: str, fields: dict[str, Any]
) -> TokenizerConfig:
    """Of a single vector, whose tokens are one per codebook: their numbers are those of the tensors, since the names
    and the settings of public tokenizers disagree about them."""
    codebooks, codes, width = tensors[MEMORIES["memory"]].shape
    return TokenizerConfig.of(
        modality,
        channels=settings["n_channels"],
        quantizer=MEMORY,
        codebook_size=codes,
        codebooks=codebooks,
        latent_dim=codebooks * width,
        encoder=_mlp(path, tensors, "encoder"),
        decoder=_mlp(path, tensors, "decoder"),
        **fields,
    )


def _mlp(path: Path, tensors: dict[str, Tensor], side: str) -> MLPConfig:
    """The size of an MLP, inferred from the shapes of its tensors."""
    try:
        hidden, width = tensors[f"{side}.blocks.0.block.0.weight"].shape
    except KeyError as error:
        raise Open4MError(f"{path}: no {error.args[0]} among its {len(tensors)} tensors") from None
    return MLPConfig(width=width, depth=_count(tensors, f"{side}.blocks."), expansion=hidden // width)


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    """How many numbered layers have names that start with ``prefix``."""
    place = prefix.count(".")
    return 1 + max((int(name.split(".")[place]) for name in tensors if name.startswith(prefix)), default=-1)


def _vit(path: Path, settings: dict[str, Any], tensors: dict[str, Tensor], side: str) -> ViTConfig:
    """The size of a ViT, inferred from the shapes of its tensors."""
    try:
        width = tensors[f"{side}.blocks.0.attn.proj.weight"].shape[0]
        hidden = tensors[f"{side}.blocks.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise Open4MError(f"{path}: no {error.args[0]} among its {len(tensors)} tensors") from None
    kind = settings[f"{side[:3]}_type"].rsplit("_", 1)[0]  # vit_b_enc
    return ViTConfig(
        width=width,
        depth=_count(tensors, f"{side}.blocks."),
        heads=HEADS.get(kind, width // HEAD_DIM),
        mlp_ratio=hidden / width,
        post_mlp=f"{side}.post_mlp.fc1.weight" in tensors,
        position_grid=tensors[f"{side}.pos_emb"].shape[-1] if f"{side}.pos_emb" in tensors else None,
        out_conv=_count(tensors, f"{side}.out_conv."),
    )


def _unet(path: Path, tensors: dict[str, Tensor]) -> UNetConfig:
    """The size of a patched UNet, inferred from the names and shapes of its tensors."""
    try:
        stem = tensors["decoder.input_blocks.0.0.weight"]
        channels, stages = (
            stem.shape[0],
            {int(n.split(".")[2]) for n in tensors if n.startswith("decoder.input_blocks.")},
        )
        downs = [i for i in sorted(stages) if f"decoder.input_blocks.{i}.0.op.weight" in tensors]
        firsts = [1, *[i + 1 for i in downs]]
        widths = [tensors[f"decoder.input_blocks.{i}.0.out_layers.3.weight"].shape[0] for i in firsts]
        patch = tensors["decoder.out.2.weight"].shape[0]
    except KeyError as error:
        raise Open4MError(f"{path}: no {error.args[0]} among its {len(tensors)} tensors") from None
    image = stem.shape[1] - tensors[CODEBOOK].shape[-1]
    if image != patch:
        raise Open4MError(
            f"{path}: decoder.input_blocks.0.0.weight reads patches of {image} numbers, {patch} are written"
        )
    return UNetConfig(
        channels=channels,
        multipliers=tuple(w // channels for w in widths),
        blocks=(downs[0] if downs else max(stages) + 1) - 1,
        attention=sum(f"decoder.input_blocks.{i}.1.qkv.weight" in tensors for i in firsts),
    )


def _filled(path: Path, model: VQVAE, stored: files.Stored) -> tuple[VQVAE, tuple[str, ...]]:
    """A model on the meta device with every tensor copied into it, and the names of those that it does not need.

    Their position tables must equal our fixed ones, since ours are computed and not stored.
    """
    tensors = stored.tensors
    theirs = {name: tensor for name, tensor in tensors.items() if not name.startswith("quantize.")}
    used = tuple(MEMORIES.values()) if MEMORIES["memory"] in tensors else (CODEBOOK,)
    if used == (CODEBOOK,):
        theirs["quantizer.codebook"] = tensors[CODEBOOK].reshape(tensors[CODEBOOK].shape[-2:])
    else:
        each = [(f"parts.{i}." if len(tensors[used[0]]) > 1 else "", i) for i in range(len(tensors[used[0]]))]
        theirs |= {f"quantizer.{part}{ours}": tensors[name][i] for part, i in each for ours, name in MEMORIES.items()}
    statistics = {f"quantize._codebook.{name}" for name in ("cluster_size", "initted", "embed_avg")} | {*used}
    unexpected = sorted(name for name in tensors if name.startswith("quantize.") and name not in statistics)
    for side in ("encoder", "decoder"):
        positions = theirs.pop(f"{side}.pos_emb", None)
        if positions is not None:
            _, width, h, w = positions.shape
            fixed = sincos_2d(h, w, width).T.reshape(1, width, h, w)
            if not torch.allclose(positions, fixed, rtol=0, atol=stored.rounding[f"{side}.pos_emb"]):
                raise Open4MError(
                    f"{path}: {side}.pos_emb is not the fixed sine-cosine table; learned positions have no counterpart"
                )
    own = {published_name(name): tensor for name, tensor in weights_of(model).items()}
    missing, unexpected = sorted(own.keys() - theirs.keys()), unexpected + sorted(theirs.keys() - own.keys())
    misshapen = [
        f"{name} {tuple(theirs[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in theirs and own[name].shape != theirs[name].shape
    ]
    if missing or unexpected or misshapen:
        raise Open4MError(
            f"{path}: other tensors than its configuration says; missing: {', '.join(missing) or 'none'}; unexpected: "
            f"{', '.join(unexpected) or 'none'}; of another shape: {', '.join(misshapen) or 'none'}"
        )
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in weights_of(model).items():
            tensor.copy_(theirs[published_name(name)])
    model.reset_buffers()
    model.quantizer.reset_statistics()
    kept = {*own, *used}
    return model, tuple(sorted(name for name in tensors if name not in kept and name not in stored.repeated))
