"""Where a Vision Transformer comes from: a folder or a name on the hub, of transformers or timm, or a single file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torch import Tensor

from open4m import files, weights
from open4m.datasets.labelled.base import PICTURE
from open4m.labellers.checkpoints import CONFIG, Checkpoint, check_config
from open4m.transfer.backbone import BackboneConfig
from open4m.transfer.vision_transformers.naming import Told, read
from open4m.transfer.vision_transformers.network import VisionTransformer
from open4m.types import Open4MError, shown

PREFIX = "vit:"
"""What a name begins with that means a Vision Transformer: ``vit:facebook/dinov2-base``."""

SUFFIX = ".safetensors"

INDEX = "model.safetensors.index.json"
"""Says which of several files a tensor is in."""

PICKLES = ("*.pth", "*.pt", "*.bin", "*.pkl", "*.npz", "*.ckpt")

CONVERSION = (
    'convert it: python -c "import argparse, torch; from safetensors.torch import save_file; '
    "torch.serialization.add_safe_globals([argparse.Namespace]); "
    "s = torch.load('IN.pth', map_location='cpu', weights_only=True); s = s.get('model', s); "
    "save_file({k: v.contiguous() for k, v in s.items() if isinstance(v, torch.Tensor)}, 'OUT.safetensors')\""
)
"""How a pickle becomes a safetensors file: nothing in it is run, and tensors and authors' settings alone are read."""

COLORS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Means and deviations of colors by which networks were normalized, by name."""

OF_TYPE = {
    "vit": "half",
    "vit_mae": "imagenet",
    "deit": "imagenet",
    "beit": "half",
    "dinov2": "imagenet",
    "dinov2_with_registers": "imagenet",
    "clip": "openai",
    "clip_vision_model": "openai",
}
"""The types of networks in transformers that are read, and the normalization of those whose folder does not say it."""

ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu"}
"""Those of transformers by ours."""

OPTIONS = ("heads", "epsilon", "activation", "colors")
"""What may be said after a name, as in ``vit:model.safetensors?heads=6&colors=half``."""


def is_vision_transformer(name: str | Path) -> bool:
    """Whether a name means a Vision Transformer of others: it begins with ``vit:``, or is a folder whose configuration
    is one of transformers or timm."""
    if str(name).startswith(PREFIX):
        return True
    path = Path(str(name).partition("?")[0]) / CONFIG
    held = files.read_json(path, files.LARGEST_CONFIG) if path.is_file() else None
    return isinstance(held, dict) and ("model_type" in held or "pretrained_cfg" in held)


def open_vision_transformer(name: str | Path, config: BackboneConfig) -> tuple[VisionTransformer, BackboneConfig]:
    """The Vision Transformer that is named, and the configuration with the size of image filled in.

    It is named by a folder or a name on the hub in the format of transformers or timm, or by a safetensors file in the
    naming of timm or MultiMAE; with or without ``vit:`` before it, and options after it. Raises :class:`Open4MError` if
    there is none, it is not read, or it does not fit the configuration.
    """
    place, _, rest = str(name).removeprefix(PREFIX).partition("?")
    options = _options(rest, name)
    if tuple(config.inputs) != (PICTURE,):
        raise Open4MError(
            f"backbone.inputs: a Vision Transformer reads {PICTURE} alone, got {', '.join(config.inputs)}"
        )
    tensors, told = _of_file(Path(place)) if _is_file(Path(place)) else _of_folder(Checkpoint(place))
    network, state = read(tensors, dataclasses.replace(told, **options), place)
    if config.drop_path is not None:
        network = network.dropping(config.drop_path)
    if config.image_size is None:
        config = dataclasses.replace(config, image_size=network.image_size)
    backbone = network.backbone(config.pooling)
    backbone.check_size(config.image_size)
    backbone.load_state_dict(weights.checked(Path(place), state, backbone.state_dict()))
    return backbone, config


def _options(text: str, name: str | Path) -> dict[str, Any]:
    """What is said after a name, by fields of :class:`.naming.Told`."""
    found: dict[str, Any] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        if key not in OPTIONS:
            raise Open4MError(f"{name}: unknown option {shown(key)} (allowed: {', '.join(OPTIONS)})")
        try:
            if key == "colors":
                found["mean"], found["std"] = COLORS[value]
            else:
                kinds = {"heads": int, "epsilon": float, "activation": lambda value: ACTIVATIONS[value]}
                found[key] = kinds[key](value)
        except (KeyError, ValueError):
            expected = {"colors": ", ".join(COLORS), "activation": ", ".join(ACTIVATIONS)}.get(key, "a number")
            raise Open4MError(f"{name}: {key}: expected {expected}, got {shown(value)}") from None
    return found


def _is_file(path: Path) -> bool:
    """Whether a file is meant. Raises :class:`Open4MError` for files of other formats, which may be programs."""
    if any(path.match(pattern) for pattern in PICKLES):
        raise Open4MError(f"{path}: only safetensors files are read, since others can run programs; {CONVERSION}")
    return path.suffix == SUFFIX


def _of_file(path: Path) -> tuple[dict[str, Tensor], Told]:
    tensors = weights.read_tensors(path)
    weights.check_finite(path, tensors)
    if any(".attention.attention." in name or ".self_attn." in name for name in tensors):
        raise Open4MError(f"{path}: is in the naming of transformers: name its folder, with {CONFIG} in it")
    return tensors, Told(**_colors("imagenet"))


def _colors(name: str) -> dict[str, Any]:
    mean, std = COLORS[name]
    return {"mean": mean, "std": std}


def _of_folder(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], Told]:
    held = checkpoint.json(CONFIG)
    where = f"{checkpoint.name}/{CONFIG}"
    if not isinstance(held, dict):
        raise Open4MError(f"{where}: expected the configuration of a network of transformers or timm")
    check_config(held, where)
    if "pretrained_cfg" in held:
        told = _of_timm(held, where)
    elif held.get("model_type") in OF_TYPE:
        told = _of_transformers(checkpoint, held, where)
    else:
        kind = shown(held.get("model_type"))
        raise Open4MError(f"{where}: model_type {kind} is not read (allowed: {', '.join(OF_TYPE)}, and those of timm)")
    return _tensors(checkpoint), told


def _of_timm(held: Mapping[str, Any], where: str) -> Told:
    about = held["pretrained_cfg"] if isinstance(held["pretrained_cfg"], dict) else {}
    colors = _triples(about.get("mean"), about.get("std"), where) or _colors("imagenet")
    activation = "quick_gelu" if "quickgelu" in str(held.get("architecture", "")) else "gelu"
    return Told(**colors, activation=activation)


def _of_transformers(checkpoint: Checkpoint, held: Mapping[str, Any], where: str) -> Told:
    colors = _colors(OF_TYPE[held["model_type"]])
    if isinstance(processor := checkpoint.json("preprocessor_config.json"), dict) and processor.get(
        "do_normalize", True
    ):
        colors = _triples(processor.get("image_mean"), processor.get("image_std"), where) or colors
    vision = held.get("vision_config", held)
    vision = vision if isinstance(vision, dict) else {}
    defaults = _defaults(held["model_type"])
    about = {name: vision.get(name, defaults[name]) for name in defaults}
    if about["hidden_act"] not in ACTIVATIONS:
        raise Open4MError(
            f"{where}: hidden_act {shown(about['hidden_act'])} is not computed ({', '.join(ACTIVATIONS)} are)"
        )
    heads, epsilon = about["num_attention_heads"], about["layer_norm_eps"]
    if type(heads) is not int or not 0 < heads <= 1024 or type(epsilon) not in (float, int) or not 0 < epsilon < 1:
        raise Open4MError(
            f"{where}: expected a number of heads and an epsilon, got {shown(heads)} and {shown(epsilon)}"
        )
    return Told(**colors, heads=heads, epsilon=epsilon, activation=ACTIVATIONS[about["hidden_act"]])


def _defaults(kind: str) -> dict[str, Any]:
    """What a configuration of transformers leaves out, as its classes have it."""
    if kind.startswith("clip"):
        return {"hidden_act": "quick_gelu", "num_attention_heads": 12, "layer_norm_eps": 1e-5}
    epsilon = 1e-6 if kind.startswith("dinov2") else 1e-12
    return {"hidden_act": "gelu", "num_attention_heads": 12, "layer_norm_eps": epsilon}


def _triples(mean: Any, std: Any, where: str) -> dict[str, Any] | None:
    """Means and deviations of colors, None if there are none."""
    if mean is None and std is None:
        return None
    for values in (mean, std):
        numbers = isinstance(values, list | tuple) and all(type(value) in (int, float) for value in values)
        if not numbers or len(values) != 3:
            raise Open4MError(f"{where}: expected three means and three deviations of colors, got {shown(values)}")
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}


def _tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of a folder, in one safetensors file or in several."""
    folder, name = checkpoint.folder, f"model{SUFFIX}"
    names = [name]
    if not (folder / name).is_file() and (index := checkpoint.json(INDEX)) is not None:
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not all(isinstance(n, str) and Path(n).name == n for n in places.values()):
            raise Open4MError(f"{folder / INDEX}: expected a weight_map from names of tensors to names of files")
        names = sorted(set(places.values()))
    elif not (folder / name).is_file():
        raise Open4MError(
            f"{folder}: no {name} in it; of pickles, {CONVERSION}; or load it with transformers and save_pretrained"
        )
    tensors: dict[str, Tensor] = {}
    for each in names:
        tensors |= weights.read_tensors(folder / each)
    weights.check_finite(folder, tensors)
    return tensors
