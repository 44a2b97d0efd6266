"""Generation: fill the canvas in, target after target (paper A.3, Figure 3).

Every pass encodes the visible tokens and decodes only the queried ones; nothing is computed for padding. Guidance
combines one pass without the conditions with one pass per condition, all rows of the same batch. A finished target
conditions the ones after it: chained generation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from open4m.generate import varlen
from open4m.generate.canvas import Canvas, Record
from open4m.generate.continuation import Continuation
from open4m.generate.gaps import fill
from open4m.generate.plan import Step
from open4m.generate.prepared import Prepared
from open4m.generate.sampling import Draws, entropy, guide, gumbel, sample, sample_limited
from open4m.generate.schemes import SCHEMES, first
from open4m.model.fourm import FourMTransformer
from open4m.nn.packed import Precision
from open4m.types import MaskedBatch, Open4MError

MAX_LOGITS = 1 << 24
"""Logits that are in memory at a time: 64 MiB."""


@dataclass(frozen=True)
class Pass:
    """A finished forward pass: number ``number``, from 1, of at most ``total`` passes of ``step``."""

    step: Step
    number: int
    total: int


@dataclass(frozen=True)
class Stage:
    """One step of a plan and what its passes depend on besides the canvas.

    ``conditions``: canvases that only guidance refers to, by name. ``free``: finished targets that are no conditions.
    ``coming``: sequences of this step and of later ones that the encoder is told of.
    """

    step: Step
    conditions: Mapping[str, Canvas]
    free: Collection[str]
    coming: Collection[str]


@dataclass(frozen=True)
class Views:
    """The canvases that the passes of one step see. With guidance, the first has no conditions, and ``weights`` belong
    to the others; without guidance (None) there is one canvas."""

    shown: list[Canvas]
    weights: list[float] | None = None

    def combine(self, hidden: Tensor) -> Tensor:
        """Guided hidden states (T, D) from those of all passes (passes · T, D).

        The output layer is linear, so their logits are the guided logits, and it is computed once for all passes.
        """
        if self.weights is None:
            return hidden
        unconditional, *conditional = hidden.chunk(len(self.shown))
        return guide(unconditional.float(), [c.float() for c in conditional], self.weights).to(hidden.dtype)


class Answers(NamedTuple):
    """Tokens (T,) on the CPU, drawn for queries, and how sure the model was of each.

    ``entropy``: None if it was not asked for. ``confidence``: what MaskGIT chooses by.
    """

    token: Tensor
    log_probability: Tensor
    entropy: Tensor | None
    confidence: Tensor


class Engine:
    """Generates with one model.

    ``start``, ``ends`` and ``eos`` are token ids of the text tokenizer: the first sentinel, after which a sequence is
    generated; the ids that end it ([EOS] and the sentinels); and [EOS]. ``precision`` may be set to ``"int8"``: see
    :mod:`open4m.nn.packed`.
    """

    def __init__(self, model: FourMTransformer, start: int = 0, ends: Sequence[int] = (), eos: int | None = None):
        self.model = model.eval()
        self.precision: Precision = "exact"
        self._prepared: Prepared | None = None
        self.config = model.config
        self.start, self.ends, self.eos = start, frozenset(ends), eos

    @property
    def device(self) -> torch.device:
        return self.model.embeddings.mask_token.device

    @property
    def steady(self) -> bool:
        """Whether a sample's results have the same bits alone and in any batch (:attr:`Prepared.steady`)."""
        return self._prepare().steady

    def _prepare(self) -> Prepared:
        """The model as its passes use it, made anew if its weights or the precision changed."""
        if self._prepared is None or not self._prepared.is_of(self.precision):
            self._prepared = Prepared(self.model, self.precision)
        return self._prepared

    def run(
        self,
        canvas: Canvas,
        plan: Sequence[Step],
        seeds: Sequence[int],
        conditions: Mapping[str, Canvas] | None = None,
        entropies: bool = False,
    ) -> Canvas:
        """Fill in the plan's targets; see :meth:`passes`."""
        for _ in self.passes(canvas, plan, seeds, conditions, entropies):
            pass
        return canvas

    def passes(
        self,
        canvas: Canvas,
        plan: Sequence[Step],
        seeds: Sequence[int],
        conditions: Mapping[str, Canvas] | None = None,
        entropies: bool = False,
    ) -> Iterator[Pass]:
        """Fill in the plan's targets; yields after every forward pass, when the canvas holds what is known so far.

        ``seeds``: one per sample; a sample's result depends on its own seed only. ``conditions``: canvases that only
        guidance refers to, by name. ``entropies``: whether to record them too.
        """
        conditions = conditions or {}
        for name, other in {"": canvas, **conditions}.items():
            if len(seeds) != other.size:
                where = f" of {name}" * bool(name)
                raise Open4MError(f"expected one seed per sample, got {len(seeds)} for {other.size} samples{where}")
        for step in plan[:-1]:
            if not self.config.spec(step.target).is_input:
                raise Open4MError(f"{step.target} is no input of the model: what follows would not see it")
        for step in plan:
            if holding := [name for name, other in conditions.items() if step.target in other.present]:
                raise Open4MError(f"{step.target} is a target, so the condition {holding[0]} cannot hold it")
        self._prepare()
        draws, free = Draws(seeds), []
        for place, step in enumerate(plan):
            coming = [later.target for later in plan[place:] if later.announced]
            stage = Stage(step, conditions, free, coming)
            canvas.start(step.target)
            decode = self._sequence if self.config.spec(step.target).is_causal else self._grid
            with torch.inference_mode():  # never around a yield, which would change the caller's mode
                decoding = decode(canvas, stage, draws, entropies)
            while True:
                with torch.inference_mode():
                    made = next(decoding, None)
                if made is None:
                    break
                yield made
            if not step.guided:
                free.append(step.target)

    def views(self, canvas: Canvas, stage: Stage, done: int) -> Views:
        """What the passes of a step see after ``done`` of them: the known part of the target, and :meth:`Step.views`;
        one sentinel for each text that is announced, or hidden from a model that was trained so."""
        step, conditions = stage.step, stage.conditions
        others = [key for key in canvas.present if key != step.target]
        named = step.guidance if isinstance(step.guidance, Mapping) else {}
        if unknown := [name for name in named if name not in (*others, *conditions)]:
            known = ", ".join([*others, *conditions]) or "nothing"
            raise Open4MError(f"{step.target}: guidance by {', '.join(unknown)}, which is not given (given: {known})")
        names, weights = step.views(done, others, stage.free)
        nothing = [None] * canvas.size
        coming = {key: [row or [self.start] for row in canvas.sequences.get(key, nothing)] for key in stage.coming}
        announced = Canvas(self.config, canvas.size, sequences=coming)
        shown = []
        for own in names:
            view = canvas.select([step.target, *own])
            for name in own:
                view = view.with_(conditions[name]) if name in conditions else view
            shown.append(view)
        if self.config.hidden_texts == "sentinel":
            texts = [canvas.select(others), *(conditions.values() if named else ())]
            shown = [view.with_(self._hidden(view, texts)) for view in shown]
        return Views([view.with_(announced) for view in shown], weights)

    def _hidden(self, view: Canvas, texts: Sequence[Canvas]) -> Canvas:
        """The texts of a view, with one sentinel for each that it does not see and another does."""
        rows = {key: view.sequences.get(key, [None] * view.size) for other in texts for key in other.sequences}
        for other in texts:
            for key, unseen in other.sequences.items():
                rows[key] = [own or ([self.start] if row else own) for own, row in zip(rows[key], unseen, strict=True)]
        return Canvas(self.config, view.size, sequences=rows)

    def _grid(self, canvas, stage, draws, entropies) -> Iterator[Pass]:
        step, spec = stage.step, self.config.spec(stage.step.target)
        known, ids = canvas.known[step.target], canvas.grids[step.target]
        record = canvas.records[step.target] = Record.of(known.shape, entropies)
        total = (~known).sum(1).tolist()
        order = SCHEMES[step.scheme](draws.uniform(spec.length), spec.grid)
        if step.order:
            order = torch.tensor(step.order).argsort().float().expand_as(order)
        for done in range(step.passes):
            uniform = draws.uniform(spec.length)  # one per cell, used or not, so that no other sample matters
            noise = gumbel(draws.uniform(spec.length)) if step.choice_temperature else None
            unknown = ~known
            count = unknown.sum(1) - torch.tensor([step.remaining(done + 1, n) for n in total])
            queried = unknown if order is None else first(order, unknown, count)  # (B, L)
            if queried.any():
                views = self.views(canvas, stage, done)
                context = self._encode(views)
                hidden = varlen.decode(
                    self._prepared.model, context, self._queries(spec.key, queried, len(views.shown))
                )
                made = self._drawn(views.combine(hidden), step, done, uniform[queried], entropies)
                kept = queried
                if order is None:
                    confidence = torch.zeros(queried.shape).masked_scatter(queried, made.confidence)
                    if noise is not None:  # it falls to 0
                        confidence = confidence + step.choice_temperature * (1 - (done + 1) / step.passes) * noise
                    kept = first(-confidence, queried, count)
                answers = ids.masked_scatter(queried, made.token)
                ids, known = torch.where(kept, answers, ids), known | kept
                sure = (made.log_probability, made.entropy)
                record.put(kept, *(values if values is None else values[kept[queried]] for values in sure))
                canvas.grids[step.target], canvas.known[step.target] = ids, known
                yield Pass(step, done + 1, step.passes)

    def _sequence(self, canvas, stage, draws, entropies) -> Iterator[Pass]:
        """Left to right, from the first sentinel to an end, with keys and values cached. Finished rows are left out.

        Where the canvas holds a sequence with sentinels, these are gaps, of which the first is the first sentinel: the
        spans that are generated for them take their place.
        """
        step, size = stage.step, canvas.size
        spec, ends = self.config.spec(step.target), self.ends - ({self.eos} if step.open_end else set())
        longest, given = min(step.steps or spec.max_length, spec.max_length), canvas.sequences[step.target]
        gaps = [(ends - {self.eos}).intersection(tokens or ()) for tokens in given]
        room = [spec.max_length - len(given[row]) if gaps[row] else longest for row in range(size)]
        if any(left < 1 for left in room):
            raise Open4MError(f"{step.target}: at most {spec.max_length} tokens, which leave no room to fill gaps")
        views = self.views(canvas, stage, 0)
        copies = len(views.shown)
        following = Continuation(self._prepared.model, self._encode(views), spec.key, longest)
        uniform = draws.uniform(longest)  # all at once, since how many are used depends on other samples
        record = canvas.records[step.target] = Record.of((size, spec.max_length), entropies)
        made: list[list[int]] = [[] for _ in range(size)]
        canvas.sequences[step.target] = made
        stops = [{*(ends - own), *(own & {self.start})} for own in gaps]  # each gap is filled once
        rows, token = [*range(size)], torch.full((size,), self.start)  # of those that have not ended
        for n in range(longest):
            hidden = views.combine(following((token.repeat(copies) if copies > 1 else token).to(self.device)))
            token, *sure, _ = self._drawn(hidden, step, n, uniform[rows, n], entropies)
            record.put((rows, n), *sure)
            going = []
            for i, (row, new) in enumerate(zip(rows, token.tolist(), strict=True)):
                made[row].append(new)
                if new not in stops[row] and n + 1 < room[row]:
                    going.append(i)
                    stops[row] |= gaps[row] & {new}
            if n + 1 == longest or not going:
                break
            if (count := len(rows)) > len(going):
                rows, token = [rows[i] for i in going], token[going]
                following.keep([copy * count + i for copy in range(copies) for i in going])
            yield Pass(step, n + 1, longest)
        for row in (row for row in range(size) if gaps[row]):
            words = made[row][:-1] if made[row][-1] == self.eos else made[row]
            filled = fill(given[row], [self.start, *words], ends - {self.eos})
            made[row] = [token for token, _ in filled]
            record.move(row, [None if place is None else place - 1 for _, place in filled])
        if step.open_end:
            for row, tokens in enumerate(made):
                made[row] = tokens[:-1] if tokens[-1] in ends else tokens
        elif self.eos is not None:
            self._end(made, record, spec.max_length)
        yield Pass(step, n + 1, longest)

    def _end(self, sequences: list[list[int]], record: Record, room: int) -> None:
        """End all sequences with [EOS], as in training, whatever ended them. An [EOS] that is put in has no record."""
        for row, tokens in enumerate(sequences):
            if tokens[-1] != self.eos:
                words = tokens[:-1] if tokens[-1] in self.ends or len(tokens) == room else tokens
                sequences[row] = [*words, self.eos]
                record.forget(row, len(words))

    def _drawn(self, hidden: Tensor, step: Step, done: int, uniform: Tensor, entropies: bool) -> Answers:
        """Answers drawn from hidden states (T, D). Logits are computed for a part of the rows at a time."""
        spec, parts = self.config.spec(step.target), []
        rows, temperature = max(1, MAX_LOGITS // spec.vocab_size), step.temperature_at(done, spec.length)
        for some, numbers in zip(hidden.split(rows), uniform.to(hidden.device).split(rows), strict=True):
            logits = self._prepared.logits(some, step.target)
            if step.limit_first:
                drawn, confidence = sample_limited(logits, numbers, temperature, step.top_k, step.top_p)
            else:
                drawn = sample(logits, numbers, temperature, step.top_k, step.top_p)
                confidence = drawn.log_probability
            parts.append((*drawn, confidence, *([entropy(logits)] if entropies else [])))
        made = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        token, log_probability, confidence, *unsure = (values.cpu() for values in made)
        return Answers(token, log_probability, unsure[0] if entropies else None, confidence)

    def _encode(self, views: Views) -> varlen.Context:
        """The encoded views as rows of one batch: all samples of the first view, then those of the next."""
        parts = [canvas.visible(self.device) for canvas in views.shown]
        names = ("input_id", "input_modality", "input_position", "input_valid")
        fields = {name: joined([part[name] for part in parts]) for name in names}
        size, dense = len(parts[0]["input_id"]), {"pixels": {}, "vectors": {}}
        for kind, values in dense.items():
            for key in dict.fromkeys(key for part in parts for key in part[kind]):
                like = next(part[kind][key] for part in parts if key in part[kind])
                values[key] = joined([part[kind].get(key, like.new_zeros(like.shape)) for part in parts])
        nothing = torch.zeros(size * len(parts), 0, dtype=torch.int64, device=self.device)
        batch = MaskedBatch(
            **fields,
            **dense,
            target_id=nothing,
            target_modality=nothing,
            target_position=nothing,
            query_id=nothing,
            target_valid=nothing.bool(),
        )
        return varlen.encode(self._prepared.model, batch)

    def _queries(self, key: str, queried: Tensor, copies: int) -> MaskedBatch:
        """Mask tokens at the queried cells (B, L) of a grid, in raster order."""
        width = int(queried.sum(1).max())
        position = (~queried).int().argsort(dim=1, stable=True)[:, :width]  # (B, Q): queried cells first
        position, valid = (t.repeat(copies, 1).to(self.device) for t in (position, queried.gather(1, position)))
        token = torch.zeros_like(position)
        nothing = token[:, :0]
        return MaskedBatch(
            input_id=nothing,
            input_modality=nothing,
            input_position=nothing,
            input_valid=nothing.bool(),
            target_id=token,
            target_modality=torch.full_like(token, self.config.index(key)),
            target_position=position,
            query_id=token,
            target_valid=valid,
        )


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Batches (B, N, ...) one after another, each padded with zeros to the largest N."""
    width = max(part.shape[1] for part in parts)
    return torch.cat(
        [torch.cat([part, part.new_zeros(len(part), width - part.shape[1], *part.shape[2:])], 1) for part in parts]
    )
