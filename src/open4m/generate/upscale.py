"""Super-resolution in the chain: a second model makes larger grids of the first one's tokens (paper A.1).

Both models read the same tokens of the same modalities. The second one also has grids of more cells, ``rgb@448`` beside
``rgb``, and is shown all that the first one was shown and has made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from open4m.generate.canvas import Canvas
from open4m.generate.plan import Step, Targets, bound, fitting, listed, make
from open4m.model.config import FourMConfig
from open4m.types import Open4MError


def split(config: FourMConfig, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a call: those of the first model, and those under the name of a larger grid, such as ``rgb@448``."""
    further = {
        name: value
        for name, value in options.items()
        if isinstance(value, Mapping) and is_larger(name, config.keys) and name not in config.keys
    }
    return {name: value for name, value in options.items() if name not in further}, further


def is_larger(name: str, targets: Collection[str]) -> bool:
    """Whether a name is that of another size of one of the targets: ``rgb@448`` of ``rgb``."""
    stem, at, _ = name.partition("@")
    return bool(at) and name not in targets and any(target.partition("@")[0] == stem for target in targets)


def larger(first: FourMConfig, second: FourMConfig, target: str) -> str | None:
    """The grid of the second model that shows a target of the first with more cells, the smallest of them; None if it
    has none."""
    stem = target.partition("@")[0]
    found = [
        spec
        for spec in second.modalities
        if spec.is_target and spec.has_codebook and spec.key.partition("@")[0] == stem
        if spec.length > first.spec(target).length
    ]
    return min(found, key=lambda spec: spec.length).key if found else None


def names(first: FourMConfig, second: FourMConfig, targets: Targets) -> list[str]:
    """The larger grids of those targets that have one."""
    own = [target.target if isinstance(target, Step) else target for target in listed(targets)]
    found = (larger(first, second, name) for name in own if name in first.keys)
    return [name for name in found if name is not None]


def plan_of(
    first: FourMConfig,
    second: FourMConfig,
    plan: Sequence[Step],
    options: Mapping[str, Any],
    defaults: Mapping[str, Mapping[str, Any]] | None,
) -> list[Step]:
    """How the second model generates the larger grids of all targets that have one, in their order.

    ``options``: those of the call, as :func:`open4m.generate.plan.make` takes them. What is said for all targets is for
    the larger ones too, and ``defaults`` of a target are those of its larger grid that has none. Raises
    :class:`Open4MError` if no target has one.
    """
    found = {step.target: larger(first, second, step.target) for step in plan}
    targets = {own: key for own, key in found.items() if key is not None}
    if not targets:
        makes = ", ".join(spec.key for spec in second.modalities if spec.is_target)
        raise Open4MError(
            f"upscale: the model of super-resolution makes {makes}, which are no larger grids of {', '.join(found)}"
        )
    shared = {name: value for name, value in options.items() if name not in first.keys}
    if others := [name for name in shared if is_larger(name, first.keys) and name not in targets.values()]:
        raise Open4MError(f"options for {others[0]}, which is not generated (larger: {', '.join(targets.values())})")
    defaults = defaults or {}
    grown = {key: defaults.get(key, defaults.get(own, {})) for own, key in targets.items()}
    return make(second, [*targets.values()], fitting(second, [*targets.values()], shared), grown)


def bound_to(config: FourMConfig, plan: Sequence[Step], canvas: Canvas, conditions: Collection[str]) -> list[Step]:
    """The plan for what the second model is shown: guidance by what it does not read is left out."""
    names = {*canvas.present, *conditions, *(step.target for step in plan)}

    def of(step: Step) -> Step:
        if not isinstance(step.guidance, Mapping):
            return step
        kept = {name: weight for name, weight in step.guidance.items() if config.read_as(name) in names}
        return replace(step, guidance=kept)

    return bound(config, [of(step) for step in plan], [canvas.present] * canvas.size, conditions)


def carried(canvas: Canvas, config: FourMConfig) -> Canvas:
    """What another model reads of a canvas: the tokens, pixels and vectors of the modalities that it has alike."""
    own = {spec.key: spec for spec in config.modalities if spec.is_input}
    fields = ("family", "vocab_size", "grid", "patch_size", "channels")

    def is_alike(key: str) -> bool:
        theirs = canvas.config.spec(key)
        return key in own and all(getattr(own[key], name) == getattr(theirs, name) for name in fields)

    return replace(canvas.select([key for key in canvas.present if is_alike(key)]), config=config)
