"""What all requests share: fields, checks, and JSON both ways. ``request.py`` has the verbs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from open4m import config as configs
from open4m import modalities
from open4m.generate import values, verbs
from open4m.generate.drawing import Outcome
from open4m.generate.masks import Masked
from open4m.generate.pipeline import FourM
from open4m.generate.plan import check_options, fitting, listed
from open4m.generate.presets import preset_of
from open4m.generate.results import Generation, Snapshot
from open4m.generate.seeds import check_seed
from open4m.generate.upscale import is_larger
from open4m.modalities.frames import check_fit, frame_of
from open4m.model.plans import Plans
from open4m.types import Open4MError

FORMAT = 4
"""The version of requests and records as JSON. Format 3 had no presets, plans, merging and super-resolution;
format 2 no frames either: photos were cropped."""

FORMATS = (2, 3, FORMAT)
"""The versions that are read."""

MAX_DESCRIBED = 400
"""Characters of a damaged request that an error repeats."""

Watch = Callable[[Snapshot], None]


class Asked(NamedTuple):
    """What is ``given`` to :meth:`FourM.generate`, and its options."""

    given: dict[str, Any]
    options: dict[str, Any]


VERBS: dict[str, type[Request]] = {}
"""The class of each verb, by its name."""


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
    ``fingerprint``: that of the only weights that are accepted;
    ``plans``: those that are followed instead of the model's own.

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
    plans: Plans | None = None

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

    def __init_subclass__(cls) -> None:
        if "verb" in cls.__dict__:
            VERBS[cls.verb] = cls

    # ---- what it does
    def run(self, model: FourM, watch: Watch | None = None) -> Outcome:
        """Generate. ``watch`` is called after every forward pass.

        Raises :class:`Open4MError`, before the first pass, for what this model cannot do, and if it is not the one of
        the ``fingerprint``.
        """
        return self._run(self.on(model), watch)

    def on(self, model: FourM) -> FourM:
        """The model, following the plans of the request. Raises :class:`Open4MError` if it is not the one of the
        ``fingerprint``."""
        if self.fingerprint and (own := self._fingerprint(model)) != self.fingerprint:
            raise Open4MError(
                f"another model made this: {self.model!r} with fingerprint {self.fingerprint!r}, this one has "
                f"{own}; name that model"
            )
        return model if self.plans is None else model.following(self.plans)

    def asked(self, model: FourM) -> Asked | None:
        """The call of :meth:`FourM.generate` that the request is; None of a verb that first makes something else.

        Raises :class:`Open4MError` for what this model cannot do."""
        return None

    def outcome(self, results: Sequence[Generation]) -> Outcome:
        """What is made of the results of that call."""
        raise NotImplementedError

    def _run(self, model: FourM, watch: Watch | None) -> Outcome:
        raise NotImplementedError

    def settings(self, model: FourM, names: Iterable[str]) -> dict[str, Any]:
        """The keyword arguments of :meth:`FourM.generate`; ``names`` are the conditions that it will be given."""
        own = {name: value for name, value in self.options.items() if name in self.targets}
        shared = {name: value for name, value in self.options.items() if name not in self.targets}
        how = {**fitting(model.config, self.targets, own), **shared}
        if self.preset:
            how["preset"] = self.preset
        elif self.defaults:
            how["defaults"] = dict.fromkeys(self.targets, self.defaults)
        how |= {"seed": self.seed, "entropies": self.entropies, "conditions": self.conditions}
        how |= {"fit": self.fit, "paste": self.paste, "resize": self.resize, "upscale": self.upscale}
        if self.weights or self.avoid:
            joint = dict.fromkeys(names, how.pop("guidance")) if "guidance" in how else {}
            guided = verbs.weighted({**joint, **self.weights}, self.avoid, self.avoid_weight)
            how |= {"guidance": guided["guidance"], "conditions": {**self.conditions, **guided["conditions"]}}
        return how

    def pinned(self, model: FourM) -> Self:
        """The same request, for no other weights and plans than those of ``model``."""
        plans = model.plans.for_(self.targets) if self.plans is None else self.plans
        return replace(self, fingerprint=self.fingerprint or self._fingerprint(model), plans=plans)

    def _fingerprint(self, model: FourM) -> str:
        """That of all weights that the request needs."""
        return f"{model.fingerprint} {model.upscaler.fingerprint}" if self.upscale else model.fingerprint

    # ---- as JSON
    def to_json(self, folder: Path | None = None, but: Container[str] = ()) -> dict[str, Any]:
        """Plain JSON values of all fields ``but`` some; arrays are files in ``folder``, or base64 if that is None."""
        written = {"format": FORMAT, "verb": self.verb}
        for own in (own for own in fields(self) if own.name not in but):
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
