"""``FourM``: a trained model with its tokenizers, for people. Values in, values out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, Unpack

import numpy as np
import torch

from open4m import modalities
from open4m.fourm import FourMBase, Inputs, is_sample
from open4m.generate import upscale as upscaling
from open4m.generate.canvas import Canvas
from open4m.generate.engine import Engine
from open4m.generate.masks import Masked, unknown_cells
from open4m.generate.options import Options
from open4m.generate.plan import Step, Targets, bound, listed, make
from open4m.generate.planned import Planned, chooser, merged_count, planned, ways
from open4m.generate.results import Generation, Results, Shown, Snapshot, check_way
from open4m.generate.seeds import check_count, seeds_of
from open4m.modalities.frames import Frame, check, check_fit, frame_of, naming, positioned
from open4m.model.config import TOKENS
from open4m.model.plans import Plans
from open4m.tokenizers.text import TextTokenizer
from open4m.types import GAP, Gapped, Open4MError, Value, check_flags, check_kind

BATCH_SIZE = 32
"""Results that are made at once unless a call says otherwise."""


@dataclass(frozen=True)
class _Asked:
    """A batch that is checked: what is generated how, what is shown, and in which frames conditions are."""

    plan: list[Step]
    shown: Shown
    condition_frames: dict[str, list[Frame | None]]
    wanted: set[str]
    larger: list[Step]  # what the model of super-resolution makes of it


class FourM(FourMBase):
    """A model directory in memory: values in, any others out.

    >>> model = FourM.from_pretrained("scenes")
    >>> result = model.generate(image, ["depth", "caption"])
    >>> result["caption"], result["depth"], result.render("depth")
    >>> result.save("out")
    """

    def __getstate__(self) -> dict[str, Any]:
        """Without the engine, whose weights are laid out for this process: a copy makes its own."""
        return {name: value for name, value in vars(self).items() if name != "_engine"}

    @property
    def engine(self) -> Engine:
        """What makes the forward passes, in the model's precision."""
        self._engine.precision = self.precision
        return self._engine

    @cached_property
    def _engine(self) -> Engine:
        """Without a text tokenizer, or before it is needed, for grids alone."""
        text = self._text
        if not isinstance(text, TextTokenizer):
            return Engine(self.model)
        return Engine(self.model, text.sentinels[0], [text.eos, *text.sentinels], text.eos)

    def generate(
        self,
        inputs: Inputs,
        targets: Targets,
        *,
        samples: int | None = None,
        seed: int | Sequence[int] = 0,
        scheme: str | None = None,
        steps: int | None = None,
        tokens: Sequence[int] | None = None,
        schedule: str | None = None,
        order: Sequence[int] | None = None,
        choice_temperature: float | None = None,
        temperature: float | tuple[float, float] | None = None,
        cooling: str | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        limit_first: bool | None = None,
        guidance: float | tuple[float, float] | Mapping[str, float] | None = None,
        guided: bool | None = None,
        announced: bool | None = None,
        open_end: bool | None = None,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        fit: str = "crop",
        frame: Frame | None = None,
        paste: bool = True,
        resize: bool = False,
        upscale: bool = False,
        entropies: bool = False,
        batch_size: int = BATCH_SIZE,
        merge: str = "",
        defaults: Mapping[str, Mapping[str, Any]] | None = None,
        preset: str | None = None,
        watch: Callable[[Snapshot], None] | None = None,
        **per_target: Mapping[str, Any],
    ) -> Generation | Results:
        """Generate ``targets`` in order from ``inputs``, each conditioning the next.

        >>> model.generate(image, "depth")
        >>> model.generate({"caption": "a red cone"}, ["clip", "rgb"], samples=4, guidance=3.0)
        >>> model.generate(["a.jpg", "b.jpg"], ["depth", "caption"], caption={"top_p": 0.8})

        ``inputs``: values by modality: PIL images, arrays or tensors with channels last or first, texts, boxes, paths
        of files, or these :class:`~open4m.modalities.given.InForm`. A bare image is the photo. A target may be given in
        part, :class:`~open4m.generate.masks.Masked`, or a text with gaps, ``"a [_] cone beside [_]"``: the rest is
        generated. A list of these, of any length, or a batch
        of images (B, ...), makes :class:`Results`, a list. A value that several samples share, as the same object, is
        converted and tokenized once.

        An image is read as pixels where the model reads those. Under the name ``rgb@tokens`` it is read as its tokens,
        alone or beside its pixels.

        ``targets``: one or more names of modalities, or :class:`~open4m.generate.plan.Step`.

        ``samples``: results per input, all of them in one list, those of the first input first; by default one, and no
        list if there is one input. ``seed``: one per result, or that of the first; result i then has ``seed`` + i.

        How a target is generated: as is said here, else as ``defaults`` say by target, else as its modality says.
        ``preset``: ``"demo"`` is the order and the defaults of the authors' demo (:mod:`open4m.generate.presets`).
        Without either, they are those of the model's own plans, where it has one for what is given and the target
        (:class:`~open4m.model.plans.Plans`; ``open4m tune`` makes them), and else what is read off a whole photo is the
        likeliest, of which there is one. A sample is drawn where there are many: from anything else, of several
        ``samples``, and of targets for which one of ``temperature``, ``top_k``, ``top_p`` and ``choice_temperature`` is
        said and not 0.

        ``merge``: the ``samples`` of an input become one result, by ``"weighted"`` or ``"votes"``
        (:meth:`Results.merged`), by default of as many as the model's plans say, or 4.

        ``scheme`` is the order in which the tokens of a grid are generated, ``"maskgit"``, ``"roar"`` or ``"halton"``;
        ``steps`` the number of forward passes per grid; ``schedule`` how many tokens each commits, ``"cosine"`` (few,
        then many), ``"linear"``, ``"even"`` or ``"bell"`` (few, many, few); ``tokens`` these numbers instead; ``order``
        all cells in the order in which they are generated; ``choice_temperature`` the noise on MaskGIT's confidences.
        ``temperature`` (0: the likeliest token), ``top_k`` (0: all) and ``top_p`` (1: all) of sampling;
        ``limit_first``: these two act before the temperature; ``cooling`` how a grid's temperature falls. Of sequences,
        ``announced``: the encoder is shown that they are to come; ``open_end``: only a sentinel ends them.
        ``guidance``: the weight of classifier-free guidance (1: none), or one per condition, by name. Temperature and
        guidance of a grid may be two: of the first and of the last pass. ``guided``: whether a finished target is a
        condition that guidance weights for those after it. What is said is for all targets that it fits;
        ``caption={"top_p": 0.8}`` for one.

        ``conditions``: values that only guidance by name refers to, for all samples: ``guidance={"caption": 3.0,
        "avoid": -1.0}, conditions={"avoid": {"caption": "a blue cube"}}`` (paper section 4).

        ``fit``: which square the model sees of a photo and its maps, ``"crop"``, ``"letterbox"`` or ``"stretch"``
        (:class:`~open4m.modalities.frames.Frame`). Boxes, given or generated, are fractions of the whole photo.
        ``frame``: that of a photo which is not given itself, such as the ``frame`` of an earlier result: given maps
        show all of it, or are square and show what the model saw. ``paste``: what is kept of a target that is given in
        part is pasted onto it, with a soft edge, else it is as the tokenizer reconstructs it. ``resize``: maps have the
        photo's resolution (:meth:`Generation.resized`).

        ``upscale``: the model of super-resolution (:attr:`~open4m.fourm.FourMBase.upscaler`) then makes larger grids of
        all targets that it has some of, from all that is known (paper A.1). They are in the result beside the targets,
        ``result["rgb@448"]``; ``**{"rgb@448": {"steps": 4}}`` says how one is generated.

        ``entropies``: record how unsure the model was of each token. ``batch_size``: results that are made at once,
        which changes speed and memory, and no result. ``watch`` is called after every forward pass.

        Raises :class:`Open4MError` before the first pass, with what is allowed, for values that cannot be given,
        targets that cannot be generated from them, and impossible options.
        """
        how = {"scheme": scheme, "steps": steps, "tokens": tokens, "schedule": schedule, "top_k": top_k, "top_p": top_p}
        how |= {"choice_temperature": choice_temperature, "temperature": temperature, "guided": guided, "order": order}
        how |= {"cooling": cooling, "limit_first": limit_first, "announced": announced, "open_end": open_end}
        how = {name: value for name, value in {**how, "guidance": guidance}.items() if value is not None}
        ask = {"conditions": conditions, "fit": fit, "frame": frame, "paste": paste, "upscale": upscale}
        ask |= {**how, **per_target}
        given = self.samples_of(inputs)
        check_way(merge)
        check_flags(resize=resize, upscale=upscale)
        if watch is not None:
            check_kind(watch, Callable, "watch")
        count = (
            merged_count(self.plans, given, targets) if samples is None and merge else 1 if samples is None else samples
        )
        check_count("samples", count)
        check_count("batch_size", batch_size)
        seeds = seeds_of(seed, len(given) * count)
        given = [sample for sample in given for _ in range(count)]
        alone = is_sample(inputs) and (samples is None or bool(merge))
        said = {"preset": preset, "defaults": defaults, "several": count > 1, "merge": bool(merge)}
        said["larger"] = self._larger(targets) if upscale else ()
        targets, choose = chooser(self.plans, targets, {**how, **per_target}, **said)
        parts = [
            (rows[start : start + batch_size], own)
            for rows, own in ways(given, choose)
            for start in range(0, max(1, len(rows)), batch_size)
        ]

        def read(rows: list[int], own: Planned) -> _Asked:
            named = [] if alone else [row // count if merge else row for row in rows]
            return self._read([given[row] for row in rows], named, targets, planned=own, **ask)

        for part in parts if len(parts) > 1 else ():  # so that a mistake in the last batch costs no other
            read(*part)
        found: dict[int, Generation] = {}
        for rows, own in parts:
            progress = None
            for progress in self._passes(read(rows, own), [seeds[row] for row in rows], entropies):
                if watch is not None:
                    watch(progress)
            found |= zip(rows, [] if progress is None else progress.results(), strict=True)
        made = Results(found[row] for row in range(len(given)))
        made = Results(result.resized() for result in made) if resize else made
        if merge:
            made = Results(Results(made[n : n + count]).merged(merge) for n in range(0, len(made), count))
        return made[0] if alone else made

    def passes(
        self,
        inputs: Inputs,
        targets: Targets,
        *,
        seed: int | Sequence[int] = 0,
        entropies: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Snapshot]:
        """:meth:`generate`, pass by pass: what is there after each, to be shown while it grows. One batch."""
        check_flags(upscale=options.get("upscale", False))
        said = {name: options.pop(name, None) for name in ("preset", "defaults")}
        said["larger"] = self._larger(targets) if options.get("upscale") else ()
        given = self.samples_of(inputs)
        targets, choose = chooser(self.plans, targets, options, **said)
        alike = ways(given, choose)
        if len(alike) > 1:
            raise Open4MError(
                "passes: one batch is generated in one way: say defaults, or give samples of the same modalities"
            )
        rows = [*range(len(given))] if len(given) > 1 else []
        asked = self._read(given, rows, targets, planned=alike[0][1], **options)
        yield from self._passes(asked, seeds_of(seed, len(given)), entropies)

    def _passes(self, asked: _Asked, seeds: list[int], entropies: bool) -> Iterator[Snapshot]:
        check_flags(entropies=entropies, paste=asked.shown.paste)
        if not asked.shown.given:
            return
        canvas = self._canvas(asked.shown.given, asked.shown.frames, asked.wanted)
        others = {
            name: self._canvas([values] * len(seeds), asked.condition_frames[name])
            for name, values in asked.shown.conditions.items()
        }
        snapshot = None
        for made in self.engine.passes(canvas, asked.plan, seeds, others, entropies):
            snapshot = Snapshot(self, canvas, asked.plan, seeds, asked.shown, made)
            yield snapshot
        if asked.larger:
            second = self.upscaler
            canvas, *shown = (upscaling.carried(each, second.config) for each in (canvas, *others.values()))
            others = dict(zip(others, shown, strict=True))
            plan = upscaling.bound_to(second.config, asked.larger, canvas, others)
            for made in second.engine.passes(canvas, plan, seeds, others, entropies):
                yield Snapshot(second, canvas, plan, seeds, asked.shown, made, before=snapshot)

    def _read(
        self,
        samples: Sequence[Mapping[str, Any]],
        rows: Sequence[int],
        targets: Targets,
        *,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
        fit: str = "crop",
        frame: Frame | None = None,
        paste: bool = True,
        upscale: bool = False,
        planned: Planned,
        **options: Any,
    ) -> _Asked:
        """The checked values, frames and plan of a batch. ``rows``: the numbers of its samples among several, for
        errors. Raises :class:`Open4MError` for all that the model cannot do."""
        check_fit(fit, frame)
        own, further = upscaling.split(self.config, options) if upscale else (options, {})
        plan = make(self.config, targets, own, planned.options)
        wanted = {step.target for step in plan}
        for step in plan:
            self.check_tokenizer(step.target)
        larger = []
        if upscale:
            larger = upscaling.plan_of(self.config, self.upscaler.config, plan, {**own, **further}, planned.options)
            for step in larger:
                self.upscaler.check_tokenizer(step.target)
        rows = rows or [None] * len(samples)
        samples = self._checked(samples, wanted, rows)
        alone = self._conditions(conditions or {})
        frames = [self._frame(sample, fit, frame, row) for row, sample in zip(rows, samples, strict=True)]
        plan = bound(self.config, plan, [self._keys(sample, wanted).values() for sample in samples], alone)
        condition_frames = {}
        for name, values in alone.items():
            theirs = self._frame(values, fit, frame)
            for own in frames if theirs and not frame else ():
                if own is not None:
                    check(own, {f"the condition {name}": (theirs.height, theirs.width)}, (), "the sample")
            condition_frames[name] = [own or theirs for own in frames]
        return _Asked(plan, Shown(samples, frames, alone, paste, planned.tasks), condition_frames, wanted, larger)

    def _larger(self, targets: Targets) -> list[str]:
        """The grids that the model of super-resolution makes of targets."""
        return upscaling.names(self.config, self.upscaler.config, targets)

    def planned(self, path: Sequence[str], merged: bool = False) -> Mapping[str, Mapping[str, Any]]:
        """How the targets of a task are generated by default, by target: ``defaults`` of :meth:`generate`.

        ``path``: what is given, then the targets in order. ``merged``: of several generations that are merged.
        """
        check_flags(merged=merged)
        given, *targets = listed(path) or [""]
        modalities.get(given)
        return planned(self.plans, {given: None}, targets, merge=merged).options

    def following(self, plans: Plans) -> Self:
        """The same model, in the same memory, with other plans."""
        check_kind(plans, Plans, "plans")
        other = copy.copy(self)
        other.plans = plans
        return other

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
        self,
        samples: Sequence[Mapping[str, Any]],
        wanted: Collection[str] = (),
        rows: Sequence[int | None] | None = None,
    ) -> list[dict[str, Value | Masked]]:
        """The samples with each value as its modality has it; the same object in several is converted once.

        Raises :class:`Open4MError` for a value that cannot be given. ``rows``: the samples' numbers, to name them.
        """
        samples = [dict(sample) for sample in samples]  # its values stay, so that their ids are theirs alone
        sources, converted = {key: name for name, key in self.config.readers.items()}, {}

        def convert(name: str, value: Any) -> Value:
            if (name, id(value)) not in converted:
                converted[name, id(value)] = self.take(name, value)
            return converted[name, id(value)]

        def checked(name: str, key: str, given: Any) -> Value | Masked:
            target = next((target for target in (name, key, sources.get(key)) if target in wanted), None)
            if not isinstance(given, Masked):
                if target is not None:
                    if modalities.get(name).is_text and GAP in (text := convert(name, given)):
                        return Gapped(text)
                    how = "" if name == target else f", as {name},"
                    raise Open4MError(
                        f"{target} is both given{how} and a target: leave it out of one of them, or give a part of it: "
                        f"Masked, or a text with {GAP} for each gap"
                    )
                return convert(name, given)
            value = convert(name, given.value)
            if modalities.get(name).extent(value) is None:
                raise Open4MError(f"{name}: only images and maps can be masked: give it whole, or leave it out")
            return replace(given, value=value)

        found = []
        for row, sample in zip(rows or [None] * len(samples), samples, strict=True):
            with naming(row):
                keys = self._keys(sample, wanted)
                found.append({name: checked(name, key, sample[name]) for name, key in keys.items()})
        return found

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
