"""What generation gives: results, and how far they are while they grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from open4m import modalities
from open4m.fourm import FourMBase
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Pass
from open4m.generate.masks import Masked, softened, square_pixels, touched, unknown_pixels
from open4m.generate.plan import Step
from open4m.modalities.crops import Crop
from open4m.modalities.frames import Frame, positioned
from open4m.types import Value


@dataclass
class Generation:
    """What was generated for one sample: ``values`` and ``tokens`` by modality, the ``plan`` and the ``seed``.

    ``log_probability``: of each token (NaN: it was given, or an end that was put in), in the model's own distribution,
    guidance included, and the ``entropy`` of that in nats, if asked for; (h, w) of a grid, (length,) of a sequence, by
    modality. ``given`` and ``conditions`` are what it was made from, as :meth:`FourM.generate` took it, checked: the
    same model makes the same tokens of them again (:mod:`open4m.generate.record`).

    ``frame``: the photo that the sample shows and how, None if no image or map was given. Maps are what the model's
    square shows of it, or have its resolution after :meth:`resized`. Boxes are fractions of the whole photo. ``kept``:
    targets that were given in part, what is kept of which is pasted onto the result.
    """

    values: dict[str, Value]
    tokens: dict[str, np.ndarray]
    plan: list[Step] = field(default_factory=list)
    seed: int = 0
    log_probability: dict[str, np.ndarray] = field(default_factory=dict)
    entropy: dict[str, np.ndarray] = field(default_factory=dict)
    given: dict[str, Value | Masked] = field(default_factory=dict)
    conditions: dict[str, dict[str, Value | Masked]] = field(default_factory=dict)
    frame: Frame | None = None
    kept: dict[str, Masked] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Value:
        if key not in self.values:
            raise modalities.unknown(key, list(self.values))
        return self.values[key]

    def seen(self, key: str) -> Value:
        """A generated value with its positions relative to the square that the model saw, as pictures show it."""
        return positioned({key: self[key]}, {key: modalities.get(key)}, self.frame)[key]

    def render(self, key: str, size: int = 256) -> Image.Image:
        """A picture of a generated value, as the model's square shows it."""
        return modalities.get(key).render(self.seen(key), size)

    def pasted(self) -> Generation:
        """The same result with the kept parts of ``kept`` themselves, where it has their reconstructions.

        The edge is soft: within the mask, what was there fades into what was generated. Classes do not mix.
        """
        return replace(self, values={**self.values, **{key: self._pasted(key) for key in self.kept}})

    def _pasted(self, key: str) -> Value:
        modality, made, part = modalities.get(key), self.values[key], self.kept[key]
        kept = modality.fit(part.value, len(made), self.frame.fit)
        grid, extent = self.log_probability[key].shape, modality.extent(part.value)
        unknown = square_pixels(part.mask, extent, grid, len(made), self.frame.fit)
        return modality.blend(kept, made, softened(unknown))

    def resized(self) -> Generation:
        """The same result with its maps at the resolution of the photo.

        Where the model saw the whole photo, a map is as high and wide as it. Where it saw the central square, a map is
        that square; but a target of ``kept`` comes back whole, and only what was masked of it differs. Feature maps
        keep their cells. Without a frame, everything stays as it is.
        """
        if self.frame is None:
            return self
        return replace(self, values={key: self._resized(key, value) for key, value in self.values.items()})

    def _resized(self, key: str, value: Value) -> Value:
        modality, frame, part = modalities.get(key), self.frame, self.kept.get(key)
        if modality.extent(value) is None or modality.feature_map:
            return value
        restored = frame.restored(modality, value)
        if part is None or not frame.shows(extent := modality.extent(part.value)):
            return restored
        size = Crop(size=(frame.height, frame.width))
        kept = modality.crop(part.value, size)
        made, unknown = kept.astype(np.result_type(kept, restored)), np.zeros(size.size, dtype=bool)
        masked = unknown_pixels(part.mask, extent, self.log_probability[key].shape, key, frame.fit)
        made[frame.seen], unknown[frame.seen] = restored, touched(masked, size)[frame.seen]
        return modality.blend(kept, made, softened(unknown))


@dataclass(frozen=True)
class Shown:
    """What a call of ``generate`` was given: checked values, frame by frame, and whether kept parts are pasted."""

    given: list[dict[str, Any]]
    frames: list[Frame | None]
    conditions: dict[str, dict[str, Any]]
    paste: bool = True


@dataclass(frozen=True)
class Snapshot:
    """What is there after a forward pass: ``made`` says which."""

    model: FourMBase
    canvas: Canvas
    plan: list[Step]
    seeds: list[int]
    shown: Shown
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
                values={key: self._framed(key, of_key[i], row) for key, of_key in values.items()},
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
                given=self.shown.given[row],
                conditions=self.shown.conditions,
                frame=self.shown.frames[row],
                kept=self._kept(row, values),
            ).pasted()
            for i, row in enumerate(rows)
        ]

    def _framed(self, key: str, value: Value, row: int) -> Value:
        """A value with its positions as fractions of the photo."""
        frame = self.shown.frames[row]
        return value if frame is None or key in self.model.grids else frame.placed(self.model.modalities[key], value)

    def _kept(self, row: int, values: Mapping[str, Any]) -> dict[str, Masked]:
        """The targets that are given in part and pasted; those whose tokenizer decodes other units are not."""
        parts = {key: given for key, given in self.shown.given[row].items() if isinstance(given, Masked)}
        own = {key: self.model.grids[key].config for key in parts if key in values}
        return {key: parts[key] for key, config in own.items() if self.shown.paste and not config.standardize}

    def _laid_out(self, key: str, record: torch.Tensor, tokens: np.ndarray) -> np.ndarray:
        """A record (L,) as the tokens lie: (h, w), or (length,)."""
        spec = self.model.config.spec(key)
        values = record.numpy().copy()
        return values[: len(tokens)] if spec.is_causal else values.reshape(spec.grid)
