"""The canvas: all that is known of a batch of samples, and what the encoder is shown of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from open4m.model.config import FourMConfig


@dataclass
class Record:
    """How sure the model was of each generated token: (B, L) float32, NaN where nothing was generated.

    ``log_probability`` of the token and, if asked for, ``entropy`` in nats are those of the model's distribution with
    guidance, before temperature, top-k and top-p.
    """

    log_probability: Tensor
    entropy: Tensor | None = None

    @staticmethod
    def of(shape: tuple[int, ...], entropies: bool) -> Record:
        """The record of a canvas on which nothing is generated yet."""
        return Record(*(torch.full(shape, torch.nan) for _ in range(1 + entropies)))

    def put(self, where: Tensor | tuple[Tensor, int], log_probability: Tensor, entropy: Tensor | None) -> None:
        """Set values where ``where`` (B, L) is True, listed row by row; or at (rows, place)."""
        self.log_probability[where] = log_probability.cpu()
        if self.entropy is not None:
            self.entropy[where] = entropy.cpu()

    def move(self, row: int, places: Sequence[int | None]) -> None:
        """Put the values of a row at these places where the places are in the list; None: nothing was generated."""
        new = [place for place, old in enumerate(places) if old is not None]
        for values in filter(torch.is_tensor, (self.log_probability, self.entropy)):
            moved = values[row, [old for old in places if old is not None]]
            values[row] = torch.nan
            values[row, new] = moved

    def forget(self, row: int, place: int) -> None:
        """Set the record of a place and of all after it to NaN."""
        for values in filter(torch.is_tensor, (self.log_probability, self.entropy)):
            values[row, place:] = torch.nan


@dataclass
class Canvas:
    """Known tokens by modality key. Generation fills it in; in-painting starts with a part of a grid.

    ``grids``: ids (B, L) int64. ``pixels``: (B, C, H, W). ``known``: for both, which cells are known, (B, L) bool.
    ``sequences``: one list of token ids per sample, or None where a sample has no such sequence.
    ``vectors``: one tensor (L, C) per sample, or None.
    ``records``: one per generated modality.
    """

    config: FourMConfig
    size: int
    grids: dict[str, Tensor] = field(default_factory=dict)
    sequences: dict[str, list[list[int] | None]] = field(default_factory=dict)
    pixels: dict[str, Tensor] = field(default_factory=dict)
    vectors: dict[str, list[Tensor | None]] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)

    def start(self, key: str) -> None:
        """Make room for a modality."""
        spec = self.config.spec(key)
        if spec.is_causal:
            self.sequences.setdefault(key, [None] * self.size)
        elif spec.content == "vectors":
            self.vectors.setdefault(key, [None] * self.size)
        elif spec.content == "pixels" and key not in self.pixels:
            sides = (side * spec.patch_size for side in spec.grid)
            self.pixels[key] = torch.zeros(self.size, spec.channels, *sides)
            self.known[key] = torch.zeros(self.size, spec.length, dtype=torch.bool)
        elif spec.has_codebook and key not in self.grids:
            self.grids[key] = torch.zeros(self.size, spec.length, dtype=torch.int64)
            self.known[key] = torch.zeros(self.size, spec.length, dtype=torch.bool)

    def put(self, key: str, row: int, content: Tensor | list[int]) -> None:
        """Set all that a sample shows of a modality, for which there is room."""
        self._contents(key)[row] = content

    def _contents(self, key: str) -> Any:
        """Where the contents of a modality are."""
        spec = self.config.spec(key)
        if spec.has_vocabulary:
            return (self.sequences if spec.is_sequence else self.grids)[key]
        return (self.vectors if spec.is_sequence else self.pixels)[key]

    @property
    def present(self) -> list[str]:
        """The modalities of which something may be known."""
        return [*self.grids, *self.sequences, *self.pixels, *self.vectors]

    def select(self, keys: Collection[str]) -> Canvas:
        """A canvas of some modalities, tensors shared."""
        parts = (self.grids, self.sequences, self.pixels, self.vectors, self.known)
        return Canvas(self.config, self.size, *({k: v for k, v in part.items() if k in keys} for part in parts))

    def with_(self, other: Canvas) -> Canvas:
        """A canvas of all that both know, tensors shared; where both know a modality, ``other`` counts."""
        return Canvas(
            self.config,
            self.size,
            self.grids | other.grids,
            self.sequences | other.sequences,
            self.pixels | other.pixels,
            self.vectors | other.vectors,
            self.known | other.known,
        )

    def visible(self, device: torch.device) -> dict[str, Tensor | dict[str, Tensor]]:
        """The input fields of a :class:`MaskedBatch` that shows all that is known."""
        ids, kinds, places, valid = [], [], [], []
        for index, spec in enumerate(self.config.modalities):
            key = spec.key
            if key not in self.present or not spec.is_input:
                continue
            if spec.is_sequence:
                if spec.is_causal:
                    rows = [row or [] for row in self.sequences[key]]
                else:  # the ids of vectors count from 1
                    rows = [[] if v is None else list(range(1, len(v) + 1)) for v in self.vectors[key]]
                width = max(map(len, rows))
                token = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int64)
                position = torch.arange(width).expand(self.size, -1)
                real = position < torch.tensor([len(row) for row in rows])[:, None]
            else:
                known = self.known[key]
                width = int(known.sum(1).max())
                position = (~known).int().argsort(dim=1, stable=True)[:, :width]  # known cells first, in raster order
                real = known.gather(1, position)
                token = self.grids[key].gather(1, position) if spec.has_codebook else torch.zeros_like(position)
            ids.append(token.reshape(self.size, width))
            kinds.append(torch.full((self.size, width), index))
            places.append(position)
            valid.append(real.reshape(self.size, width))
        if not ids or sum(t.shape[1] for t in ids) == 0:  # nothing is visible: one padded token
            ids, kinds, places = ([torch.zeros(self.size, 1, dtype=torch.int64)] for _ in range(3))
            valid = [torch.zeros(self.size, 1, dtype=torch.bool)]
        fields = {"id": ids, "modality": kinds, "position": places, "valid": valid}
        return {
            **{f"input_{name}": torch.cat(parts, 1).to(device) for name, parts in fields.items()},
            "pixels": {key: value.to(device) for key, value in self.pixels.items()},
            "vectors": {key: self._padded(key).to(device) for key in self.vectors},
        }

    def _padded(self, key: str) -> Tensor:
        """The vectors of a modality (B, L, C), zeros after the end of each."""
        none = torch.zeros(0, self.config.spec(key).channels)
        return pad_sequence([none if v is None else v for v in self.vectors[key]], batch_first=True)
