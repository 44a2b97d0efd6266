"""``FourM``: a trained model with its tokenizers, for people. Values in, values out."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from open4m import modalities
from open4m.fourm import FourMBase
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.masks import Masked, unknown_cells
from open4m.generate.plan import Step, bound, make
from open4m.generate.results import Generation, Shown, Snapshot
from open4m.modalities.frames import Frame, check, check_fit, frame_of, naming, positioned
from open4m.model.config import TOKENS
from open4m.model.fourm import FourMTransformer
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.tokenizer import Tokenizer
from open4m.types import Open4MError, Value

VALUES = "values by modality, such as {'caption': 'a cube'}"


class FourM(FourMBase):
    """A model directory in memory: values in, any others out.

    >>> model = FourM.from_pretrained("scenes")
    >>> result = model.generate({"rgb": image}, targets=["depth", "caption"])
    >>> result["caption"], result.render("depth")
    """

    def __init__(self, model: FourMTransformer, grids: Mapping[str, Tokenizer], text: TextTokenizer | None):
        super().__init__(model, grids, text)
        if text is None:
            self.engine = Engine(model)
        else:
            self.engine = Engine(model, text.sentinels[0], [text.eos, *text.sentinels], text.eos)

    def generate(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        targets: Sequence[str | Step],
        *,
        seed: int | Sequence[int] = 0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        entropies: bool = False,
        watch: Callable[[Snapshot], None] | None = None,
        fit: str = "crop",
        frame: Frame | None = None,
        paste: bool = True,
        resize: bool = False,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Generate ``targets`` in order from ``inputs``, each conditioning the next.

        ``inputs``: PIL images, arrays, strings or boxes by modality name; a list of such mappings makes a list of
        results. A target may be given in part, :class:`Masked`: the rest is generated. ``options``: fields of
        :class:`open4m.generate.plan.Step` for all targets (``guidance=3.0``), or for one (``caption={"top_p": 0.8}``).
        ``conditions``: values that only guidance by name refers to, for all samples: ``guidance={"caption": 3.0,
        "avoid": -1.0}, conditions={"avoid": {"caption": "a blue cube"}}`` (paper section 4). ``seed``: one per
        sample, or that of the first; sample i then has ``seed`` + i. ``watch`` is called after every pass. A value that
        several samples share, as the same object, is converted and tokenized once.

        An image is read as pixels where the model reads those. Under the name ``rgb@tokens`` it is read as its tokens,
        alone or beside its pixels.

        ``fit``: which square the model sees of a photo and its maps (:class:`~open4m.modalities.frames.Frame`). Boxes,
        given or generated, are fractions of the whole photo. ``frame``: that of a photo which is not given itself, such
        as the ``frame`` of an earlier result: given maps show all of it, or are square and show what the model saw.
        ``paste``: what is kept of a target that is given in part is pasted onto it, with a soft edge, else it is as the
        tokenizer reconstructs it. ``resize``: maps have the photo's resolution (:meth:`Generation.resized`).

        Raises :class:`Open4MError` before the first pass, with what is allowed, for values that cannot be given,
        targets that cannot be generated from them, and impossible options.
        """
        how = {"seed": seed, "conditions": conditions, "entropies": entropies, "fit": fit, "frame": frame}
        passes = self.passes(inputs, targets, **how, paste=paste, **options)
        progress = None
        for progress in passes:
            if watch is not None:
                watch(progress)
        results = [] if progress is None else progress.results()
        results = [result.resized() for result in results] if resize else results
        return results[0] if isinstance(inputs, Mapping) else results

    def passes(
        self,
        inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        targets: Sequence[str | Step],
        *,
        seed: int | Sequence[int] = 0,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        entropies: bool = False,
        fit: str = "crop",
        frame: Frame | None = None,
        paste: bool = True,
        **options: Any,
    ) -> Iterator[Snapshot]:
        """:meth:`generate`, pass by pass: what is there after each, to be shown while it grows."""
        check_fit(fit, frame)
        plan = make(self.config, targets, options)
        wanted = {step.target for step in plan}
        for step in plan:
            self.check_tokenizer(step.target)
        if not isinstance(inputs, Mapping | Sequence):
            raise Open4MError(f"inputs: expected {VALUES}, or a list of such, got {inputs!r}")
        samples = self._checked([inputs] if isinstance(inputs, Mapping) else inputs, wanted)
        alone = self._conditions(conditions or {})
        frames = [
            self._frame(sample, fit, frame, None if isinstance(inputs, Mapping) else row)
            for row, sample in enumerate(samples)
        ]
        seeds = check_seed(seed)
        seeds = seeds if _are_several(seed) else [seeds[0] + i for i in range(len(samples))]
        plan = bound(self.config, plan, [self._keys(sample, wanted).values() for sample in samples], alone)
        if not samples:
            return
        canvas = self._canvas(samples, frames, wanted)
        others = {}
        for name, values in alone.items():
            theirs = self._frame(values, fit, frame)
            for own in frames if theirs and not frame else ():
                if own is not None:
                    check(own, {f"the condition {name}": (theirs.height, theirs.width)}, (), "the sample")
            others[name] = self._canvas([values] * len(samples), [own or theirs for own in frames])
        shown = Shown(samples, frames, alone, paste)
        for made in self.engine.passes(canvas, plan, seeds, others, entropies):
            yield Snapshot(self, canvas, plan, seeds, shown, made)

    def _keys(self, sample: Mapping[str, Any], wanted: Collection[str] = ()) -> dict[str, str]:
        """The model's modality for each given name; a target that is given in part is its tokens."""
        parts = {name: name for name in sample if name in wanted and isinstance(sample[name], Masked)}
        for name in parts:
            if name not in self.config.inputs:
                self.input_keys({name: None})
        whole = self.input_keys({name: value for name, value in sample.items() if name not in parts})
        keys = {name: parts.get(name) or whole[name] for name in sample}
        if len({*keys.values()}) < len(keys):
            dense = [name for name, key in keys.items() if key in self.config.readers.values()]
            same = dense or [name for name, key in keys.items() if [*keys.values()].count(key) > 1]
            hint = f"; the tokens of an image beside its pixels are called {dense[0]}{TOKENS}" if dense else ""
            raise Open4MError(f"{' and '.join(same)} are the same: give one{hint}")
        return keys

    def _checked(
        self, samples: Sequence[Mapping[str, Any]], wanted: Collection[str] = ()
    ) -> list[dict[str, Value | Masked]]:
        """The samples with each value as its modality has it; the same object in several is converted once.

        Raises :class:`Open4MError` for a value that cannot be given.
        """
        if wrong := [type(sample).__name__ for sample in samples if not isinstance(sample, Mapping)]:
            raise Open4MError(f"inputs: expected {VALUES}, got a {wrong[0]}")
        samples = [dict(sample) for sample in samples]  # its values stay, so that their ids are theirs alone
        sources, converted = {key: name for name, key in self.config.readers.items()}, {}

        def convert(name: str, value: Any) -> Value:
            if (name, id(value)) not in converted:
                converted[name, id(value)] = modalities.get(name).convert(value)
            return converted[name, id(value)]

        def checked(name: str, key: str, given: Any) -> Value | Masked:
            target = next((target for target in (name, key, sources.get(key)) if target in wanted), None)
            if not isinstance(given, Masked):
                if target is not None:
                    how = "" if name == target else f", as {name},"
                    raise Open4MError(
                        f"{target} is both given{how} and a target: leave it out of one of them, or give a part of it: "
                        "Masked"
                    )
                return convert(name, given)
            value = convert(name, given.value)
            if modalities.get(name).extent(value) is None:
                raise Open4MError(f"{name}: only images and maps can be masked: give it whole, or leave it out")
            return replace(given, value=value)

        return [
            {name: checked(name, key, sample[name]) for name, key in self._keys(sample, wanted).items()}
            for sample in samples
        ]

    def _conditions(self, conditions: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Value | Masked]]:
        """The checked values of each condition that only guidance refers to."""
        if not isinstance(conditions, Mapping) or not all(isinstance(v, Mapping) for v in conditions.values()):
            raise Open4MError(
                "conditions: expected values by modality under a name of each, such as "
                "conditions={'avoid': {'caption': 'a blue cube'}}"
            )
        if reserved := [name for name in conditions if name in self.config.keys]:
            raise Open4MError(f"a condition is called {reserved[0]}, which is a modality: choose another name")
        return dict(zip(conditions, self._checked([*conditions.values()]), strict=True))

    def _frame(
        self, sample: Mapping[str, Value | Masked], fit: str, frame: Frame | None, row: int | None = None
    ) -> Frame | None:
        """The frame of a checked sample: its own, or the one that is said. Raises :class:`Open4MError` for maps of
        another picture."""
        known = {name: modalities.get(name) for name in sample}
        values = {name: given.value if isinstance(given, Masked) else given for name, given in sample.items()}
        with naming(row):
            if frame is None:
                return frame_of(values, known, fit)
            extents = {name: known[name].extent(value) for name, value in values.items()}
            extents = {name: extent for name, extent in extents.items() if extent is not None}
            check(frame, extents, extents, "the frame")
            return frame

    def _canvas(
        self,
        samples: Sequence[Mapping[str, Value | Masked]],
        frames: Sequence[Frame | None],
        wanted: Collection[str] = (),
    ) -> Canvas:
        """What checked samples show in their frames; a value that several have is encoded once."""
        canvas, encoded = Canvas(self.config, len(samples)), {}
        for row, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
            known = {name: modalities.get(name) for name in sample}
            whole = {name: given.value if isinstance(given, Masked) else given for name, given in sample.items()}
            values, fit = positioned(whole, known, frame), frame.fit if frame else "crop"
            for name, key in self._keys(sample, wanted).items():
                same = key, id(whole[name]), frame  # which decides what is seen, and where boxes are
                if same not in encoded:
                    encoded[same] = self.encode_input(key, values[name], fit)
                spec, given = self.config.spec(key), sample[name]
                canvas.start(key)
                canvas.put(key, row, encoded[same])
                if key not in canvas.known:
                    continue
                unknown = np.zeros(spec.length, dtype=bool)
                if isinstance(given, Masked):
                    unknown = unknown_cells(given.mask, known[name].extent(whole[name]), spec.grid, name, fit)
                    if key in wanted and not unknown.any():
                        raise Open4MError(f"{key}: no cell is masked, so nothing of it is left to generate")
                outside = known[name].extent(whole[name]) is not None and frame.outside(spec.grid)
                canvas.known[key][row] = torch.from_numpy(~(unknown | outside))
        return canvas


def check_seed(seed: Any) -> list[int]:
    """The seeds of a call, one or several. Raises :class:`Open4MError` for anything but whole numbers from 0."""
    seeds = list(seed) if _are_several(seed) else [seed]
    if wrong := [s for s in seeds if not (isinstance(s, numbers.Integral) and 0 <= s < 1 << 62)]:
        raise Open4MError(f"seed must be a whole number, 0 or more and below 2**62, got {wrong[0]!r}")
    return [int(s) for s in seeds]


def _are_several(seed: Any) -> bool:
    return isinstance(seed, Sequence) or (isinstance(seed, np.ndarray) and seed.ndim > 0)
