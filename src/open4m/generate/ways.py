"""In which way a sample is generated unless something is said: by a preset, the likeliest of a photo, or sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from open4m import modalities
from open4m.generate.masks import Masked
from open4m.generate.plan import Targets, likeliest, listed
from open4m.generate.presets import preset_of
from open4m.types import Open4MError


def shows_photo(sample: Mapping[str, Any]) -> bool:
    """Whether a photo is given, whole."""
    whole = [name for name, value in sample.items() if isinstance(name, str) and not isinstance(value, Masked)]
    return any(modalities.is_known(name) and modalities.get(name).image for name in whole)


Way = tuple[list[int], Mapping[str, Mapping[str, Any]] | None]
"""The rows of samples that are generated alike, and how unless something is said."""


def ways(
    samples: Sequence[Mapping[str, Any]], from_photo: Mapping[str, Any] | None, else_: Mapping[str, Any] | None
) -> list[Way]:
    """The rows of samples that show a photo, which are generated ``from_photo``, and the others, ``else_``."""
    photos = [row for row, sample in enumerate(samples) if shows_photo(sample)]
    others = [row for row in range(len(samples)) if row not in {*photos}]
    found = [(rows, how) for rows, how in ((photos, from_photo), (others, else_)) if rows]
    return sorted(found, key=lambda way: way[0]) or [([], else_)]


def chosen_way(
    preset: str | None,
    targets: Targets,
    defaults: Mapping[str, Mapping[str, Any]] | None,
    larger: Sequence[str] = (),
) -> tuple[Targets, Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any] | None], list[Way]]]:
    """The targets, in the order of a preset if one is said, and what gives the ways of samples. ``larger``: the grids
    that a second model makes of them, which a preset has options for too.

    That function takes the samples, and the options that are said if how depends on what is given. Raises
    :class:`Open4MError` for a preset beside defaults.
    """
    if preset is not None:
        if defaults is not None:
            raise Open4MError(f"preset={preset!r} is a set of defaults: say it, or defaults, not both")
        named = preset_of(preset)
        from_photo, from_others = (named.defaults([*listed(targets), *larger], given) for given in (True, False))
        return named.ordered(targets), lambda samples, options: ways(samples, from_photo, from_others)

    def by_default(samples: Sequence[Mapping[str, Any]], options: Mapping[str, Any] | None) -> list[Way]:
        predicted = {} if options is None or defaults is not None else likeliest(targets, options)
        return ways(samples, predicted, None) if predicted else [([*range(len(samples))], defaults)]

    return targets, by_default
