"""Packed embeddings: one gather from one fused table, whatever the modality of a token (paper 2.2, C.1)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.config import FourMConfig, ModalitySpec
from open4m.model.patches import make_patches
from open4m.nn.blocks import norm
from open4m.nn.positions import CPU, sincos_1d, sincos_2d, spread
from open4m.nn.rotary import angles_2d
from open4m.nn.tied import TiedTable
from open4m.types import MaskedBatch, Open4MError

CONSTANTS = (
    "positions",
    "position_offset",
    "input_offset",
    "query_offset",
    "is_causal",
    "target_positions",
    "angles",
)
"""The buffers of :class:`Embeddings`, which follow from its configuration."""


class Embeddings(nn.Module):
    """The sum that represents a token: its content, its modality and its position.

    ``inputs``: the encoder's table: the rows of all tokenized input modalities, one modality after another.
    ``outputs``: the output layers of all targets, one after another. The rows of a sequence also embed the decoder's
    input: the decoder's input and output embeddings are shared (paper C.1), unless the configuration is not ``tied``:
    then ``queries`` has separate rows.
    ``modality``: one row per modality, shared by encoder and decoder.
    Positions are fixed, or learned for the modalities whose specification says so.
    """

    def __init__(self, config: FourMConfig):
        super().__init__()
        dim, specs = config.dim, config.modalities
        self.config, self.keys = config, config.keys
        readable = [m.vocab_size if m.is_input else 0 for m in specs]
        writable = [m.vocab_size if m.is_target else 0 for m in specs]
        queried = [n if config.tied or m.is_causal else 0 for m, n in zip(specs, writable, strict=True)]
        self.slices = {
            "inputs": consecutive(readable),
            "outputs": consecutive(writable),
            "queries": consecutive(queried),
        }
        self.inputs = _table(max(1, sum(readable)), dim)
        self.outputs = _table(sum(writable), dim)
        self.queries = None if config.tied else _table(max(1, sum(queried)), dim)
        self.modality = _table(len(specs), dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.registers = nn.Parameter(torch.zeros(config.register_tokens, dim)) if config.register_tokens else None
        self.projected = [(i, m) for i, m in enumerate(specs) if not m.has_vocabulary]
        pixels = [m for _, m in self.projected if m.content == "pixels"]
        self.patches = nn.ModuleDict({module_name(m.key): make_patches(m, config) for m in pixels})
        self.patch_norms = nn.ModuleDict({module_name(m.key): norm(config) for m in pixels if config.patch_norm})
        self.vectors = nn.ModuleDict(
            {module_name(m.key): nn.Linear(m.channels, dim) for _, m in self.projected if m.content == "vectors"}
        )
        learned = [m.positions if m.learned_positions else 0 for m in specs]
        self.slices["positions"] = consecutive(learned)
        self.learned_positions = nn.ParameterDict(
            {side: nn.Parameter(torch.zeros(sum(learned), dim)) for side in ("encoder", "decoder") if any(learned)}
        )
        self.limited = any(m.target_positions for m in specs)
        for name in CONSTANTS:
            self.register_buffer(name, None, persistent=False)
        if torch.get_default_device().type != "meta":  # where tables of any size would take memory
            self.reset_buffers()

    def _constants(self) -> dict[str, Tensor]:
        """The buffers, which follow from the configuration: fixed positions, and where each modality's rows begin."""
        specs, dim = self.config.modalities, self.config.dim
        fixed = [torch.zeros(0, dim, device=CPU) if m.learned_positions else _positions(m, self.config) for m in specs]
        fixed_rows = consecutive([len(table) for table in fixed])
        learned_rows, first_learned = self.slices["positions"], sum(map(len, fixed))  # they follow the fixed ones
        starts = [
            first_learned + own.start if spec.learned_positions else rows.start
            for spec, rows, own in zip(specs, fixed_rows, learned_rows, strict=True)
        ]
        constants = {
            "positions": torch.cat(fixed),
            "position_offset": torch.tensor(starts, device=CPU),
            "input_offset": _starts(self.slices["inputs"]),
            "query_offset": _starts(self.slices["queries"]),
            "is_causal": torch.tensor([m.is_causal for m in specs], device=CPU),
            "target_positions": torch.tensor([m.target_positions or m.positions for m in specs], device=CPU),
        }
        if self.config.rotary:
            constants["angles"] = _angles(self.config, [len(table) for table in fixed], learned_rows[-1].stop)
        return constants

    def reset_buffers(self) -> None:
        """Compute the buffers, which a module from the meta device does not have, nor one after ``to_empty``."""
        like = self.modality.weight
        types = {"positions": like.dtype, "angles": torch.promote_types(like.dtype, torch.float32)}
        for name, table in self._constants().items():
            setattr(self, name, table.to(like.device, types.get(name, table.dtype)))

    def restore_angles(self) -> None:
        """Give rotary angles their precision back, after the module was cast to 16 bits, which turn coarsely."""
        if self.config.rotary:
            self.angles = self._constants()["angles"].to(self.angles.device)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights, so that all that is added up starts at the scale of the fixed positions, whose
        standard deviation is 0.7.

        The output layer starts with logits of deviation 1, which decides for the rows that it shares.
        """
        dim = self.config.dim
        for weight, std in (
            (self.inputs.weight, 0.5),
            (self.modality.weight, 0.5),
            (self.outputs.weight, dim**-0.5),
            (self.mask_token, 0.02),
            (self.registers, 0.5),
            (None if self.queries is None else self.queries.weight, dim**-0.5),
            *((table, 0.5) for table in self.learned_positions.values()),
        ):
            if weight is not None:
                nn.init.normal_(weight, std=std, generator=generator)
        for layer in self.patches.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
        for layer in self.vectors.values():
            nn.init.xavier_uniform_(layer.weight, generator=generator)

    def where(self, modality: Tensor, position: Tensor, decoder: bool = False) -> Tensor:
        """Position plus modality embedding (B, N, D)."""
        table = self.positions
        if decoder and self.limited:
            position = position.masked_fill(position >= self.target_positions[modality], 0)
        if self.learned_positions:
            table = torch.cat([table, self.learned_positions["decoder" if decoder else "encoder"]])
        return table[position + self.position_offset[modality]] + self.modality(modality)

    def turn(self, modality: Tensor, position: Tensor) -> Tensor | None:
        """The angles (B, N, D/heads/2) by which rotary attention turns these tokens; None if it does not."""
        return self.angles[position + self.position_offset[modality]] if self.config.rotary else None

    def content(self, batch: MaskedBatch) -> Tensor:
        """The encoder's content embedding (B, N, D): a row of the table, or a projected patch or vector.

        Nothing here waits for the device: how many tokens each modality has is known on the host.
        """
        batch = batch.counted(len(self.keys))
        modality, token = batch.input_modality, batch.input_id
        for index, spec in self.projected:
            if spec.content == "vectors":
                token = token.masked_fill(modality == index, 0)  # a vector's id is no row of the table
        x = self.inputs(token + self.input_offset[modality])
        for index, spec in self.projected:
            count = batch.input_counts[index]
            dense = (batch.pixels if spec.content == "pixels" else batch.vectors).get(spec.key)
            if dense is None:
                if count:
                    raise Open4MError(f"{spec.key}: the batch shows tokens of it, but holds no {spec.family} of it")
                continue
            _check_dense(spec, dense, len(batch), batch.scales)
            chosen = ((modality == index) & batch.input_valid).flatten()
            places = chosen.logical_not().argsort(stable=True)[:count]  # of the chosen tokens, in their order
            row, name = places // modality.shape[1], module_name(spec.key)
            if spec.content == "pixels":
                scale = batch.scales.get(spec.key)
                projected = self.patches[name](dense, row, batch.input_position.flatten()[places], scale)
                if name in self.patch_norms:
                    projected = self.patch_norms[name](projected)
            else:
                layer = self.vectors[name]
                shown = F.pad(dense, (0, 0, 1, 0))[row, batch.input_id.flatten()[places]]  # id 0: a masked span, zeros
                projected = layer(shown.to(layer.weight.dtype))
            projected = projected.to(x.dtype)
            x = x.flatten(0, 1).index_copy(0, places, projected).view_as(x)
        return x

    def with_registers(self, x: Tensor, where: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, their positions plus modalities, and which are real, each with the register tokens in front."""
        if self.registers is None:
            return x, where, valid
        count = len(self.registers)
        registers = self.registers.to(x.dtype).expand(len(x), -1, -1)
        return torch.cat([registers, x], 1), F.pad(where, (0, 0, count, 0)), F.pad(valid, (count, 0), value=True)

    def tied(self) -> TiedTable | None:
        """The output layers for one forward pass that embeds queries with them; None where they do not, and where a
        gradient that does not depend on the order of threads is faster otherwise: not on a CPU."""
        weight = self.outputs.weight
        return TiedTable(weight) if self.queries is None and weight.device.type == "cpu" else None

    def query(self, token: Tensor, modality: Tensor, tied: TiedTable | None = None) -> Tensor:
        """The decoder's content embedding (B, M, D): the mask token for grids, the previous token for sequences."""
        table = self._query_table if tied is None else tied.rows
        tokens = table(token + self.query_offset[modality])
        return torch.where(self.is_causal[modality][..., None], tokens, self.mask_token.to(tokens.dtype))

    def previous(self, token: Tensor, key: str) -> Tensor:
        """:meth:`query` of the tokens (...) of one sequence: what the decoder is given of the previous tokens."""
        return self._query_table(token + self.slices["queries"][self.keys.index(key)].start)

    @property
    def _query_table(self) -> nn.Embedding:
        return self.outputs if self.queries is None else self.queries

    def output(self, key: str) -> Tensor:
        """The output layer (V, D) of a target modality."""
        return self.outputs.weight[self.slices["outputs"][self.keys.index(key)]]

    def of(self, key: str) -> dict[str, Tensor]:
        """All weights of one modality, as views, by what they are."""
        index, module = self.keys.index(key), module_name(key)
        tables = {"inputs": self.inputs.weight, "outputs": self.outputs.weight}
        if self.queries is not None:
            tables["queries"] = self.queries.weight
        found = {name: table[self.slices[name][index]] for name, table in tables.items()}
        for side, table in self.learned_positions.items():
            found[f"{side} positions"] = table[self.slices["positions"][index]]
        for name, layers in (("patch", self.patches), ("patch norm", self.patch_norms), ("vector", self.vectors)):
            if module in layers:
                found |= {f"{name} {part}": t for part, t in layers[module].state_dict(keep_vars=True).items()}
        return {**found, "modality": self.modality.weight[index]}


def _check_dense(spec: ModalitySpec, dense: Tensor, size: int, scales: Mapping[str, Tensor]) -> None:
    """Raise unless the pixels or vectors of a batch of ``size`` samples are such as the model reads."""
    if spec.content == "pixels":
        expected = (size, spec.channels, *(side * spec.patch_size for side in spec.grid))
    else:  # of any length: ids tell which are shown
        expected = (size, dense.shape[1] if dense.ndim > 1 else spec.max_length, spec.channels)
    if dense.shape != expected:
        raise Open4MError(f"{spec.key}: expected {spec.family} of shape {expected}, got {tuple(dense.shape)}")
    if dense.dtype == torch.uint8 and spec.key not in scales:
        raise Open4MError(f"{spec.key}: the batch holds uint8 pixels, but no scale that normalizes them")


def _table(rows: int, dim: int) -> nn.Embedding:
    """An embedding. On the meta device nothing is drawn for it: torch would load its compiler first, for seconds."""
    if torch.get_default_device().type == "meta":
        return nn.Embedding.from_pretrained(torch.empty(rows, dim), freeze=False)
    return nn.Embedding(rows, dim)


def _positions(spec: ModalitySpec, config: FourMConfig) -> Tensor:
    """The fixed positions of a modality (n, dim)."""
    if spec.is_sequence:
        return sincos_1d(torch.arange(spec.positions, device=CPU), config.dim)
    table = sincos_2d(*spec.grid, config.dim, temperature=config.position_temperature)
    return table if config.position_deviation is None else spread(table, config.position_deviation)


def _angles(config: FourMConfig, fixed: Sequence[int], learned: int) -> Tensor:
    """The angles of all rows of positions: 0 for what has no place in the image. ``fixed``: rows of each modality."""
    width = config.dim // config.heads // 2
    parts = [
        angles_2d(*m.grid, width, config.finest_grid) if m.has_places else torch.zeros(rows, width, device=CPU)
        for m, rows in zip(config.modalities, fixed, strict=True)
    ]
    return torch.cat([*parts, torch.zeros(learned, width, device=CPU)])


def consecutive(sizes: Sequence[int]) -> list[slice]:
    """The slices of parts of these sizes that follow one another."""
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _starts(slices: list[slice]) -> Tensor:
    """Where each part starts; 0 for an empty part, so that padding that names it reads a row that exists."""
    return torch.tensor([s.start if s.stop > s.start else 0 for s in slices], device=CPU)


def module_name(key: str) -> str:
    return key.replace("@", "_at_")  # a module's name has no dots; a key may hold an @
