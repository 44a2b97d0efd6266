"""What generation gives: results, and how far they are while they grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.fourm import FourMBase
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Pass
from open4m.generate.masks import Masked
from open4m.generate.plan import Step
from open4m.types import Value


@dataclass
class Generation:
    """What was generated for one sample: ``values`` and ``tokens`` by modality, the ``plan`` and the ``seed``.

    ``log_probability``: of each token (NaN: it was given, or an end that was put in), in the model's own distribution,
    guidance included, and the ``entropy`` of that in nats, if asked for; (h, w) of a grid, (length,) of a sequence, by
    modality. ``given`` and ``conditions`` are what it was made from, as :meth:`FourM.generate` took it, checked: the
    same model makes the same tokens of them again (:mod:`open4m.generate.record`).
    """

    values: dict[str, Value]
    tokens: dict[str, np.ndarray]
    plan: list[Step] = field(default_factory=list)
    seed: int = 0
    log_probability: dict[str, np.ndarray] = field(default_factory=dict)
    entropy: dict[str, np.ndarray] = field(default_factory=dict)
    given: dict[str, Value | Masked] = field(default_factory=dict)
    conditions: dict[str, dict[str, Value | Masked]] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Value:
        if key not in self.values:
            raise modalities.unknown(key, list(self.values))
        return self.values[key]

    def render(self, key: str, size: int = 256) -> Image.Image:
        """A picture of a generated value."""
        return modalities.get(key).render(self[key], size)


@dataclass(frozen=True)
class Snapshot:
    """What is there after a forward pass: ``made`` says which."""

    model: FourMBase
    canvas: Canvas
    plan: list[Step]
    seeds: list[int]
    given: list[dict[str, Any]]
    conditions: dict[str, dict[str, Any]]
    made: Pass

    def results(self) -> list[Generation]:
        """What is generated of every sample so far. Unknown cells of a grid are drawn as token 0."""
        return self._of(range(self.canvas.size))

    def result(self, row: int) -> Generation:
        """What is generated of one sample so far."""
        return self._of([row])[0]

    def _of(self, rows: Sequence[int]) -> list[Generation]:
        model, canvas = self.model, self.canvas
        tokens: dict[str, list[np.ndarray]] = {}
        values: dict[str, list[Value]] = {}
        for key in (step.target for step in self.plan if step.target in canvas.present):
            if model.config.spec(key).is_causal:
                tokens[key] = [np.array(canvas.sequences[key][row] or [], dtype=np.int64) for row in rows]
                values[key] = [model.decode(key, ids) for ids in tokens[key]]
            else:
                ids = canvas.grids[key].numpy()[list(rows)]
                tokens[key], values[key] = list(ids), model.grids[key].decode_batch(ids)
        return [
            Generation(
                values={key: of_key[i] for key, of_key in values.items()},
                tokens={key: of_key[i] for key, of_key in tokens.items()},
                plan=self.plan,
                seed=self.seeds[row],
                log_probability={
                    key: self._laid_out(key, r.log_probability[row], tokens[key][i])
                    for key, r in canvas.records.items()
                },
                entropy={
                    key: self._laid_out(key, r.entropy[row], tokens[key][i])
                    for key, r in canvas.records.items()
                    if r.entropy is not None
                },
                given=self.given[row],
                conditions=self.conditions,
            )
            for i, row in enumerate(rows)
        ]

    def _laid_out(self, key: str, record: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
        """A record (L,) as the tokens lie: (h, w), or (length,)."""
        spec = self.model.config.spec(key)
        values = record.numpy().copy()
        return values[: len(tokens)] if spec.is_causal else values.reshape(spec.grid)
