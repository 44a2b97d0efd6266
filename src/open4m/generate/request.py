"""One request: what is given, what is asked for, and how. Every front-end makes this and nothing else.

The command line, the record of a result, and services build the class of a verb (:data:`VERBS`), from arguments or
from JSON (:meth:`Request.from_json`). Making it checks all that needs no model; :meth:`Request.run` checks the rest
before the first forward pass, and gives an :class:`Outcome`. A new verb is one class here.

>>> request = Inpaint(given={"rgb": image, "caption": "a red cone"}, mask=(0.2, 0.2, 0.6, 0.6), samples=4)
>>> request.run(model).picture(model)
>>> Request.from_json(request.to_json())
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from open4m import config as configs
from open4m import modalities
from open4m.generate import values, verbs
from open4m.generate.changes import SWEEP, Change, Corners, Sweep, Values, Weights, class_names
from open4m.generate.drawing import Outcome, titled
from open4m.generate.masks import Masked, check_mask, fractions
from open4m.generate.pipeline import FourM, check_seed
from open4m.generate.plan import LIKELIEST, check_options, fitting, listed
from open4m.generate.presets import preset_of
from open4m.generate.results import Generation, Snapshot
from open4m.generate.upscale import is_larger
from open4m.modalities.frames import check_fit, frame_of
from open4m.types import Open4MError, Value

FORMAT = 4
"""The version of requests and records as JSON. Format 3 had no presets and no super-resolution, format 2 no frames:
photos were cropped."""

FORMATS = (2, 3, FORMAT)
"""The versions that are read."""

MAX_DESCRIBED = 400
"""Characters of a damaged request that an error repeats."""

Watch = Callable[[Snapshot], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What all verbs share; the class of a verb adds its own fields.

    ``given``: values by modality; a target may be given in part, :class:`Masked`. ``targets``: what is generated, in
    this order (default: the photo). ``options``: fields of :class:`~open4m.generate.plan.Step` for all targets, or a
    mapping of them under the name of one; ``preset``: the name of the defaults below them. ``weights``: guidance by
    single conditions; ``avoid``: texts to go away from, with ``avoid_weight``; ``conditions``: values that only
    guidance by name refers to. ``samples``: how many results, of seeds from ``seed`` on. ``entropies``: whether the
    model's uncertainty is recorded. ``fit``: which square the model sees of a photo; ``paste``: whether what is kept of
    a target is pasted onto it; ``resize``: whether maps have the photo's resolution; ``upscale``: whether a second
    model makes larger ones (:meth:`FourM.generate`). ``model``: the name under which the model is loaded;
    ``fingerprint``: that of the only weights that are accepted.

    Raises :class:`Open4MError` for what no model could do.
    """

    verb: ClassVar[str]
    chooses_targets: ClassVar[bool] = False  # whether there is no default target
    defaults: ClassVar[Mapping[str, Any]] = {}  # options of the verb, which those of the request replace

    given: dict[str, Any] = field(default_factory=dict, metadata={"codec": values.VALUES})
    targets: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    avoid: tuple[str, ...] = ()
    avoid_weight: float = verbs.DEFAULT_AVOID_WEIGHT
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict, metadata={"codec": values.CONDITIONS})
    samples: int = 1
    seed: int = 0
    entropies: bool = False
    fit: str = "crop"
    paste: bool = True
    resize: bool = False
    upscale: bool = False
    model: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        targets = tuple(listed(self.targets))
        if not targets:
            if self.chooses_targets:
                raise Open4MError("targets: name one or more modalities to generate")
            targets = (verbs.photo(),)
        for name in targets:
            modalities.get(name)
        larger = [name for name in self.options if self.upscale and is_larger(name, targets)]
        check_options(targets, {name: value for name, value in self.options.items() if name not in larger})
        if self.preset:
            preset_of(self.preset)
        verbs.check_samples(self.samples)
        check_seed([self.seed])
        self._set(targets=targets, given=values.checked(self.given), options=values.plain(self.options))
        self._set(conditions={name: values.checked(shown) for name, shown in self.conditions.items()})
        self._set(samples=int(self.samples), seed=int(self.seed))
        self._check_frames()
        if self.weights or self.avoid:
            verbs.weighted(self.weights, self.avoid, self.avoid_weight)
            if isinstance(self.options.get("guidance"), list | tuple):
                raise Open4MError(
                    f"guidance={self.options['guidance']!r}: two values are for all conditions together; leave out "
                    "weights and what to avoid"
                )

    # ---- what it does
    def run(self, model: FourM, watch: Watch | None = None) -> Outcome:
        """Generate. ``watch`` is called after every forward pass.

        Raises :class:`Open4MError`, before the first pass, for what this model cannot do, and if it is not the one of
        the ``fingerprint``.
        """
        if self.fingerprint and (own := self._fingerprint(model)) != self.fingerprint:
            raise Open4MError(
                f"another model made this: {self.model!r} with fingerprint {self.fingerprint!r}, this one has "
                f"{own}; name that model"
            )
        return self._run(model, watch)

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        raise NotImplementedError

    def settings(self, model: FourM, names: Iterable[str]) -> dict[str, Any]:
        """The keyword arguments of :meth:`FourM.generate`; ``names`` are the conditions that it will be given."""
        own = {name: value for name, value in self.options.items() if name in self.targets}
        shared = {name: value for name, value in self.options.items() if name not in self.targets}
        defaults = {} if self.preset else self.defaults
        how = {**fitting(model.config, self.targets, {**defaults, **own}), **shared}
        how |= {"preset": self.preset} if self.preset else {}
        how |= {"seed": self.seed, "entropies": self.entropies, "conditions": self.conditions}
        how |= {"fit": self.fit, "paste": self.paste, "resize": self.resize, "upscale": self.upscale}
        if self.weights or self.avoid:
            joint = dict.fromkeys(names, how.pop("guidance")) if "guidance" in how else {}
            guided = verbs.weighted({**joint, **self.weights}, self.avoid, self.avoid_weight)
            how |= {"guidance": guided["guidance"], "conditions": {**self.conditions, **guided["conditions"]}}
        return how

    def pinned(self, model: FourM) -> Self:
        """The same request, for no other weights than those of ``model``."""
        return self if self.fingerprint else replace(self, fingerprint=self._fingerprint(model))

    def _fingerprint(self, model: FourM) -> str:
        """That of all weights that the request needs."""
        return f"{model.fingerprint} {model.upscaler.fingerprint}" if self.upscale else model.fingerprint

    # ---- as JSON
    def to_json(self, folder: Path | None = None) -> dict[str, Any]:
        """Plain JSON values; arrays are files in ``folder``, or base64 if that is None."""
        written = {"format": FORMAT, "verb": self.verb}
        for own in fields(self):
            value, codec = getattr(self, own.name), own.metadata.get("codec")
            written[own.name] = configs.to_dict(value) if codec is None else codec.encode(value, folder)
        return written

    @staticmethod
    def from_json(written: Any, folder: Path | None = None, where: str = "request") -> Request:
        """The request of JSON from anywhere, checked; ``where`` names it in errors. Files are those in ``folder``.

        Raises :class:`Open4MError` for an unknown verb or field (with the nearest match), a mistyped or missing field,
        and another format.
        """
        if not isinstance(written, Mapping):
            raise Open4MError(f"{where}: expected the fields of a request, got {type(written).__name__}")
        try:
            return Request._of_fields(dict(written), folder, where)
        except (Open4MError, TypeError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error) if len(str(error)) <= MAX_DESCRIBED else f"{str(error)[:MAX_DESCRIBED]} ..."
            raise Open4MError(reason if reason.startswith(where) else f"{where}: {reason}") from error

    @staticmethod
    def _of_fields(found: dict[str, Any], folder: Path | None, where: str) -> Request:
        if (version := found.pop("format", FORMAT)) not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise Open4MError(f"{where}: has format {version!r}, this open4m reads formats {known}")
        verb = found.pop("verb", None)
        if not isinstance(verb, str) or verb not in VERBS:
            near = difflib.get_close_matches(str(verb)[:MAX_DESCRIBED], VERBS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Open4MError(f"{where}: unknown verb {verb!r}{hint} (verbs: {', '.join(VERBS)})")
        for own in fields(VERBS[verb]):
            if own.name in found and "codec" in own.metadata:
                found[own.name] = own.metadata["codec"].decode(found[own.name], f"{where}.{own.name}", folder)
        return configs.from_dict(VERBS[verb], found, where)

    # ---- for the verbs
    def _check_frames(self) -> None:
        """Raise for given maps that do not show one picture."""
        check_fit(self.fit)
        for shown in (self.given, *self.conditions.values()):
            values = {name: value.value if isinstance(value, Masked) else value for name, value in shown.items()}
            frame_of(values, {name: modalities.get(name) for name in shown}, self.fit)

    def _set(self, **checked: Any) -> None:
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _needs(self, name: str) -> None:
        """Raise unless a modality is given."""
        modality = modalities.get(name)
        if name not in self.given:
            flag = (
                f"--given {name}=FILE" if modality.flag is None else f"--{modality.flag.name} {modality.flag.metavar}"
            )
            raise Open4MError(f"{name} is not given: {self.verb} needs it (on the command line {flag})")


# ---- the verbs


class Generate(Request):
    """Any modalities from any others (:func:`verbs.sampled`)."""

    verb = "generate"
    chooses_targets = True

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        how = self.settings(model, self.given)
        results = verbs.sampled(model, self.given, self.targets, samples=self.samples, watch=watch, **how)
        return Outcome(results, titled(self.given, self.targets))


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
        results = paint(model, self.given[target], where, target, others, samples=self.samples, watch=watch, **how)
        return Outcome(results, titled(results[0].given, self.targets))


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpaint(_Painting):
    """The part of an image or map that ``mask`` covers, as :class:`Masked` takes it (:func:`verbs.inpaint`)."""

    verb = "inpaint"

    mask: Any = field(metadata={"codec": values.MASK})

    def __post_init__(self) -> None:
        super().__post_init__()
        (target,) = self.targets
        given = self.given[target]
        extent = modalities.get(target).extent(given.value if isinstance(given, Masked) else given)
        if extent is not None:
            check_mask(self.mask, extent, target)

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


VERBS: dict[str, type[Request]] = {
    cls.verb: cls for cls in (Generate, Extract, Guide, Inpaint, Outpaint, Vary, Edit, Probe)
}
"""The class of each verb, by its name."""
