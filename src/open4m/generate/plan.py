"""Plans: what to generate, in which order and how (paper A.3, "generation schedule")."""

from __future__ import annotations

import difflib
import itertools
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from open4m import modalities
from open4m.generate.schedules import COOLINGS, SCHEDULES, onex
from open4m.generate.schemes import SCHEMES
from open4m.model.config import TOKENS, FourMConfig, ModalitySpec
from open4m.types import Open4MError

MAX_STEPS = 10_000
MAX_STRENGTH = 10_000
"""Sanity bound of temperature and guidance: well below overflow of logits, far above useful values."""

GRID_OPTIONS = ("scheme", "steps", "tokens", "schedule", "order", "cooling", "choice_temperature")
"""Options that do not apply to sequences."""

SEQUENCE_OPTIONS = ("announced", "open_end")  # do not apply to grids
OF_A_SCHEME = {"choice_temperature": 0.0, "order": ()}  # what not every scheme has, and its absence
PAIRED_OPTIONS = ("temperature", "guidance")
"""Options that may be two numbers for a grid: of the first and of the last pass."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One target modality and how it is generated.

    Grids: ``scheme`` is the order of tokens, ``steps`` the number of forward passes, and ``schedule`` how many tokens
    each commits: ``cosine`` (few, then many), ``linear``, ``even`` (equally many, the latter with larger numbers first)
    or ``bell`` (few, many, few). ``tokens`` gives these numbers instead, one per pass; the last pass commits all that
    is left. ``order``: all cells, by raster index, in the order in which they are generated, instead of the scheme's.
    ``choice_temperature``: of the Gumbel noise on MaskGIT's confidences, falling to 0 over the passes.

    Sequences: ``steps`` is the maximum length without the end (0: that of the model). ``announced``: from the start of
    the plan the encoder sees that the sequence is to come, as one sentinel. ``open_end``: it ends at a sentinel only,
    and what does not end gets no [EOS].

    ``temperature`` 0 takes the likeliest token; ``top_k`` 0 and ``top_p`` 1 keep all. ``limit_first``: these two act
    before the temperature, and MaskGIT's confidences are at that temperature; else without it. ``guidance``: the weight
    w of classifier-free guidance (1: none), or a weight per condition, by modality (section 4); conditions without one
    are seen by the unconditional pass too. Temperature and guidance of a grid may be pairs: of the first and the last
    pass, linear between, or of temperatures by ``cooling="onex"``, fast, then slowly. ``guided``: whether the finished
    modality is a condition for the targets after it; if not, their unconditional passes see it too.

    Raises :class:`Open4MError` for values that cannot be, whatever the model.
    """

    target: str
    scheme: str = "roar"
    steps: int = 8
    tokens: tuple[int, ...] = ()
    schedule: str = "cosine"
    order: tuple[int, ...] = ()
    choice_temperature: float = 0.0
    temperature: float | tuple[float, float] = 1.0
    cooling: str = "linear"
    top_k: int = 0
    top_p: float = 1.0
    limit_first: bool = False
    guidance: float | tuple[float, float] | Mapping[str, float] = 1.0
    guided: bool = True
    announced: bool = False
    open_end: bool = False

    def __post_init__(self) -> None:
        def require(good: bool, field: str, allowed: str) -> None:
            if not good:
                raise Open4MError(f"{self.target}: {field} must be {allowed}, got {getattr(self, field)!r}")

        require(isinstance(self.target, str), "target", "a modality's name")
        require(isinstance(self.scheme, str) and self.scheme in SCHEMES, "scheme", f"one of {', '.join(SCHEMES)}")
        grid = SCHEMES[self.scheme] is not None
        for field in ("tokens", "order", "temperature", "guidance"):
            value = getattr(self, field)
            value = value.tolist() if isinstance(value, np.ndarray) else value
            object.__setattr__(self, field, tuple(value) if isinstance(value, list) else value)  # lists come from JSON
        for field in ("steps", "top_k"):
            require(_is_number(getattr(self, field), numbers.Integral), field, "a whole number")
        pair = ", or two of them" if grid else ""
        for field, more, least in (
            ("temperature", pair, 0),
            ("guidance", f"{pair}, or one per condition", -MAX_STRENGTH),
            ("choice_temperature", "", 0),
        ):
            value = getattr(self, field)
            several = isinstance(value, tuple) and len(value) == 2 and bool(pair) and bool(more)
            named = isinstance(value, Mapping) and field == "guidance" and all(isinstance(name, str) for name in value)
            each = value if several else value.values() if named else [value]
            require(all(_is_number(v, numbers.Real) for v in each), field, f"a number{more}")
            require(all(least <= v <= MAX_STRENGTH for v in each), field, f"finite, from {least} to {MAX_STRENGTH}")
        require(_is_number(self.top_p, numbers.Real) and 0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        require(int(grid) <= self.steps <= MAX_STEPS, "steps", f"{int(grid)} to {MAX_STEPS}")
        require(self.top_k >= 0, "top_k", "0 (no limit) or more")
        for field, names in (("schedule", [*SCHEDULES]), ("cooling", COOLINGS)):
            value = getattr(self, field)
            require(isinstance(value, str) and value in names, field, f"one of {', '.join(names)}")
        for field, least, said in (("tokens", 1, "above 0"), ("order", 0, "from 0 on")):
            value = getattr(self, field)
            whole = isinstance(value, tuple) and all(_is_number(n, numbers.Integral) and n >= least for n in value)
            require(whole and (grid or not value), field, f"whole numbers {said}, and only for a grid")
        require(not self.order or self.scheme != "maskgit", "order", "left out for maskgit, which finds its own")
        if len(self.tokens) > MAX_STEPS:
            raise Open4MError(f"{self.target}: tokens must be of at most {MAX_STEPS} passes, got {len(self.tokens)}")
        for field in ("guided", "limit_first", *SEQUENCE_OPTIONS):
            require(isinstance(getattr(self, field), bool), field, "true or false")
            require(not (grid and field in SEQUENCE_OPTIONS and getattr(self, field)), field, "false for a grid")
        for field in ("steps", "top_k", "tokens", "order"):  # NumPy's numbers become Python's, for JSON
            object.__setattr__(self, field, _plain(getattr(self, field), int))
        for field in ("temperature", "top_p", "choice_temperature", "guidance"):
            object.__setattr__(self, field, _plain(getattr(self, field), float))

    @property
    def passes(self) -> int:
        """Forward passes, at most."""
        return len(self.tokens) or self.steps

    def remaining(self, done: int, total: int) -> int:
        """How many of ``total`` tokens are still unknown after ``done`` passes: fewer after each."""
        if done >= self.passes:
            return 0
        if self.tokens:
            return max(0, total - sum(self.tokens[:done]))
        return SCHEDULES[self.schedule](done, self.steps, total)

    def temperature_at(self, done: int, total: int) -> float:
        """The temperature of the pass after ``done`` of them, for a grid of ``total`` cells."""
        begin, end = self._ends("temperature")
        if self.cooling == "onex" and begin != end:
            return end + (begin - end) * onex(done, total, self.remaining(done + 1, total) / total)
        return self._between("temperature", done)

    def guidance_at(self, done: int) -> float | Mapping[str, float]:
        """The guidance of the pass after ``done`` of them."""
        return self.guidance if isinstance(self.guidance, Mapping) else self._between("guidance", done)

    def views(
        self, done: int, others: Sequence[str], free: Collection[str]
    ) -> tuple[list[list[str]], list[float] | None]:
        """What each forward pass of the step after ``done`` sees besides the target, and the guidance weights.

        ``others``: all modalities of the canvas; ``free``: finished targets that are no conditions. With guidance, the
        first list is what the unconditional pass sees: ``free``, or all conditions without a weight of their own where
        they are weighted one by one. The other lists are those of the conditional passes, one per weight. Without
        guidance there is one list, and None for the weights.
        """
        guidance = self.guidance_at(done)
        if isinstance(guidance, Mapping):
            base = [key for key in others if key not in guidance]
            weights = {name: weight for name, weight in guidance.items() if weight}
            return [base, *([*base, name] for name in weights)], [*weights.values()] or None
        base = [key for key in others if key in free]
        if guidance in (0, 1):
            return [[*others] if guidance else base], None
        return [base, [*others]], [guidance]

    def _ends(self, field: str) -> tuple[float, float]:
        value = getattr(self, field)
        return value if isinstance(value, tuple) else (value, value)

    def _between(self, field: str, done: int) -> float:
        begin, end = self._ends(field)
        return begin if begin == end else begin + (end - begin) * done / max(1, self.passes - 1)


Targets = str | Step | Sequence[str | Step]
"""What is generated, in this order."""

LIKELIEST = {"scheme": "maskgit", "temperature": 0.0, "steps": 2}
"""Options of predictions: the likeliest tokens, a grid in two passes."""


def listed(targets: Targets) -> list[str | Step]:
    """The targets as a list. Raises :class:`Open4MError` for what is none."""
    if isinstance(targets, str | Step):
        return [targets]
    if not isinstance(targets, Sequence):
        raise Open4MError(f"targets: expected a modality or a list of them, such as ['rgb'], got {targets!r}")
    return list(targets)


def make(
    config: FourMConfig,
    targets: Targets,
    options: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Step]:
    """The plan for targets in order: each modality's own defaults, over them ``defaults`` by target as far as they
    apply (not those :data:`OF_A_SCHEME` if another scheme is asked for), and over those ``options``.

    ``options`` holds fields of :class:`Step` for all targets, or a mapping of them under a target's name. An option for
    all targets applies to those that it fits. ``steps`` fits neither a sequence, for which it would be the maximum
    length, nor a grid that the model does not read: that is generated in one pass, since a second pass would not see
    the tokens of the first. Raises :class:`Open4MError` for what is unknown, fits no target or cannot work.
    """
    targets = listed(targets)
    if not targets:
        raise Open4MError(f"no target: name one or more of {', '.join(config.targets)}")
    for target in targets:
        if not isinstance(target, str | Step):
            raise Open4MError(f"targets: expected names of modalities, or Steps, got {target!r}")
        name = target if isinstance(target, str) else target.target
        if name in config.keys and name not in config.targets:
            allowed = ", ".join(config.targets)
            raise Open4MError(f"{name}: this model was not trained to predict it (targets: {allowed})")
        if name not in config.targets:
            raise modalities.unknown(name, config.targets)
    options = dict(options or {})
    own = {key: options.pop(key) for key in list(options) if key in config.keys}
    named = [target for target in targets if isinstance(target, str)]
    _check_options(config, named, options, own)
    plan = []
    for target in targets:
        if isinstance(target, Step):
            plan.append(target)
            continue
        spec, step = config.spec(target), default(target)
        step, own_defaults = replace(step, steps=1) if _in_one_pass(spec) else step, (defaults or {}).get(target, {})
        check_fields(own_defaults)
        step = replace(step, **{name: value for name, value in own_defaults.items() if _fits(spec, name, value)})
        shared = {name: value for name, value in options.items() if _fits(spec, name, value)}
        said = {**shared, **own.get(target, {})}
        other = OF_A_SCHEME if said.get("scheme", step.scheme) != step.scheme else {}
        plan.append(replace(step, **{**other, **said}))
    _check_plan(config, plan)
    return plan


def default(target: str) -> Step:
    """How a modality is generated if nothing is said."""
    own = modalities.get(target).generation
    return Step(
        target=target,
        scheme=own.scheme,
        steps=own.steps,
        temperature=own.temperature,
        top_k=own.top_k,
        top_p=own.top_p,
    )


def check_options(targets: Sequence[str], options: Mapping[str, Any]) -> None:
    """Raise :class:`Open4MError` for options, as :func:`make` takes them, that no model could follow."""
    shared = {name: value for name, value in options.items() if name not in targets}
    for name in shared:
        if modalities.is_known(name):
            raise Open4MError(f"options for {name}, which is not generated (targets: {', '.join(targets)})")
    check_fields(shared)
    for target in targets:
        own, family = options.get(target, {}), modalities.get(target).family
        if not isinstance(own, Mapping):
            raise Open4MError(f"options for {target}: expected a mapping such as {{'steps': 8}}, got {own!r}")
        check_fields(own)
        if family.has_vocabulary:
            other = SEQUENCE_OPTIONS if family.has_codebook else ()
            fit = {n: v for n, v in shared.items() if (n not in other if other else _fits_sequence(n, v))}
            replace(default(target), **{**fit, **own})


def fitting(config: FourMConfig, targets: Targets, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that apply to at least one of the targets: those of a target itself, and those for all targets that
    fit one without an own value. For settings that serve several plans, since :func:`make` refuses what fits no target.
    """
    specs = [config.spec(target) for target in listed(targets) if target in config.keys]
    own = {spec.key: options[spec.key] for spec in specs if spec.key in options}
    named = {key: values if isinstance(values, Mapping) else {} for key, values in own.items()}
    shared = {name: value for name, value in options.items() if name not in config.keys}
    used = {
        name: value
        for name, value in shared.items()
        if any(_fits(spec, name, value) and name not in named.get(spec.key, {}) for spec in specs)
    }
    return {**used, **own}


def bound(
    config: FourMConfig, plan: Sequence[Step], given: Sequence[Collection[str]], conditions: Collection[str] = ()
) -> list[Step]:
    """The plan for samples, with guidance by the keys under which the model reads what is given.

    ``given``: the modalities of each sample; ``conditions``: the names of further conditions. Guidance by an image that
    the model reads as pixels becomes guidance by the pixels. Raises :class:`Open4MError` for guidance by a modality
    that is not given, and for a target that the model was not trained to generate from any of those that are.
    """
    pixels, steps = config.readers, []
    names = {key: name for name, key in pixels.items()}
    for place, step in enumerate(plan):
        made = [earlier.target for earlier in plan[:place]]
        sources = config.sources(step.target)
        for seen in ({*keys, *made} for keys in given):
            if seen and not seen.intersection(sources):
                raise Open4MError(
                    f"{step.target}: this model was not trained to generate it from {', '.join(sorted(seen))} alone "
                    f"(from: {', '.join(sources)})"
                )
        if given and isinstance(step.guidance, Mapping):
            known = [*dict.fromkeys([*itertools.chain(*given), *made, *conditions])]
            known = [key for key in known if key != step.target]
            read = {name: config.read_as(name) for name in step.guidance}
            keys = {name: key if key in known or name.endswith(TOKENS) else name for name, key in read.items()}
            if absent := [name for name, key in keys.items() if key not in known]:
                there = ", ".join(names.get(key, key) for key in known) or "nothing"
                raise Open4MError(
                    f"{step.target}: guidance by {', '.join(absent)}, which is not given (given: {there})"
                )
            if len(set(keys.values())) < len(keys):
                raise Open4MError(f"{step.target}: guidance by {' and by '.join(keys)}, of which two are the same")
            step = replace(step, guidance={keys[name]: weight for name, weight in step.guidance.items()})
        steps.append(step)
    return steps


def _check_options(
    config: FourMConfig, named: Sequence[str], options: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Raise for options that cannot apply: for all targets, or under a target's name (``own``)."""
    for key, values in own.items():
        if key not in named:
            raise Open4MError(
                f"options for {key}, which is not among the targets given by name ({', '.join(named) or 'none'})"
            )
        if not isinstance(values, Mapping):
            raise Open4MError(f"options for {key}: expected a mapping such as {{'steps': 8}}, got {values!r}")
    check_fields([*options, *(name for values in own.values() for name in values)])
    for name, value in options.items():
        if not named:
            raise Open4MError(f"{name}={value!r} is for targets given by name, and all are Steps: say it there")
        fit = [target for target in named if _fits(config.spec(target), name, value)]
        if fit and all(name in own.get(target, {}) for target in fit):
            raise Open4MError(
                f"{name}={value!r} is for all targets, and each that it fits ({', '.join(fit)}) has another {name} of "
                "its own: leave out one of them"
            )
        if not fit:
            texts = [key for key in named if config.spec(key).is_causal and name == "steps"]
            hint = (
                (
                    f", or say how many tokens a sequence may have: {texts[0]}={{'steps': {value!r}}}, on the command "
                    f"line --option {texts[0]}.steps={value!r}"
                )
                if texts
                else ""
            )
            if name in SEQUENCE_OPTIONS:
                raise Open4MError(f"{name}={value!r} is for sequences, and no target is one ({', '.join(named)})")
            raise Open4MError(
                f"{name}={value!r} is for grids that are generated in several passes, and no target is one "
                f"({', '.join(named)}): leave it out{hint}"
            )


OTHER_NAMES = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "cfg_scale": "guidance",
    "generator": "seed",
    "num_images_per_prompt": "samples",
    "num_return_sequences": "samples",
    "num_samples": "samples",
    "n": "samples",
    "max_new_tokens": "steps",
    "max_length": "steps",
}
"""What other libraries call the options of generation (``docs/api.md`` has a table)."""


def check_fields(names: Iterable[str]) -> None:
    """Raise :class:`Open4MError`, with the nearest match, for what is not an option of :class:`Step`."""
    allowed = [f.name for f in fields(Step) if f.name != "target"]
    for name in names:
        if name not in allowed:
            near = OTHER_NAMES.get(name) or next(iter(difflib.get_close_matches(str(name), allowed, n=1)), "")
            hint = f"; did you mean {near}?" if near else ""
            raise Open4MError(f"unknown generation option {name!r}{hint} (options: {', '.join(allowed)})")


def _check_plan(config: FourMConfig, plan: Sequence[Step]) -> None:
    """Raise for steps that the model cannot generate, alone or in this order."""
    inputs = ", ".join(config.inputs)
    for step in plan:
        spec = config.spec(step.target)
        if (SCHEMES[step.scheme] is None) != (spec.is_causal):
            allowed = [n for n, s in SCHEMES.items() if (s is None) == (spec.is_causal)]
            raise Open4MError(f"{step.target}: scheme must be one of {', '.join(allowed)}, got {step.scheme!r}")
        if step.choice_temperature and step.scheme != "maskgit":
            raise Open4MError(
                f"{step.target}: choice_temperature={step.choice_temperature} is for scheme='maskgit', and its scheme "
                f"is {step.scheme!r}: say the scheme, or leave it out"
            )
        if step.order and sorted(step.order) != [*range(spec.length)]:
            raise Open4MError(f"{step.target}: order must hold each of its {spec.length} cells once, from 0 on")
        if _in_one_pass(spec) and step.passes > 1:
            raise Open4MError(
                f"{step.target}: expected one pass (steps=1), since this model does not read it (inputs: {inputs}) and "
                f"would not see what it made in others, got {step.passes} passes"
            )
    if len({s.target for s in plan}) < len(plan):
        raise Open4MError(f"a target occurs twice: {', '.join(s.target for s in plan)}")
    for step, later in itertools.pairwise(plan):
        if not config.spec(step.target).is_input:
            raise Open4MError(
                f"{step.target}: this model does not read it (inputs: {inputs}), so {later.target} cannot be generated "
                f"from it: generate {step.target} last or alone"
            )


def _in_one_pass(spec: ModalitySpec) -> bool:
    """Whether a grid is generated in one pass, since the model does not read it."""
    return spec.has_codebook and not spec.is_input


def _fits(spec: ModalitySpec, name: str, value: Any) -> bool:
    """Whether an option for all targets applies to one of them. Its value is checked by :class:`Step`."""
    if spec.is_causal:
        return _fits_sequence(name, value)
    if name in SEQUENCE_OPTIONS:
        return False
    if _in_one_pass(spec):
        return not (
            (name == "steps" and _is_number(value, numbers.Integral) and value > 1)
            or (name == "tokens" and _are_several(value) and len(value) > 1)
        )
    return True


def _fits_sequence(name: str, value: Any) -> bool:
    return name not in GRID_OPTIONS and not (name in PAIRED_OPTIONS and _are_several(value))


def _are_several(value: Any) -> bool:
    return isinstance(value, tuple | list | np.ndarray)


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _plain(value: Any, kind: type) -> Any:
    """A number, a tuple or a mapping of numbers, all of them converted to one Python type."""
    if isinstance(value, Mapping):
        return {name: kind(each) for name, each in value.items()}
    return tuple(map(kind, value)) if isinstance(value, tuple) else kind(value)
