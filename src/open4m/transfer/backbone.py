"""The encoder of a 4M as a Vision Transformer (paper 2.2, 3, D): what reads RGB pixels, or any modality that the model
was trained to read, or several at once, at any size of image.

The decoder is left out. Inputs are whole: nothing is masked. Positions of other sizes than that of pre-training are
those of the trained grid, interpolated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m import modalities
from open4m.datasets.labelled.base import PICTURE
from open4m.model.config import Architecture, ModalitySpec
from open4m.model.embeddings import module_name
from open4m.model.fourm import FourMTransformer
from open4m.model.patches import make_patches
from open4m.nn.attention import FusedLinear, over
from open4m.nn.blocks import EncoderBlock, drop_path, norm
from open4m.nn.positions import sincos_1d, sincos_2d, spread
from open4m.nn.rotary import angles_2d, rotated
from open4m.ranges import Decay, Length, Size, check_ranges
from open4m.rng import Part
from open4m.transfer.encoder import Encoder
from open4m.transfer.heads.base import Features
from open4m.types import Open4MError

PADDING = -1
"""The id of what fills up a batch of sequences."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """How a pre-trained encoder is used.

    ``inputs``: the modalities that it reads, by the names under which they are given: ``rgb`` is read as pixels where
    the model reads those, ``rgb@tokens`` as tokens. ``image_size``: H = W of the square that it sees, in pixels; None:
    that of pre-training. ``drop_path``: stochastic depth (paper D); None: that of pre-training. ``pooling``: what
    stands for the whole image, the mean of its tokens, that of the register tokens, or the class token of Vision
    Transformers of others. ``tune``: what is trained of it: all, nothing, or low-rank adapters of all its linear
    layers, of rank ``lora_rank``."""

    inputs: tuple[str, ...] = (PICTURE,)
    image_size: Size | None = None
    drop_path: Decay | None = None
    pooling: Literal["tokens", "registers", "class"] = "tokens"
    tune: Literal["all", "nothing", "lora"] = "all"
    lora_rank: Length = 8

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.inputs:
            raise Open4MError("backbone.inputs: name at least one modality, such as rgb")
        if twice := [name for name in self.inputs if self.inputs.count(name) > 1]:
            raise Open4MError(f"backbone.inputs: {twice[0]} is named twice")
        if self.tune == "lora" and not self.lora_rank:
            raise Open4MError("backbone.lora_rank: expected 1 at least with tune=lora, got 0")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """What an encoder is: saved with a transfer, so that it needs no pre-trained model to be read.

    ``inputs``: the modalities that it reads. ``finest``: cells along a side of the finest grid of the whole model, by
    which rotary positions are scaled; 0 without them. ``image_size``: the size that the inputs' grids belong to.
    """

    architecture: Architecture
    inputs: tuple[ModalitySpec, ...]
    finest: Length = 0
    image_size: Size = 224

    def __post_init__(self) -> None:
        check_ranges(self)
        keys = [spec.key for spec in self.inputs]
        if not keys or len(set(keys)) < len(keys):
            raise Open4MError(f"inputs: expected modalities, each once, got {', '.join(keys) or 'none'}")
        for spec in self.inputs:
            if spec.has_places and not (spec.grid and 0 < spec.grid[0] <= self.image_size):
                raise Open4MError(
                    f"image_size: {self.image_size} pixels do not have the grid {spec.grid} of {spec.key}"
                )
            if spec.content == "pixels" and not modalities.is_known(spec.key):
                raise Open4MError(f"inputs: unknown modality {spec.key!r}")

    def backbone(self, pooling: str) -> Backbone:
        """The encoder without its weights."""
        return Backbone(self, pooling)

    def dropping(self, rate: float) -> EncoderConfig:
        """The same with another rate of stochastic depth."""
        return dataclasses.replace(self, architecture=dataclasses.replace(self.architecture, drop_path=rate))


class Backbone(Encoder):
    """Reads contents by the key of their modality: pixels (B, C, H, W), uint8 or normalized; ids (B, h, w) of a grid;
    ids (B, L) of a sequence, filled up with −1; vectors (B, L, C).

    ``width``: of its features. ``patch``: pixels of the image per place of its map.
    """

    def __init__(self, config: EncoderConfig, pooling: str = "tokens"):
        super().__init__()
        self.config, self.pooling = config, pooling
        model, self.specs = config.architecture, {spec.key: spec for spec in config.inputs}
        self.width, self.heads = model.dim, model.heads
        first = next((s for s in config.inputs if s.has_places), None)
        self.patch = 0 if first is None else config.image_size // first.grid[0]
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made; the caller sees none of it
            names = {spec.key: module_name(spec.key) for spec in config.inputs}
            self.patches = nn.ModuleDict(
                {names[s.key]: make_patches(s, model) for s in config.inputs if s.content == "pixels"}
            )
            self.patch_norms = nn.ModuleDict({key: norm(model) for key in self.patches if model.patch_norm})
            self.vectors = nn.ModuleDict(
                {names[s.key]: nn.Linear(s.channels, model.dim) for s in config.inputs if s.content == "vectors"}
            )
            self.tables = nn.ModuleDict(
                {names[s.key]: nn.Embedding(s.vocab_size, model.dim) for s in config.inputs if s.has_vocabulary}
            )
            learned = [s for s in config.inputs if s.learned_positions]
            self.positions = nn.ParameterDict(
                {names[s.key]: nn.Parameter(torch.zeros(s.positions, model.dim)) for s in learned}
            )
            self.modality = nn.Parameter(torch.zeros(len(config.inputs), model.dim))
            self.registers = (
                nn.Parameter(torch.zeros(model.register_tokens, model.dim)) if model.register_tokens else None
            )
            self.encoder = nn.ModuleList([EncoderBlock(model) for _ in range(model.encoder_depth)])
            self.encoder_norm = norm(model)
        if pooling == "class":
            raise Open4MError("backbone.pooling: a 4M has no class token; pool tokens or registers")
        if pooling == "registers" and self.registers is None:
            raise Open4MError("backbone.pooling: the model has no register tokens; pool tokens")
        for spec in config.inputs:
            if spec.content == "pixels":
                known = modalities.get(spec.key)
                self.register_buffer(f"scale_{names[spec.key]}", torch.tensor([known.mean, known.std]), False)

    # ---- from a pre-trained model
    @classmethod
    def of(cls, model: FourMTransformer, config: BackboneConfig, image_size: int) -> Backbone:
        """The encoder of a trained model, whose grids are of images of ``image_size`` pixels, with copies of its
        weights. Raises :class:`Open4MError` for what the model cannot read, and for a size that is no multiple of its
        patches."""
        keys = [model.config.read_as(name) for name in config.inputs]
        for name, key in zip(config.inputs, keys, strict=True):
            if key not in model.config.inputs:
                allowed = dict.fromkeys([*model.config.inputs, *model.config.readers])
                raise Open4MError(f"backbone.inputs: the model does not read {name} (it reads {', '.join(allowed)})")
        specs = tuple(model.config.spec(key) for key in keys)
        own = {f.name: getattr(model.config, f.name) for f in dataclasses.fields(Architecture)}
        if config.drop_path is not None:
            own["drop_path"] = config.drop_path
        encoder = EncoderConfig(
            architecture=Architecture(**own),
            inputs=specs,
            finest=model.config.finest_grid if model.config.rotary else 0,
            image_size=image_size,
        )
        backbone = cls(encoder, config.pooling)
        backbone.check_size(config.image_size or image_size)
        backbone.copy_from(model)
        return backbone

    @torch.no_grad()
    def copy_from(self, model: FourMTransformer) -> None:
        """Take the weights of a model that reads all inputs."""
        for mine, theirs in ((self.encoder, model.encoder), (self.encoder_norm, model.encoder_norm)):
            mine.load_state_dict(theirs.state_dict())
        embeddings = model.embeddings
        if self.registers is not None:
            self.registers.copy_(embeddings.registers)
        for place, key in enumerate(self.specs):
            name, weights = module_name(key), embeddings.of(key)
            self.modality[place] = weights["modality"]
            if name in self.tables:
                self.tables[name].weight.copy_(weights["inputs"])
            if name in self.positions:
                self.positions[name].copy_(weights["encoder positions"])
            for own, others in (
                (self.patches, embeddings.patches),
                (self.patch_norms, embeddings.patch_norms),
                (self.vectors, embeddings.vectors),
            ):
                if name in own:
                    own[name].load_state_dict(others[name].state_dict())

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw new weights, as a pre-training from scratch begins with; the whitening of patches is kept."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                for weight in module.weight.chunk(module.parts if isinstance(module, FusedLinear) else 1):
                    nn.init.xavier_uniform_(weight, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        drawn = [*(table.weight for table in self.tables.values()), *self.positions.values(), self.modality]
        for weight in [*drawn, *([] if self.registers is None else [self.registers])]:
            nn.init.normal_(weight, std=0.5, generator=generator)

    # ---- the forward pass
    def check_size(self, image_size: int) -> None:
        """Raise :class:`Open4MError` unless images of this size have whole patches."""
        for spec in self.config.inputs:
            if spec.has_places and image_size * spec.grid[0] % self.config.image_size:
                cell = self.config.image_size // spec.grid[0]
                raise Open4MError(
                    f"backbone.image_size: expected a multiple of {spec.key}'s {cell} pixels, got {image_size}"
                )

    def forward(self, inputs: Mapping[str, Tensor], generator: torch.Generator | Part | None = None) -> Features:
        """``generator`` draws what stochastic depth drops; without one, or of a frozen encoder, nothing is dropped."""
        parts = [self._embedded(place, key, inputs[key]) for place, key in enumerate(self.specs)]
        x = torch.cat([tokens for tokens, _, _ in parts], 1)
        valid = torch.cat([shown for _, shown, _ in parts], 1)
        turns = torch.cat([turn for _, _, turn in parts]) if self.config.finest else None
        count = 0 if self.registers is None else len(self.registers)
        if count:
            x = torch.cat([self.registers.to(x.dtype).expand(len(x), -1, -1), x], 1)
            valid = F.pad(valid, (count, 0), value=True)
            turns = turns if turns is None else F.pad(turns, (0, 0, count, 0))
        turn = turns if turns is None else turns.expand(len(x), -1, -1)
        attend = rotated(over(valid), turn, turn)
        rate, depth = self.config.architecture.drop_path, len(self.encoder)
        drops = generator is not None and rate > 0 and any(w.requires_grad for w in self.encoder.parameters())
        kept = drop_path(rate, depth, 2, len(x), generator, x.device) if drops else [None] * depth
        for block, keep in zip(self.encoder, kept, strict=True):
            x = block(x, attend, keep)
        x = self.encoder_norm(x)
        tokens, shown = x[:, count:], valid[:, count:, None].to(x.dtype)
        registers = self.pooling == "registers"
        pooled = x[:, :count].mean(1) if registers else (tokens * shown).sum(1) / shown.sum(1).clamp(min=1)
        return Features(map=self._map(tokens, inputs), tokens=tokens, pooled=pooled)

    def _embedded(self, place: int, key: str, content: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D) of one input; which are real, bool (B, N); the angles (N, D/heads/2) of their places."""
        spec, name = self.specs[key], module_name(key)
        valid = None
        if spec.content == "pixels":
            h, w = (side // spec.patch_size for side in content.shape[2:])
            rows = torch.arange(len(content), device=content.device).repeat_interleave(h * w)
            places = torch.arange(h * w, device=content.device).repeat(len(content))
            x = self.patches[name](content, rows, places, getattr(self, f"scale_{name}")).unflatten(0, (-1, h * w))
            x = self.patch_norms[name](x) if name in self.patch_norms else x
        elif spec.content == "vectors":
            x, (h, w) = self.vectors[name](content), (1, content.shape[1])
        else:
            h, w = content.shape[1:] if content.ndim == 3 else (1, content.shape[1])
            ids = content.flatten(1)
            valid = ids >= 0
            x = self.tables[name](ids.clamp(min=0))
        if valid is None:
            valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        where = self._positions(spec, h, w).to(x.device, x.dtype) + self.modality[place]
        return x + where, valid, self._angles(spec, h, w).to(x.device)

    def _positions(self, spec: ModalitySpec, h: int, w: int) -> Tensor:
        """Positions (h·w, D) of a grid of any size, interpolated from those of pre-training; of a sequence, (w, D)."""
        name, config = module_name(spec.key), self.config.architecture
        if spec.is_sequence:
            learned = self.positions[name][:w] if name in self.positions else None
            return sincos_1d(torch.arange(w), self.width) if learned is None else learned
        if name in self.positions:
            table = self.positions[name]
        else:
            table = sincos_2d(*spec.grid, self.width, temperature=config.position_temperature)
            table = table if config.position_deviation is None else spread(table, config.position_deviation)
        if (h, w) == spec.grid:
            return table
        grid = table.T.reshape(1, self.width, *spec.grid)
        return F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False).flatten(2)[0].T

    def _angles(self, spec: ModalitySpec, h: int, w: int) -> Tensor:
        """The angles of rotary attention, 0 for what has no place in the image."""
        half = self.width // self.heads // 2
        if not self.config.finest or not spec.has_places:
            return torch.zeros(h * w, half)
        return angles_2d(h, w, half, self.config.finest)

    def _map(self, tokens: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """The mean of the maps (B, D, h, w) of all inputs that lie on grids, on the grid of the first one."""
        maps, first = [], 0
        for key, spec in self.specs.items():
            content = inputs[key]
            size = [side // spec.patch_size for side in content.shape[2:]] if spec.content == "pixels" else None
            size = size or (list(content.shape[1:]) if content.ndim == 3 and spec.has_vocabulary else None)
            length = math.prod(size) if size else content.shape[1]
            if size and spec.has_places:
                maps.append(tokens[:, first : first + length].mT.unflatten(2, size))
            first += length
        if not maps:
            return tokens.new_zeros(len(tokens), self.width, 0, 0)
        size = maps[0].shape[2:]
        alike = [m if m.shape[2:] == size else F.interpolate(m, size=size, mode="bilinear") for m in maps]
        return torch.stack(alike).mean(0) if len(alike) > 1 else alike[0]
