"""Import of transformers that the authors of 4M published, or that their code trained.

Their format: ``model.safetensors``, and the configuration as ``config.json`` or as strings in the header of the
safetensors file. The family of a modality and the size of its vocabulary are inferred from its tensors, so that any
modality can be imported. Nothing in the files is executed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m.hub.ml4m import files
from open4m.hub.ml4m.names import LENGTHS, TARGET_POSITIONS, TEXT_LENGTH, keys_of
from open4m.modalities.families import PixelGrid, TokenGrid, TokenSequence, VectorSequence
from open4m.model.config import Architecture, FourMConfig, ModalitySpec
from open4m.model.embeddings import module_name
from open4m.nn.positions import sincos_1d, sincos_2d
from open4m.types import Open4MError

ACTIVATIONS = {("SiLU", True): "swiglu", ("GELU", True): "geglu", ("GELU", False): "gelu", ("SiLU", False): "silu"}

REQUIRED = ("domains_in", "domains_out", "dim", "encoder_depth", "decoder_depth", "num_heads")
DEFAULTS = {
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "norm_bias": True,
    "act_layer": "GELU",
    "gated_mlp": False,
    "qk_norm": False,
    "num_register_tokens": 0,
    "image_size": 224,
    "patch_size": 16,
    "decoder_causal_mask": False,
    "decoder_sep_mask": True,
    "share_modality_embeddings": True,
}
WITHOUT_EFFECT = ("drop_path_rate_encoder", "drop_path_rate_decoder", "shared_drop_path", "use_act_checkpoint")


@dataclass(frozen=True)
class Imported:
    """``weights`` for a :class:`~open4m.model.fourm.FourMTransformer` of ``config``.

    ``names``: our key of each of their modalities. ``unused``: their tensors that no output depends on. ``repeated``:
    tensors that the file does not store because they are equal to others, and those others.
    """

    config: FourMConfig
    weights: dict[str, Tensor]
    names: dict[str, str]
    unused: tuple[str, ...]
    repeated: dict[str, str]


def is_reference(path: Path) -> bool:
    """Whether a directory or safetensors file has the configuration of one of their transformers."""
    try:
        return "domains_in" in files.read_settings(path)
    except (Open4MError, FileNotFoundError):
        return False


def names_of(path: Path) -> dict[str, str]:
    """Our key of each of the domains of a directory or file of theirs, as :func:`load` has them."""
    settings = files.read_settings(path)
    return keys_of([*dict.fromkeys([*settings["domains_in"], *settings["domains_out"]])])


def load(path: Path) -> Imported:
    """Read a directory or a safetensors file of theirs, strictly.

    Raises :class:`Open4MError` that lists every tensor that is missing, unexpected or of another shape, or every
    setting that has no counterpart here.
    """
    settings = files.read_settings(path)
    if missing := [name for name in REQUIRED if name not in settings]:
        raise Open4MError(f"{path}: not a 4M transformer of the authors: no {', '.join(missing)} in its configuration")
    if unknown := sorted(settings.keys() - {*REQUIRED, *DEFAULTS, *WITHOUT_EFFECT, "format"}):
        raise Open4MError(f"{path}: settings without a counterpart: {', '.join(unknown)}")
    settings = {**DEFAULTS, **settings}
    if wrong := [f"{name} = {value!r}" for name, value in settings.items() if not _is_possible(name, value)]:
        raise Open4MError(f"{path}: settings with impossible values: {', '.join(wrong)}")
    kind = (settings["act_layer"], bool(settings["gated_mlp"]))
    if kind not in ACTIVATIONS:
        raise Open4MError(f"{path}: act_layer {kind[0]} has no counterpart (GELU and SiLU have)")
    for name in ("decoder_causal_mask", "decoder_sep_mask"):
        if settings[name] != DEFAULTS[name]:
            raise Open4MError(f"{path}: {name} = {settings[name]} has no counterpart, only {DEFAULTS[name]} has")
    for name in dict.fromkeys([*settings["domains_in"], *settings["domains_out"]]):
        if not re.fullmatch(r"[\w@-]+", name):
            raise Open4MError(f"{path}: domain {name!r}: expected letters, digits, _, - and @ only")
    stored = files.read_tensors(path)
    with files.untrusted(path):
        return _Import(path, settings, stored, ACTIVATIONS[kind]).result()


class _Import:
    """One import: removes each tensor that it uses from ``tensors``; what remains is unexpected."""

    def __init__(self, path: Path, settings: dict[str, Any], stored: files.Stored, activation: str):
        self.path, self.settings, self.stored, self.activation = path, settings, stored, activation
        self.tensors, self.repeated = dict(stored.tensors), dict(stored.repeated)
        self.dim = int(settings["dim"])
        self.missing: list[str] = []
        self.misshapen: list[str] = []
        self.unused: list[str] = []
        self.inputs, self.targets = list(settings["domains_in"]), list(settings["domains_out"])
        self.theirs = list(dict.fromkeys([*self.inputs, *self.targets]))
        try:
            self.names = keys_of(self.theirs)
        except Open4MError as error:
            raise Open4MError(f"{path}: {error}") from None
        self._repeat()

    def result(self) -> Imported:
        s = self.settings
        for name in ("encoder_depth", "decoder_depth"):
            if s[name] > len(self.tensors):
                raise Open4MError(f"{self.path}: {name} is {s[name]}, but there are {len(self.tensors)} tensors")
        architecture = Architecture(
            dim=self.dim,
            encoder_depth=s["encoder_depth"],
            decoder_depth=s["decoder_depth"],
            heads=s["num_heads"],
            mlp_ratio=float(s["mlp_ratio"]),
            activation=self.activation,
            qkv_bias=s["qkv_bias"],
            proj_bias=s["proj_bias"],
            mlp_bias=s["mlp_bias"],
            norm_bias=s["norm_bias"],
            qk_norm=s["qk_norm"],
            register_tokens=s["num_register_tokens"],
        )
        blocks = self._blocks(architecture)
        mask_token, count = self._take("mask_token", 1, 1, self.dim), architecture.register_tokens
        registers = self._take("register_tokens", 1, count, self.dim) if count else None
        found = {name: self._embedding(name) for name in self.theirs}
        if self.missing or self.misshapen or self.tensors:
            raise Open4MError(
                f"{self.path}: other tensors than its configuration says; missing: "
                f"{', '.join(self.missing) or 'none'}; unexpected: {', '.join(sorted(self.tensors)) or 'none'}; "
                f"of another shape: {', '.join(self.misshapen) or 'none'}"
            )
        tables = {name: self._described(name, parts) for name, parts in found.items()}
        tied = all(t["query"] is None or torch.equal(t["query"], t["output"]) for _, t in tables.values())
        config = FourMConfig.of(replace(architecture, tied=tied), tuple(spec for spec, _ in tables.values()))
        config = replace(config, hidden_texts="sentinel")  # all public models were trained so
        embeddings = self._embeddings(config, {self.names[n]: t for n, (_, t) in tables.items()})
        embeddings["mask_token"] = mask_token.flatten()
        if registers is not None:
            embeddings["registers"] = registers[0]
        weights = {**_under("embeddings", embeddings), **blocks}
        return Imported(config, weights, self.names, tuple(self.unused), self.repeated)

    # ---- tensors
    def _repeat(self) -> None:
        """Add tensors that the file does not store because they are equal to others that it does store.

        These are the modality embeddings of encoder or decoder, which share them. And, if the decoder's input and
        output embeddings are equal wherever the file stores both, the one of the two that is not stored.
        """
        tables = [[f"decoder_embeddings.{n}.{p}.weight" for p in ("token_emb", "to_logits")] for n in self.targets]
        both = [pair for pair in tables if all(name in self.tensors for name in pair)]
        pairs = tables if all(torch.equal(*(self.tensors[name] for name in pair)) for pair in both) else []
        if self.settings["share_modality_embeddings"]:
            shared = [name for name in self.inputs if name in self.targets]
            pairs = pairs + [[f"{side}_embeddings.{n}.mod_emb" for side in ("encoder", "decoder")] for n in shared]
        for first, second in pairs:
            for absent, source in ((first, second), (second, first)):
                if absent not in self.tensors and source in self.tensors:
                    self.tensors[absent], self.repeated[absent] = self.tensors[source], source

    def _take(self, name: str, *shape: int | None, optional: bool = False) -> Tensor | None:
        """Remove a tensor and return it. One that is missing or has another shape is recorded, and None returned.

        A size of None in ``shape`` stands for any size.
        """
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            if not optional:
                self.missing.append(name)
            return None
        if tensor.ndim != len(shape) or any(e is not None and n != e for n, e in zip(tensor.shape, shape, strict=True)):
            expected = ", ".join("any" if size is None else str(size) for size in shape)
            self.misshapen.append(f"{name} {tuple(tensor.shape)} instead of ({expected})")
            return None
        return tensor

    def _linear(self, name: str, out: int, into: int, bias: bool) -> dict[str, Tensor | None]:
        weights = {"weight": self._take(f"{name}.weight", out, into)}
        return weights | ({"bias": self._take(f"{name}.bias", out)} if bias else {})

    def _norm(self, name: str, dim: int, bias: bool) -> dict[str, Tensor | None]:
        weight, shift = self._take(f"{name}.weight", dim), self._take(f"{name}.bias", dim, optional=not bias)
        if not bias and shift is not None and shift.any():
            raise Open4MError(f"{self.path}: {name}.bias is not zero, but norm_bias is False")
        return {"weight": weight} | ({"bias": shift} if bias else {})

    # ---- the blocks
    def _blocks(self, config: Architecture) -> dict[str, Tensor | None]:
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

    def _attention(self, theirs: str, ours: str, config: Architecture, cross: bool = False) -> dict[str, Tensor | None]:
        dim, head, found = self.dim, self.dim // config.heads, {}
        for name, parts in (("q", 1), ("kv", 2)) if cross else (("qkv", 3),):
            found |= _under(f"{ours}.{name}", self._linear(f"{theirs}.{name}", parts * dim, dim, config.qkv_bias))
        found |= _under(f"{ours}.proj", self._linear(f"{theirs}.proj", dim, dim, config.proj_bias))
        if config.qk_norm:
            for short, name in (("q", "query"), ("k", "key")):
                found |= _under(f"{ours}.qk_norm.{name}", self._norm(f"{theirs}.{short}_norm", head, config.norm_bias))
        return found

    def _mlp(self, name: str, config: Architecture) -> dict[str, Tensor | None]:
        dim, bias, hidden = self.dim, config.mlp_bias, int(self.dim * config.mlp_ratio)
        if config.activation in ("gelu", "silu"):
            up = self._linear(f"{name}.fc1", hidden, dim, bias)
            return _under(f"{name}.up", up) | _under(f"{name}.down", self._linear(f"{name}.fc2", dim, hidden, bias))
        hidden = int(2 * hidden / 3)
        gate, up = self._linear(f"{name}.fc1", hidden, dim, bias), self._linear(f"{name}.fc3", hidden, dim, bias)
        both = {p: None if gate[p] is None or up[p] is None else torch.cat([gate[p], up[p]]) for p in gate}
        return _under(f"{name}.gate_up", both) | _under(f"{name}.down", self._linear(f"{name}.fc2", dim, hidden, bias))

    # ---- the embeddings
    def _embedding(self, theirs: str) -> dict[str, Any]:
        """The tensors of one modality, by their role here; positions and modality embeddings of encoder and decoder."""
        sides = [side for side, names in (("encoder", self.inputs), ("decoder", self.targets)) if theirs in names]

        def take(side: str, part: str, *shape: int | None) -> Tensor | None:
            return self._take(f"{side}_embeddings.{theirs}.{part}", *shape) if side in sides else None

        start = f"encoder_embeddings.{theirs}"
        stored = {name for name in self.tensors if name.startswith((f"{start}.", f"decoder_embeddings.{theirs}."))}
        parts: dict[str, Any] = {
            "modalities": [take(side, "mod_emb", 1, 1, self.dim) for side in sides],
            "positions": {side: take(side, "pos_emb", 1, None, self.dim) for side in sides},
        }
        if f"{start}.proj.weight" in stored:
            return parts | {"patches": take("encoder", "proj.weight", self.dim, None)}
        if any(name.startswith(f"{start}.emb_proj.") for name in stored):
            bottleneck = any(name.startswith((f"{start}.emb_proj.0.", f"{start}.emb_proj.1.")) for name in stored)
            layers = {"emb_proj.0": None, "emb_proj.1": self.dim} if bottleneck else {"emb_proj": self.dim}
            both = [
                (take("encoder", f"{layer}.weight", size, None), take("encoder", f"{layer}.bias", size))
                for layer, size in layers.items()
            ]
            return parts | {"vectors": both}
        return parts | {
            "input": take("encoder", "token_emb.weight", None, self.dim),
            "query": take("decoder", "token_emb.weight", None, self.dim),
            "output": take("decoder", "to_logits.weight", None, self.dim),
        }

    def _described(self, theirs: str, found: dict[str, Any]) -> tuple[ModalitySpec, dict[str, Tensor | None]]:
        """The specification of one modality, and its tables."""
        parts: dict[str, Tensor | None] = dict.fromkeys(("input", "output", "query"))
        parts["modality"], *other = (m.flatten() for m in found["modalities"])
        if any(not torch.equal(m, parts["modality"]) for m in other):
            raise Open4MError(f"{self.path}: {theirs}: expected one mod_emb, shared by encoder and decoder")
        positions = [table[0] for table in found["positions"].values()]
        rounding = [self.stored.rounding[f"{side}_embeddings.{theirs}.pos_emb"] for side in found["positions"]]
        count = len(positions[0])
        side = math.isqrt(count)
        looks = {_positions_of(table, most) for table, most in zip(positions, rounding, strict=True)}
        if any(len(table) != count for table in positions):
            raise Open4MError(f"{self.path}: {theirs}: encoder and decoder have different numbers of positions")
        learned = looks not in ({"grid"}, {"sequence"})
        if learned:
            parts["encoder_positions"], parts["decoder_positions"] = positions[0], positions[-1]
        spec: dict[str, Any] = {"learned_positions": learned}
        if "patches" in found:
            patch = self.settings["patch_size"]
            channels, rest = divmod(found["patches"].shape[1], patch**2)
            if rest or side * side != count:
                raise Open4MError(
                    f"{self.path}: {theirs}: expected a square of patches of {patch}×{patch} pixels, got {count} of "
                    f"{found['patches'].shape[1]} values"
                )
            spec |= {"family": PixelGrid.family.name, "grid": (side, side), "patch_size": patch, "channels": channels}
            by_pixel = found["patches"].view(self.dim, patch, patch, channels)
            parts["projection"] = by_pixel.permute(0, 3, 1, 2).flatten(1)  # our patches have channels first
        elif "vectors" in found:
            parts["projection"], parts["bias"] = self._projection(theirs, found["vectors"])
            channels = parts["projection"].shape[1]
            spec |= {"family": VectorSequence.family.name, "channels": channels, "max_length": count}
        else:
            parts |= {"input": found["input"], "output": found["output"]}
            if looks == {"grid"} or (learned and theirs.startswith("tok_") and side * side == count):
                spec |= {"family": TokenGrid.family.name, "grid": (side, side)}
                query = f"decoder_embeddings.{theirs}.token_emb.weight"
                if theirs in self.targets and query not in {*self.repeated, *self.repeated.values()}:
                    self.unused.append(query)  # a grid's queries are the mask token, not embeddings of ids
            else:
                parts["query"] = found["query"]
                spec |= {"family": TokenSequence.family.name, "max_length": min(count, TEXT_LENGTH)}
                spec["target_positions"] = 0 if learned else TARGET_POSITIONS.get(theirs, 0)
            sizes = {len(parts[p]) for p in ("input", "output", "query") if parts[p] is not None}
            if len(sizes) != 1:
                raise Open4MError(f"{self.path}: {theirs}: expected tables of one size, got {sorted(sizes)}")
            spec["vocab_size"] = sizes.pop()
        if "max_length" in spec:
            spec["max_length"] = count - 1 if learned else min(count, LENGTHS.get(theirs, spec["max_length"]))
        spec |= {"is_input": theirs in self.inputs, "is_target": theirs in self.targets}
        return ModalitySpec(key=self.names[theirs], **spec), parts

    def _projection(self, theirs: str, layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the projection of vectors; two layers without an activation between them are merged."""
        (first, shift), *others = ((w.double(), b.double()) for w, b in layers)
        for second, bias in others:
            if not second.shape[1] == len(first) == len(shift):
                raise Open4MError(f"{self.path}: {theirs}: the two layers of its emb_proj do not fit together")
            first, shift = second @ first, second @ shift + bias
        return first.float(), shift.float()

    def _embeddings(self, config: FourMConfig, tables: dict[str, dict[str, Tensor | None]]) -> dict[str, Tensor]:
        none = torch.zeros(0, self.dim)

        def joined(part: str) -> Tensor:
            return torch.cat([none, *(t[part] for t in tables.values() if t.get(part) is not None)])

        found = {
            "inputs.weight": joined("input") if len(joined("input")) else torch.zeros(1, self.dim),
            "outputs.weight": joined("output"),
            "modality.weight": torch.stack([t["modality"] for t in tables.values()]),
        }
        if not config.tied:
            found["queries.weight"] = joined("query")
        for spec in config.modalities:
            table, name = tables[spec.key], module_name(spec.key)
            if spec.content == "pixels":
                found[f"patches.{name}.weight"] = table["projection"]
            elif spec.content == "vectors":
                found[f"vectors.{name}.weight"], found[f"vectors.{name}.bias"] = table["projection"], table["bias"]
        if any(spec.learned_positions for spec in config.modalities):
            for side in ("encoder", "decoder"):
                found[f"learned_positions.{side}"] = joined(f"{side}_positions")
        return found


def _is_possible(name: str, value: Any) -> bool:
    """Whether the value of a setting has its type, and a number is in the range of a size."""
    if name in ("domains_in", "domains_out"):
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(v, str) for v in value)
    if name in (*WITHOUT_EFFECT, "image_size", "format"):
        return True
    kind = type(DEFAULTS.get(name, 1))
    if type(value) is not kind and not (kind is float and type(value) is int):
        return False
    return kind not in (int, float) or 0 < value < 2**31 or (name == "num_register_tokens" and value == 0)


def _positions_of(table: Tensor, rounding: float) -> str | None:
    """``"grid"`` or ``"sequence"`` if a table (n, D) of positions is their fixed one; None if it was learned."""
    count, dim = table.shape
    side = math.isqrt(count)
    if side * side == count and torch.allclose(table, sincos_2d(side, side, dim), rtol=0, atol=rounding):
        return "grid"
    return "sequence" if torch.allclose(table, sincos_1d(torch.arange(count), dim), rtol=0, atol=rounding) else None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
