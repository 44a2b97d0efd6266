"""Plans: what to generate, in which order and how (paper A.3, "generation schedule")."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from open4m import modalities
from open4m.generate.schemes import SCHEMES
from open4m.model.config import FourMConfig
from open4m.types import Open4MError

MAX_STEPS = 10_000
OF_GRIDS = ("scheme", "steps", "tokens", "schedule", "choice_temperature")  # what says nothing about a sequence
PAIRS = ("temperature", "guidance")  # of the first and the last pass of a grid


@dataclass(frozen=True, kw_only=True)
class Step:
    """One target modality and how it is generated.

    Of grids: ``scheme`` and ``steps``, the forward passes, with a ``schedule`` of how many tokens a pass commits,
    ``cosine`` (few, then many) or ``linear`` (equally many); or ``tokens``, these numbers themselves, which end with
    all that is left. ``choice_temperature``: of the Gumbel noise, falling to 0, on the confidence by which MaskGIT
    chooses. Of sequences: ``steps`` is the most tokens (0: the longest that the model knows).

    ``temperature`` 0 takes the likeliest token; ``top_k`` 0 and ``top_p`` 1 keep all. ``guidance``: the weight w of
    classifier-free guidance (1: none), or a weight a condition, by modality (section 4); what has no weight is seen by
    all passes. Temperature and guidance of a grid may be pairs: of the first and the last pass, linear between.
    ``guided``: whether the finished modality counts as a condition for those that follow; if not, their passes without
    conditions see it too.
    """

    target: str
    scheme: str = "maskgit"
    steps: int = 8
    tokens: tuple[int, ...] = ()
    schedule: str = "cosine"
    choice_temperature: float = 0.0
    temperature: float | tuple[float, float] = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float | tuple[float, float] | Mapping[str, float] = 1.0
    guided: bool = True

    def __post_init__(self) -> None:
        def require(good: bool, field: str, allowed: str) -> None:
            if not good:
                raise Open4MError(f"{self.target}: {field} must be {allowed}, got {getattr(self, field)!r}")

        require(isinstance(self.target, str), "target", "a modality's name")
        require(self.scheme in SCHEMES, "scheme", f"one of {', '.join(SCHEMES)}")
        grid = SCHEMES[self.scheme] is not None
        for field in ("tokens", "temperature", "guidance"):
            if isinstance(value := getattr(self, field), list):  # as JSON has it
                object.__setattr__(self, field, tuple(value))
        for field in ("steps", "top_k"):
            whole = isinstance(getattr(self, field), numbers.Integral) and not isinstance(getattr(self, field), bool)
            require(whole, field, "a whole number")
        pair = ", or two of them" if grid else ""
        for field, more in (("temperature", pair), ("guidance", f"{pair}, or one a condition"), ("top_p", ""),
                            ("choice_temperature", "")):  # fmt: skip
            value = getattr(self, field)
            several = isinstance(value, tuple) and len(value) == 2 and bool(pair) and bool(more)
            named = isinstance(value, Mapping) and field == "guidance"
            each = value if several else value.values() if named else [value]
            require(all(isinstance(v, numbers.Real) for v in each), field, f"a number{more}")
            require(all(math.isfinite(v) for v in each), field, "finite")
        require(min(self._ends("temperature")) >= 0, "temperature", "finite and not negative")
        require(self.choice_temperature >= 0, "choice_temperature", "finite and not negative")
        require(int(grid) <= self.steps <= MAX_STEPS, "steps", f"{int(grid)} to {MAX_STEPS}")
        require(self.top_k >= 0, "top_k", "0 (no limit) or more")
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        require(self.schedule in ("cosine", "linear"), "schedule", "cosine or linear")
        whole = isinstance(self.tokens, tuple) and all(isinstance(n, numbers.Integral) and n > 0 for n in self.tokens)
        require(whole and (grid or not self.tokens), "tokens", "whole numbers above 0, of a grid")
        require(isinstance(self.guided, bool), "guided", "true or false")

    @property
    def passes(self) -> int:
        """Forward passes, at most."""
        return len(self.tokens) or self.steps

    def remaining(self, done: int, total: int) -> int:
        """How many of ``total`` tokens are still unknown after ``done`` passes; falls in each."""
        if done >= self.passes:
            return 0
        if self.tokens:
            return max(0, total - sum(self.tokens[:done]))
        fraction = done / self.steps
        left = math.cos(math.pi / 2 * fraction) if self.schedule == "cosine" else 1 - fraction
        return min(max(0, total - done), math.floor(total * left + 1e-9))  # at least one token a pass

    def temperature_at(self, done: int) -> float:
        """The temperature of the pass after ``done`` of them."""
        return self._between("temperature", done)

    def guidance_at(self, done: int) -> float | Mapping[str, float]:
        """The guidance of the pass after ``done`` of them."""
        return self.guidance if isinstance(self.guidance, Mapping) else self._between("guidance", done)

    def _ends(self, field: str) -> tuple[float, float]:
        value = getattr(self, field)
        return value if isinstance(value, tuple) else (value, value)

    def _between(self, field: str, done: int) -> float:
        begin, end = self._ends(field)
        return begin if begin == end else begin + (end - begin) * done / max(1, self.passes - 1)


def make(config: FourMConfig, targets: Sequence[str | Step], options: Mapping[str, Any] | None = None) -> list[Step]:
    """The plan for targets in order: each modality's own defaults, with ``options`` put over them.

    ``options`` holds fields of :class:`Step` for all targets, or a mapping of them under a target's name.
    """
    if not targets:
        raise Open4MError(f"no target: name one or more of {', '.join(config.targets)}")
    options = dict(options or {})
    allowed = [f.name for f in fields(Step) if f.name != "target"]
    own = {key: options.pop(key) for key in list(options) if key in config.keys}
    for key, values in own.items():
        if key not in targets:
            named = ", ".join(t for t in targets if isinstance(t, str))
            raise Open4MError(f"options for {key}, which is not among the targets given by name ({named or 'none'})")
        if not isinstance(values, Mapping):
            raise Open4MError(f"options for {key}: expected a mapping such as {{'steps': 8}}, got {values!r}")
    for name in [*options, *(n for values in own.values() for n in values)]:
        if name not in allowed:
            raise Open4MError(f"unknown generation option {name!r} (options: {', '.join(allowed)})")
    plan = []
    for target in targets:
        name = target.target if isinstance(target, Step) else target
        if name in config.keys and name not in config.targets:
            allowed = ", ".join(config.targets)
            raise Open4MError(f"{name}: this model was not trained to predict it (targets: {allowed})")
        if name not in config.targets:
            raise modalities.unknown(name, config.targets)
        if isinstance(target, Step):
            plan.append(target)
            continue
        defaults = modalities.get(target).generation
        step = Step(
            target=target, scheme=defaults.scheme, steps=defaults.steps, temperature=defaults.temperature,
            top_k=defaults.top_k, top_p=defaults.top_p,
        )  # fmt: skip
        plan.append(replace(step, **{**_fitting(step, options), **own.get(target, {})}))
    for step in plan:
        family = config.spec(step.target).family
        if (SCHEMES[step.scheme] is None) != (family == "sequence"):
            fitting = [n for n, s in SCHEMES.items() if (s is None) == (family == "sequence")]
            raise Open4MError(f"{step.target}: scheme must be one of {', '.join(fitting)}, got {step.scheme!r}")
    if len({s.target for s in plan}) < len(plan):
        raise Open4MError(f"a target occurs twice: {', '.join(s.target for s in plan)}")
    return plan


def _fitting(step: Step, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for all targets, without a grid's scheme, steps and schedule where the target is a sequence."""
    if SCHEMES[step.scheme] is None:
        return {
            k: v for k, v in options.items() if k not in OF_GRIDS and not (k in PAIRS and isinstance(v, tuple | list))
        }
    return dict(options)
