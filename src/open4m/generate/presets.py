"""Presets: whole ways of generating under a name, for those who want what another program makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from open4m.generate.plan import Step, Targets, listed
from open4m.hub.ml4m import demo
from open4m.types import Open4MError, shown


@dataclass(frozen=True)
class Preset:
    """``place``: when a modality is generated, by its key. ``options``: how, by its key and by whether a photo is
    given: fields of :class:`~open4m.generate.plan.Step`, none where the preset says nothing."""

    place: Callable[[str], int]
    options: Callable[[str, bool], Mapping[str, Any]]

    def ordered(self, targets: Targets) -> list[str | Step]:
        """The targets in the preset's order; those that it does not know come last, in theirs."""
        names = listed(targets)
        return sorted(names, key=lambda t: self.place(t.target if isinstance(t, Step) else str(t)))

    def defaults(self, targets: Targets, from_photo: bool) -> dict[str, Mapping[str, Any]]:
        """Options by target, as :meth:`FourM.generate` takes ``defaults``."""
        return {name: self.options(name, from_photo) for name in listed(targets) if isinstance(name, str)}


PRESETS = {"demo": Preset(demo.place, demo.options)}
"""All presets by name. ``demo``: as the demo of the paper's authors."""


def preset_of(name: Any) -> Preset:
    """The preset of a name. Raises :class:`Open4MError` that lists them for any other."""
    if not isinstance(name, str) or name not in PRESETS:
        raise Open4MError(f"unknown preset {shown(name)} (presets: {', '.join(PRESETS)})")
    return PRESETS[name]
