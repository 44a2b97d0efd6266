"""One request: what is given, what is asked for, and how. Every front-end makes this and nothing else.

The command line, the record of a result, and services build the class of a verb (:data:`VERBS`), from arguments or
from JSON (:meth:`Request.from_json`). Making it checks all that needs no model; :meth:`Request.run` checks the rest
before the first forward pass, and gives an :class:`Outcome`. A new verb is one class here.

>>> request = Inpaint(given={"rgb": image, "caption": "a red cone"}, mask=(0.2, 0.2, 0.6, 0.6), samples=4)
>>> request.run(model).picture(model)
>>> Request.from_json(request.to_json())
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open4m import modalities
from open4m.generate import values, verbs
from open4m.generate.changes import SWEEP, Change, Corners, Sweep, Values, Weights, class_names
from open4m.generate.drawing import Outcome, titled
from open4m.generate.masks import Masked, check_mask, fractions, opened
from open4m.generate.pipeline import FourM
from open4m.generate.plan import LIKELIEST
from open4m.generate.planned import MERGED
from open4m.generate.request_base import VERBS, Asked, Request, Watch
from open4m.generate.results import Generation, check_way
from open4m.types import Open4MError, Value

__all__ = ["VERBS", "Edit", "Extract", "Generate", "Guide", "Inpaint", "Outpaint", "Probe", "Request", "Vary"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Generate(Request):
    """Any modalities from any others (:func:`verbs.sampled`).

    ``merge``: also one result of all ``samples``, of which there are then 4 unless it is said
    (:meth:`~open4m.generate.results.Results.merged`).
    """

    verb = "generate"
    chooses_targets = True

    merge: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_way(self.merge)
        if self.merge and self.defaults:
            raise Open4MError(f"merge: {self.verb} gives the likeliest, of which there is one; generate draws several")
        if self.merge and self.samples == 1:
            self._set(samples=MERGED)

    def settings(self, model: FourM, names: Iterable[str]) -> dict[str, Any]:
        return {**super().settings(model, names), "merge": self.merge}

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        given, how = self.asked(model)
        return self.outcome(verbs.sampled(model, given, self.targets, samples=self.samples, watch=watch, **how))

    def asked(self, model: FourM) -> Asked:
        return Asked(self.given, self.settings(model, self.given))

    def outcome(self, results: Sequence[Generation]) -> Outcome:
        """All of them, or the merged one of them."""
        shown = titled(self.given, self.targets)
        return Outcome(results[0].samples, shown, merged=results[0]) if self.merge else Outcome(results, shown)


class Extract(Generate):
    """The likeliest modalities of an image (:func:`verbs.extract`)."""

    verb = "extract"
    defaults = LIKELIEST


class Guide(Generate):
    """Any modalities from others that are weighted one by one, or away from texts (:func:`verbs.guide`)."""

    verb = "guide"

    def __post_init__(self) -> None:
        verbs.weighted(self.weights, self.avoid, self.avoid_weight)
        super().__post_init__()


class _Painting(Request):
    """What verbs share that complete one image or map."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.targets) != 1:
            raise Open4MError(f"targets: {self.verb} has one, got {', '.join(self.targets)}")
        self._needs(*self.targets)

    def _painted(
        self, paint: Callable[..., list[Generation]], where: Any, model: FourM, watch: Watch | None
    ) -> Outcome:
        (target,) = self.targets
        others = {name: value for name, value in self.given.items() if name != target}
        how = self.settings(model, others)
        return self.outcome(
            paint(model, self.given[target], where, target, others, samples=self.samples, watch=watch, **how)
        )

    def outcome(self, results: Sequence[Generation]) -> Outcome:
        return Outcome(results, titled(results[0].given, self.targets))


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpaint(_Painting):
    """The part of an image or map that ``mask`` covers, as :class:`Masked` takes it (:func:`verbs.inpaint`)."""

    verb = "inpaint"

    mask: Any = field(metadata={"codec": values.MASK})

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(mask=opened(self.mask))
        (target,) = self.targets
        given = self.given[target]
        extent = modalities.get(target).extent(given.value if isinstance(given, Masked) else given)
        if extent is not None:
            check_mask(self.mask, extent, target)

    def asked(self, model: FourM) -> Asked:
        (target,) = self.targets
        verbs.side(model, target)
        others = {name: value for name, value in self.given.items() if name != target}
        return Asked({**others, target: Masked(self.given[target], self.mask)}, self.settings(model, others))

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        return self._painted(verbs.inpaint, self.mask, model, watch)


@dataclass(frozen=True, kw_only=True, eq=False)
class Outpaint(_Painting):
    """What is around an image or map that lies in a ``box`` of a larger frame (:func:`verbs.outpaint`)."""

    verb = "outpaint"

    box: Corners

    def _check_frames(self) -> None:
        """What is given shows the larger frame, and not the image that is placed in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(box=fractions(self.box, *self.targets))

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        return self._painted(verbs.outpaint, self.box, model, watch)


@dataclass(frozen=True, kw_only=True, eq=False)
class Vary(Request):
    """Variations of the photo that share the modalities ``by``, extracted from it (:func:`verbs.vary`)."""

    verb = "vary"

    by: tuple[str, ...] = ()
    samples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(by=tuple(self.by) or (modalities.of_role("shape").name,))
        for name in self.by:
            modalities.get(name)
        self._needs(verbs.photo())

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        if absent := [name for name in self.by if name not in (*model.config.targets, *self.given)]:
            raise Open4MError(
                f"by: this model does not predict {', '.join(absent)}, which variations are to share; name one or more "
                f"of {', '.join(model.config.targets)} (on the command line --by MODALITY)"
            )
        given, source = dict(self.given), verbs.photo()
        image = given.pop(source)
        how = self.settings(model, dict.fromkeys([*self.by, *given]))
        results = verbs.vary(
            model, image, self.by, self.targets, given, source=source, samples=self.samples, watch=watch, **how
        )
        return Outcome(results, [*titled({source: image}), *titled(results[0].given)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit(Request):
    """The photo again after ``changes`` of a modality ``of`` it, extracted unless given (:func:`verbs.edit`).

    ``keep``: what stays as it is; of targets, where nothing changed.
    """

    verb = "edit"

    changes: tuple[Change, ...]
    of: str = ""
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.changes:
            raise Open4MError("changes: name one or more of move, rename, delete and swap")
        roles = {change.role for change in self.changes}
        if not self.of and len(roles) > 1:
            raise Open4MError("changes: they are of several modalities; name the one that is changed: of")
        self._set(of=self.of or modalities.of_role(*roles).name)
        for name in (self.of, *self.keep):
            modalities.get(name)

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        def change(value: Value) -> Value:
            for one in self.changes:
                value = one.apply(value, lambda: class_names(model, self.of))
            return value

        given, source = dict(self.given), verbs.photo()
        shown = {source: given.pop(source)} if source in given else {}
        names = [name for name in [*given, self.of, *self.keep] if name not in self.targets]
        made = verbs.edit(
            model,
            shown.get(source),
            self.of,
            change,
            self.targets,
            self.keep,
            given,
            source=source,
            samples=self.samples,
            watch=watch,
            **self.settings(model, dict.fromkeys(names)),
        )
        others = {name: value for name, value in made.results[0].given.items() if name != self.of}
        pair = [(f"{self.of} before", self.of, made.before), (f"{self.of} after", self.of, made.after)]
        return Outcome(made.results, [*titled(shown), *pair, *titled(others, self.targets)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe(Request):
    """One result for each value of the condition ``of``, all else fixed (:func:`verbs.probe`)."""

    verb = "probe"

    sweep: Sweep = field(metadata={"codec": SWEEP})
    of: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples != 1:
            raise Open4MError(f"samples: a probe has one result per value, got {self.samples}")
        if not self.of and not self.sweep.role:
            raise Open4MError("of: name the condition that is probed")
        self._set(of=self.of or modalities.of_role(self.sweep.role).name)
        if not self.sweep:
            kind = "weight" if isinstance(self.sweep, Weights) else "value"
            raise Open4MError(f"{self.of}: no {kind} to probe; give one or more")
        verbs.check_samples(len(self.sweep))
        if isinstance(self.sweep, Values):
            convert = modalities.get(self.of).convert
            self._set(sweep=Values(tuple(convert(value) for value in self.sweep.values)))
        elif not isinstance(self.sweep, Weights) and verbs.photo() not in self.given:
            self._needs(self.of)

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        if isinstance(self.sweep, Weights):
            return self._weights(model, self.sweep.weights, watch)
        given, source = dict(self.given), verbs.photo()
        is_extracted = self.of not in given and not isinstance(self.sweep, Values)
        others = [name for name in given if name != self.of and not (is_extracted and name == source)]
        how = self.settings(model, [*others, self.of])
        verbs.check(model, self.targets, how)
        if is_extracted:
            given, how["frame"] = verbs.ground(model, given.pop(source), [self.of], given, source=source, fit=self.fit)
        if isinstance(self.sweep, Values):
            swept = self.sweep.values
            titles = [f"{self.of} {number}" for number in range(1, len(swept) + 1)]
        else:
            swept = self.sweep.applied(given[self.of], lambda: class_names(model, self.of))
            titles = self.sweep.titles
        fixed = {name: value for name, value in given.items() if name != self.of}
        results = verbs.probe(model, fixed, self.of, swept, self.targets, watch=watch, **how)
        return Outcome(results, titled(fixed, self.targets), titles, self.of)

    def _weights(self, model: FourM, weights: Sequence[float], watch: Watch | None) -> Outcome:
        how = self.settings(model, self.given)
        if not isinstance(how.get("guidance", {}), Mapping):
            raise Open4MError("guidance: a probe sweeps the weight of one condition; give those of others as weights")
        results = verbs.probe_weight(model, self.given, self.of, weights, self.targets, watch=watch, **how)
        return Outcome(results, titled(self.given, self.targets), [f"weight {weight:g}" for weight in weights])
