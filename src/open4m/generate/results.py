"""What generation gives: results, and how far they are while they grow."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
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
from open4m.tokenizers.config import TokenizerConfig
from open4m.types import Boxes, Open4MError, Value, shown

MAX_SHOWN = 8
"""Results that are shown of several."""

MAX_DESCRIBED = 150
"""Characters of one value in a description."""


@dataclass(eq=False)
class Generation:
    """What was generated for one sample: ``values`` and ``tokens`` by modality, the ``plan`` and the ``seed``.

    ``log_probability``: of each token (NaN: it was given, or an end that was put in), in the model's own distribution,
    guidance included, and the ``entropy`` of that in nats, if asked for; (h, w) of a grid, (length,) of a sequence, by
    modality. ``given`` and ``conditions`` are what it was made from, as :meth:`FourM.generate` took it, checked: the
    same model makes the same tokens of them again (:mod:`open4m.generate.record`).

    ``frame``: the photo that the sample shows and how, None if no image or map was given. Maps are what the model's
    square shows of it, or have its resolution after :meth:`resized`. Boxes are fractions of the whole photo. ``kept``:
    targets that were given in part, what is kept of which is pasted onto the result. ``planned``: by target, the task
    whose plan of the model said how it is generated, if one did. ``samples``: the results that this one was merged of,
    and ``merge`` how; it has no tokens of its own.

    ``model``: what made it, for names and colors of classes and for :meth:`save`; set it to None to free its memory. A
    result that was pickled or copied has none.
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
    planned: dict[str, str] = field(default_factory=dict)
    samples: Results | None = field(default=None, repr=False)
    merge: str = ""
    model: FourMBase | None = field(default=None, repr=False, compare=False)

    def __getitem__(self, key: str) -> Value:
        if key not in self.values:
            raise modalities.unknown(key, list(self.values))
        return self.values[key]

    def in_form(self, key: str, form: str) -> Value:
        """A generated value in one of its modality's forms: ``result.in_form("depth", "millimeters")``.

        Raises :class:`Open4MError` for an unknown form, and for a value that the form cannot hold.
        """
        value, config = self[key], self._tokenizer(key)
        if config is not None and config.standardize:
            raise Open4MError(f"{key}: this model's tokenizer decodes no units, so there are no other forms")
        return modalities.get(key).to_form(value, form, config.palette if config else ())

    def mean_log_probability(self, key: str) -> float:
        """How likely the tokens of a target are, in nats per token; those that were given do not count."""
        found = self.log_probability[key]
        known = found[np.isfinite(found)]
        return float(known.mean()) if known.size else 0.0

    def picture(self) -> Image.Image:
        """What was given and what was generated, side by side."""
        return Results([self]).picture()

    def save(self, folder: str | Path) -> Path:
        """Write a folder like ``open4m generate`` does: see :meth:`Results.save`."""
        return Results([self]).save(folder)

    def __repr__(self) -> str:
        lines = [("seed", str(self.seed)), *((f"from {name}", described(value)) for name, value in self.given.items())]
        lines += [(key, described(value)) for key, value in self.values.items()]
        width = max(len(name) for name, _ in lines)
        return "\n".join([type(self).__name__, *(f"  {name:{width}}  {text}" for name, text in lines)])

    def _repr_png_(self) -> bytes | None:
        return Results([self])._repr_png_()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def _tokenizer(self, key: str) -> TokenizerConfig | None:
        """The configuration of a generated grid's tokenizer, if the model is known."""
        return self.model.grids[key].config if self.model is not None and key in self.model.grids else None

    def seen(self, key: str) -> Value:
        """A generated value with its positions relative to the square that the model saw, as pictures show it."""
        return positioned({key: self[key]}, {key: modalities.get(key)}, self.frame)[key]

    def render(self, key: str, size: int = 256) -> Image.Image:
        """A picture of a generated value, as the model's square shows it."""
        return modalities.get(key).render(self.seen(key), size)

    def beside(self, other: Generation) -> Generation:
        """The same result with what another model made of it."""
        joined = ("values", "tokens", "log_probability", "entropy")
        both = {name: {**getattr(self, name), **getattr(other, name)} for name in joined}
        return replace(self, plan=[*self.plan, *other.plan], **both)

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


MERGES = ("weighted", "votes")
"""Ways to merge several results: by how sure the model was of each, or by how many agree."""


def check_way(merge: str) -> None:
    """Raise :class:`Open4MError` for what is no way to merge results; an empty text is none, and allowed."""
    if not isinstance(merge, str) or merge not in ("", *MERGES):
        raise Open4MError(f"merge: expected one of {', '.join(MERGES)}, got {shown(merge)}")


class Results(list[Generation]):
    """Several results, such as those of all ``samples``: a list that notebooks show as one picture."""

    def merged(self, by: str = "weighted") -> Generation:
        """One result of several that are made from the same values: of each target the consensus.

        Boxes that several results agree on become one; their scores say how sure the model was of them (``"weighted"``)
        or how many found them, of which half must (``"votes"``). Of maps it is the median of each number or the most
        frequent class, either way; of what cannot be mixed, such as images and texts, the likeliest sample. Raises
        :class:`Open4MError` for results that have nothing in common, and for another way.
        """
        check_way(by)
        if not (self and by and self.shared):
            raise Open4MError(f"merged: expected results of the same values, and one of {', '.join(MERGES)}")
        values = {}
        for key in self[0].values:
            found = modalities.get(key).consensus([result[key] for result in self], by)
            values[key] = (
                max(self, key=lambda result: result.mean_log_probability(key))[key] if found is None else found
            )
        return replace(
            self[0], values=values, tokens={}, log_probability={}, entropy={}, kept={}, samples=self, merge=by
        )

    def picture(self) -> Image.Image:
        """All of them as one picture: what was given on the left if all have it in common, then a column for each.

        Raises :class:`Open4MError` if there is none, or if their model is not known.
        """
        from open4m.generate.drawing import Outcome, titled  # which draws what is defined here

        shared = self.shared
        given = titled(self[0].given, [*self[0].values]) if shared else []
        titles = [] if shared or len(self) == 1 else [f"{row}" for row in range(len(self))]
        return Outcome(self, given, titles).picture(self._model())

    def save(self, folder: str | Path) -> Path:
        """Write a folder like ``open4m generate`` does: values, pictures and ``result.json``; returns the folder.

        ``open4m replay`` makes the results again from ``result.json``. Results of several inputs get a folder each,
        ``1``, ``2``, ... Raises :class:`Open4MError` if the folder cannot be written, or if their model is not known.
        """
        from open4m.generate import outputs  # which writes what is defined here

        model, folder = self._model(), Path(folder)
        parts = self._parts()
        for number, part in enumerate(parts, 1):
            outputs.save(model, part, folder if len(parts) == 1 else folder / str(number))
        return folder

    def __repr__(self) -> str:
        shown = [repr(result) for result in self[:MAX_SHOWN]]
        more = [f"... and {len(self) - MAX_SHOWN} more"] if len(self) > MAX_SHOWN else []
        return "\n".join([f"{type(self).__name__}: {len(self)}", *shown, *more])

    def _repr_png_(self) -> bytes | None:
        if not self or any(result.model is None for result in self):
            return None  # the text is shown
        buffer = io.BytesIO()
        Results(self[:MAX_SHOWN]).picture().save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def shared(self) -> bool:
        """Whether all results are made from the same values."""
        return len(self._parts()) == 1

    def _parts(self) -> list[Results]:
        """Results of the same values, one after another."""
        parts: list[Results] = []
        for result in self:
            if not (parts and _same(parts[-1][0].given, result.given)):
                parts.append(Results())
            parts[-1].append(result)
        return parts

    def _model(self) -> FourMBase:
        if not self:
            raise Open4MError("no results")
        if any(result.model is None for result in self):
            raise Open4MError("a result was pickled, or its model taken away: set result.model to the one that made it")
        return self[0].model


def described(value: Value | Masked) -> str:
    """A value in one line."""
    if isinstance(value, Masked):
        return f"a part of {described(value.value)}"
    if isinstance(value, str):
        return value if len(value) <= MAX_DESCRIBED else f"{value[:MAX_DESCRIBED]} ..."
    if isinstance(value, Boxes):
        names = ", ".join(value.labels)
        return (
            f"{len(value)} boxes{': ' * bool(names)}{names if len(names) <= MAX_DESCRIBED else names[:MAX_DESCRIBED]}"
        )
    if isinstance(value, np.ndarray) and value.size:
        return f"{value.dtype} {value.shape}, {value.min():.4g} to {value.max():.4g}"
    return shown(value)


def _same(one: Any, other: Any) -> bool:
    """Whether two checked values, or mappings of them, are equal."""
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    if isinstance(one, Masked) and isinstance(other, Masked):
        return one.mask is other.mask and _same(one.value, other.value)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return type(one) is type(other) and not isinstance(one, np.ndarray) and bool(one == other)


@dataclass(frozen=True)
class Shown:
    """What a call of ``generate`` was given: checked values, frame by frame, whether kept parts are pasted, and which
    plans are followed."""

    given: list[dict[str, Any]]
    frames: list[Frame | None]
    conditions: dict[str, dict[str, Any]]
    paste: bool = True
    planned: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """What is there after a forward pass: ``made`` says which. ``before``: what the first of two models made."""

    model: FourMBase
    canvas: Canvas
    plan: list[Step]
    seeds: list[int]
    shown: Shown
    made: Pass
    before: Snapshot | None = None

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
                sure = canvas.records[key].log_probability.numpy()[list(rows)]
                values[key] = [
                    model.modalities[key].scored(model.decode(key, ids), ids.tolist(), model.text, log_probability)
                    for ids, log_probability in zip(tokens[key], sure, strict=True)
                ]
            else:
                ids = canvas.grids[key].numpy()[list(rows)]
                tokens[key], values[key] = list(ids), model.grids[key].decode_batch(ids)
        made = [
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
                planned=dict(self.shown.planned),
                model=self.model,
            ).pasted()
            for i, row in enumerate(rows)
        ]
        if self.before is None:
            return made
        return [first.beside(second) for first, second in zip(self.before._of(rows), made, strict=True)]

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
