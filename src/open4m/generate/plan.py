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


@dataclass(frozen=True, kw_only=True)
class Step:
    """One target modality. ``steps`` forward passes for a grid; the most tokens for a sequence (0: its longest).

    ``temperature`` 0 takes the likeliest token; ``top_k`` 0 and ``top_p`` 1 keep all. ``guidance`` is the weight w of
    classifier-free guidance; 1 is none. ``schedule``: how many tokens a step commits, ``cosine`` (few, then many)
    or ``linear`` (equally many).
    """

    target: str
    scheme: str = "maskgit"
    steps: int = 8
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    schedule: str = "cosine"

    def __post_init__(self) -> None:
        def require(good: bool, field: str, allowed: str) -> None:
            if not good:
                raise Open4MError(f"{self.target}: {field} must be {allowed}, got {getattr(self, field)!r}")

        require(self.scheme in SCHEMES, "scheme", f"one of {', '.join(SCHEMES)}")
        least = 0 if SCHEMES[self.scheme] is None else 1
        for field in ("steps", "top_k"):
            require(isinstance(getattr(self, field), numbers.Integral), field, "a whole number")
        for field in ("temperature", "top_p", "guidance"):
            require(isinstance(getattr(self, field), numbers.Real), field, "a number")
        require(least <= self.steps <= MAX_STEPS, "steps", f"{least} to {MAX_STEPS}")
        require(0 <= self.temperature < math.inf, "temperature", "finite and not negative")
        require(self.top_k >= 0, "top_k", "0 (no limit) or more")
        require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1")
        require(math.isfinite(self.guidance), "guidance", "finite")
        require(self.schedule in ("cosine", "linear"), "schedule", "cosine or linear")

    def remaining(self, done: int, total: int) -> int:
        """How many of ``total`` tokens are still unknown after ``done`` of ``steps`` steps; falls at each step."""
        if done >= self.steps:
            return 0
        fraction = done / self.steps
        left = math.cos(math.pi / 2 * fraction) if self.schedule == "cosine" else 1 - fraction
        return min(max(0, total - done), math.floor(total * left + 1e-9))  # at least one token a step


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
        return {k: v for k, v in options.items() if k not in ("scheme", "steps", "schedule")}
    return dict(options)
