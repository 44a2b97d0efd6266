"""Transformers that the authors of 4M published, or that their code trained, as ours.

Their format: ``model.safetensors``, and the configuration as ``config.json`` or as strings in the header of the
safetensors file. What kind a modality is and how large its vocabulary, is read off its tensors, so that any modality
can be imported. Nothing of their files is executed.
"""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m.hub import CONFIG, WEIGHTS
from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.embeddings import module_name, sincos_1d, sincos_2d
from open4m.types import Open4MError

NAMES = {"rgb": "rgb_pixels", "tok_normal": "normals", "tok_semseg": "semseg", "det": "boxes"}
"""Their names of what has another name here. Else ``tok_`` is dropped: our grids are their tokens."""

ACTIVATIONS = {("SiLU", True): "swiglu", ("GELU", True): "geglu", ("GELU", False): "gelu", ("SiLU", False): "silu"}

REQUIRED = ("domains_in", "domains_out", "dim", "encoder_depth", "decoder_depth", "num_heads")
DEFAULTS = {
    "mlp_ratio": 4.0, "qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True, "act_layer": "GELU",
    "gated_mlp": False, "qk_norm": False, "num_register_tokens": 0, "image_size": 224, "patch_size": 16,
    "decoder_causal_mask": False, "decoder_sep_mask": True, "share_modality_embeddings": True,
}  # fmt: skip
WITHOUT_EFFECT = ("drop_path_rate_encoder", "drop_path_rate_decoder", "shared_drop_path", "use_act_checkpoint")


@dataclass(frozen=True)
class Imported:
    """``weights`` for a :class:`~open4m.model.fourm.FourMTransformer` of ``config``.

    ``names``: our key of each of their modalities. ``unused``: their tensors that no output depends on.
    """

    config: FourMConfig
    weights: dict[str, Tensor]
    names: dict[str, str]
    unused: tuple[str, ...]


def is_reference(path: Path) -> bool:
    """Whether a directory or safetensors file has the configuration of one of their transformers."""
    try:
        return "domains_in" in _settings(path)
    except (Open4MError, FileNotFoundError):
        return False


def load(path: Path) -> Imported:
    """Read a directory or a safetensors file of theirs, strictly.

    Raises :class:`Open4MError` that lists every tensor that is missing, unexpected or of another shape, and every
    setting that has no counterpart here.
    """
    settings = _settings(path)
    if missing := [name for name in REQUIRED if name not in settings]:
        raise Open4MError(f"{path}: not a 4M transformer of the authors: no {', '.join(missing)} in its configuration")
    if unknown := sorted(settings.keys() - {*REQUIRED, *DEFAULTS, *WITHOUT_EFFECT, "format"}):
        raise Open4MError(f"{path}: settings without a counterpart: {', '.join(unknown)}")
    settings = {**DEFAULTS, **settings}
    kind = (settings["act_layer"], bool(settings["gated_mlp"]))
    if kind not in ACTIVATIONS:
        raise Open4MError(f"{path}: act_layer {kind[0]} has no counterpart (GELU and SiLU have)")
    for name in ("decoder_causal_mask", "decoder_sep_mask"):
        if settings[name] != DEFAULTS[name]:
            raise Open4MError(f"{path}: {name} = {settings[name]} has no counterpart, only {DEFAULTS[name]} has")
    tensors = _tensors(_weights_file(path))
    return _Import(path, settings, tensors, ACTIVATIONS[kind]).result()


class _Import:
    """One import: takes tensors out of theirs until none is left."""

    def __init__(self, path: Path, settings: dict[str, Any], tensors: dict[str, Tensor], activation: str):
        self.path, self.settings, self.tensors, self.activation = path, settings, dict(tensors), activation
        self.dim = int(settings["dim"])
        self.missing: list[str] = []
        self.unused: list[str] = []
        self.inputs, self.targets = list(settings["domains_in"]), list(settings["domains_out"])
        self.theirs = list(dict.fromkeys([*self.inputs, *self.targets]))
        self.names = keys_of(self.theirs)

    def result(self) -> Imported:
        s = self.settings
        tables = {name: self._embedding(name) for name in self.theirs}
        specs = tuple(spec for spec, _ in tables.values())
        tied = all(
            table["query"] is None or torch.equal(table["query"], table["output"]) for _, table in tables.values()
        )
        config = FourMConfig(
            modalities=specs, dim=self.dim, encoder_depth=int(s["encoder_depth"]),
            decoder_depth=int(s["decoder_depth"]), heads=int(s["num_heads"]), mlp_ratio=float(s["mlp_ratio"]),
            activation=self.activation, qkv_bias=s["qkv_bias"], proj_bias=s["proj_bias"], mlp_bias=s["mlp_bias"],
            norm_bias=s["norm_bias"], qk_norm=s["qk_norm"], register_tokens=int(s["num_register_tokens"]), tied=tied,
        )  # fmt: skip
        weights = {
            **self._embeddings(config, {self.names[n]: t for n, (_, t) in tables.items()}),
            **self._blocks(config),
        }
        if self.missing or self.tensors:
            raise Open4MError(
                f"{self.path}: other tensors than its configuration says; missing: "
                f"{', '.join(self.missing) or 'none'}; unexpected: {', '.join(sorted(self.tensors)) or 'none'}"
            )
        return Imported(config, weights, self.names, tuple(self.unused))

    # ---- tensors
    def _take(self, name: str, *shape: int, optional: bool = False) -> Tensor:
        """Take a tensor out, checking its shape; a missing one is noted and stands in as zeros."""
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            if not optional:
                self.missing.append(name)
            return torch.zeros(shape)
        if tensor.shape != shape:
            raise Open4MError(f"{self.path}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
        return tensor

    def _linear(self, name: str, out: int, into: int, bias: bool) -> dict[str, Tensor]:
        weights = {"weight": self._take(f"{name}.weight", out, into)}
        return weights | ({"bias": self._take(f"{name}.bias", out)} if bias else {})

    def _norm(self, name: str, dim: int, bias: bool) -> dict[str, Tensor]:
        weight, shift = self._take(f"{name}.weight", dim), self._take(f"{name}.bias", dim, optional=not bias)
        if not bias and shift.any():
            raise Open4MError(f"{self.path}: {name}.bias is not zero, but norm_bias is False")
        return {"weight": weight} | ({"bias": shift} if bias else {})

    # ---- the blocks
    def _blocks(self, config: FourMConfig) -> dict[str, Tensor]:
        dim, found = self.dim, {}
        for i in range(config.encoder_depth):
            found |= _under(f"encoder.{i}.norm1", self._norm(f"encoder.{i}.norm1", dim, config.norm_bias))
            found |= self._attention(f"encoder.{i}.attn", f"encoder.{i}.attention", config)
            found |= _under(f"encoder.{i}.norm2", self._norm(f"encoder.{i}.norm2", dim, config.norm_bias))
            found |= self._mlp(f"encoder.{i}.mlp", config)
        for i in range(config.decoder_depth):
            for name in ("norm1", "query_norm", "context_norm", "norm2"):
                found |= _under(f"decoder.{i}.{name}", self._norm(f"decoder.{i}.{name}", dim, config.norm_bias))
            found |= self._attention(f"decoder.{i}.self_attn", f"decoder.{i}.self_attention", config)
            found |= self._attention(f"decoder.{i}.cross_attn", f"decoder.{i}.cross_attention", config, cross=True)
            found |= self._mlp(f"decoder.{i}.mlp", config)
        for name in ("encoder_norm", "decoder_norm"):
            found |= _under(name, self._norm(name, dim, config.norm_bias))
        return found | _under("context_proj", self._linear("decoder_proj_context", dim, dim, True))

    def _attention(self, theirs: str, ours: str, config: FourMConfig, cross: bool = False) -> dict[str, Tensor]:
        dim, head, found = self.dim, self.dim // config.heads, {}
        for name, parts in (("q", 1), ("kv", 2)) if cross else (("qkv", 3),):
            found |= _under(f"{ours}.{name}", self._linear(f"{theirs}.{name}", parts * dim, dim, config.qkv_bias))
        found |= _under(f"{ours}.proj", self._linear(f"{theirs}.proj", dim, dim, config.proj_bias))
        if config.qk_norm:
            for short, name in (("q", "query"), ("k", "key")):
                found |= _under(f"{ours}.qk_norm.{name}", self._norm(f"{theirs}.{short}_norm", head, config.norm_bias))
        return found

    def _mlp(self, name: str, config: FourMConfig) -> dict[str, Tensor]:
        dim, bias, hidden = self.dim, config.mlp_bias, int(self.dim * config.mlp_ratio)
        if config.activation in ("gelu", "silu"):
            up = self._linear(f"{name}.fc1", hidden, dim, bias)
            return _under(f"{name}.up", up) | _under(f"{name}.down", self._linear(f"{name}.fc2", dim, hidden, bias))
        hidden = int(2 * hidden / 3)
        gate, up = self._linear(f"{name}.fc1", hidden, dim, bias), self._linear(f"{name}.fc3", hidden, dim, bias)
        both = {part: torch.cat([gate[part], up[part]]) for part in gate}
        return _under(f"{name}.gate_up", both) | _under(f"{name}.down", self._linear(f"{name}.fc2", dim, hidden, bias))

    # ---- the embeddings
    def _embedding(self, theirs: str) -> tuple[ModalitySpec, dict[str, Tensor | None]]:
        """What one modality is, and its tensors by what they are here."""
        encoder, decoder = f"encoder_embeddings.{theirs}", f"decoder_embeddings.{theirs}"
        found = {
            name: self.tensors.pop(name)
            for name in list(self.tensors)
            if name.startswith((f"{encoder}.", f"{decoder}."))
        }
        take = lambda side, part: found.pop(f"{side}.{part}", None)  # noqa: E731
        parts: dict[str, Tensor | None] = dict.fromkeys(("input", "output", "query", "bias"))

        modality = [m.flatten() for m in (take(encoder, "mod_emb"), take(decoder, "mod_emb")) if m is not None]
        if not modality or any(not torch.equal(m, modality[0]) for m in modality):
            raise Open4MError(f"{self.path}: {theirs}: expected one mod_emb, shared by encoder and decoder")
        parts["modality"] = modality[0]

        positions = [p.flatten(0, -2) for p in (take(encoder, "pos_emb"), take(decoder, "pos_emb")) if p is not None]
        if not positions:
            raise Open4MError(f"{self.path}: {theirs}: has no pos_emb, which tells its length")
        count = len(positions[0])
        side = math.isqrt(count)
        looks = _positions_of(positions[0])
        learned = looks is None
        if learned:
            parts["encoder_positions"], parts["decoder_positions"] = positions[0], positions[-1]

        spec: dict[str, Any] = {"learned_positions": learned}
        patches, vectors = take(encoder, "proj.weight"), self._projection(encoder, found)
        if patches is not None:
            patch = int(self.settings["patch_size"])
            channels = patches.shape[1] // patch**2
            spec |= {"family": "pixels", "grid": (side, side), "patch_size": patch, "channels": channels}
            by_pixel = patches.view(self.dim, patch, patch, channels)
            parts["projection"] = by_pixel.permute(0, 3, 1, 2).flatten(1)  # channels go first here
        elif vectors is not None:
            parts["projection"], parts["bias"] = vectors
            spec |= {"family": "vectors", "channels": vectors[0].shape[1], "max_length": LENGTHS.get(theirs, count)}
        else:
            parts["input"] = take(encoder, "token_emb.weight")
            query, output = take(decoder, "token_emb.weight"), take(decoder, "to_logits.weight")
            parts["output"] = query if output is None else output
            is_grid = looks == "grid" or (learned and theirs.startswith("tok_") and side * side == count)
            if is_grid:
                spec |= {"family": "grid", "grid": (side, side)}
                if query is not None:
                    self.unused.append(f"{decoder}.token_emb.weight")  # the decoder of grids reads the mask token
            else:
                parts["query"] = output if query is None else query
                longest = count - 1 if learned else min(count, LENGTHS.get(theirs, 256))
                spec |= {"family": "sequence", "max_length": longest}
            sizes = {len(parts[p]) for p in ("input", "output") if parts[p] is not None}
            if len(sizes) != 1:
                raise Open4MError(f"{self.path}: {theirs}: expected tables of one size, got {sorted(sizes) or 'none'}")
            spec["vocab_size"] = sizes.pop()
        spec |= {"is_input": theirs in self.inputs, "is_target": theirs in self.targets}
        if spec["family"] in ("grid", "sequence"):
            wanted = {"input": (spec["is_input"], f"{encoder}.token_emb.weight"),
                      "output": (spec["is_target"], f"{decoder}.to_logits.weight")}  # fmt: skip
            for part, (needed, name) in wanted.items():
                if needed and parts[part] is None:
                    self.missing.append(name)
                elif not needed and parts[part] is not None:
                    found[name] = parts[part]  # unexpected
        self.tensors |= found  # what is left is unexpected
        return ModalitySpec(key=self.names[theirs], **spec), parts

    def _projection(self, encoder: str, found: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the projection of vectors; two layers without anything between them are one."""
        layers = [
            (found.pop(f"{encoder}.{name}.weight"), found.pop(f"{encoder}.{name}.bias"))
            for name in ("emb_proj", "emb_proj.0", "emb_proj.1")
            if f"{encoder}.{name}.weight" in found and f"{encoder}.{name}.bias" in found
        ]
        if len(layers) < 2:
            return layers[0] if layers else None
        (first, shift), (second, bias) = ((w.double(), b.double()) for w, b in layers)
        return (second @ first).float(), (second @ shift + bias).float()

    def _embeddings(self, config: FourMConfig, tables: dict[str, dict[str, Tensor | None]]) -> dict[str, Tensor]:
        none = torch.zeros(0, self.dim)

        def joined(part: str) -> Tensor:
            return torch.cat([none, *(t[part] for t in tables.values() if t.get(part) is not None)])

        found = {
            "inputs.weight": joined("input") if len(joined("input")) else torch.zeros(1, self.dim),
            "outputs.weight": joined("output"),
            "modality.weight": torch.stack([t["modality"] for t in tables.values()]),
            "mask_token": self._take("mask_token", 1, 1, self.dim).flatten(),
        }
        if not config.tied:
            found["queries.weight"] = joined("query")
        if config.register_tokens:
            found["registers"] = self._take("register_tokens", 1, config.register_tokens, self.dim)[0]
        for spec in config.modalities:
            table, name = tables[spec.key], module_name(spec.key)
            if spec.family == "pixels":
                found[f"patches.{name}.weight"] = table["projection"]
            elif spec.family == "vectors":
                found[f"vectors.{name}.weight"], found[f"vectors.{name}.bias"] = table["projection"], table["bias"]
        if any(spec.learned_positions for spec in config.modalities):
            for side in ("encoder", "decoder"):
                found[f"learned_positions.{side}"] = joined(f"{side}_positions")
        return _under("embeddings", found)


LENGTHS = {"metadata": 40, "human_poses": 263, "color_palette": 23, "sam_instance": 290, "t5_caption": 77}
"""The longest sequences that public checkpoints were trained with, where they are not the 256 of captions and boxes:
the tables of positions, all 512 long, do not tell."""


def _resolution(name: str) -> tuple[int, str]:
    """What sorts names by the number after the ``@``."""
    digits = name.partition("@")[2]
    return len(digits), digits


def keys_of(theirs: list[str]) -> dict[str, str]:
    """Our key of each of their modalities: without its resolution, except for the higher ones of one modality."""
    found: dict[str, str] = {}
    for name in sorted(theirs, key=_resolution):
        stem, _, resolution = name.partition("@")
        key = NAMES.get(stem, stem.removeprefix("tok_"))
        found[name] = f"{key}@{resolution}" if key in found.values() else key
    return {name: found[name] for name in theirs}


def _positions_of(table: Tensor) -> str | None:
    """Whether a table (n, D) of positions is the fixed one of a grid or of a sequence, or else was learned."""
    count, dim = table.shape
    side = math.isqrt(count)
    if side * side == count and torch.allclose(table, sincos_2d(side, side, dim), atol=1e-3):
        return "grid"
    return "sequence" if torch.allclose(table, sincos_1d(torch.arange(count), dim), atol=1e-3) else None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _weights_file(path: Path) -> Path:
    return path / WEIGHTS if path.is_dir() else path


def _settings(path: Path) -> dict[str, Any]:
    """The configuration: of ``config.json`` beside the weights, or else of the header of the safetensors file."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir() and (path / CONFIG).is_file():
        try:
            settings = json.loads((path / CONFIG).read_text())
        except ValueError as error:
            raise Open4MError(f"{path / CONFIG}: not readable as JSON ({error})") from error
        if not isinstance(settings, dict):
            raise Open4MError(f"{path / CONFIG}: expected an object")
        return settings
    try:
        with safe_open(_weights_file(path), "pt") as file:
            return {name: _literal(text) for name, text in (file.metadata() or {}).items()}
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{_weights_file(path)}: not readable as safetensors ({error})") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Open4MError(f"{path}: not readable as safetensors ({error})") from error
    return {name: tensor.float() for name, tensor in tensors.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
