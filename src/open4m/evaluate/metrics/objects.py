"""Whether images show the objects that captions ask for, as a reader of objects sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from open4m.labellers.reader import FoundObject, paired

ASKED = ("shape", "color")
"""The attributes that an image must show of a mentioned object."""

Described = Sequence[Mapping[str, str]]
"""The attributes of objects."""


def object_recall(found: Sequence[Sequence[FoundObject]], asked: Sequence[Described]) -> float:
    """The share of the objects asked for that images show with this shape and color, in [0, 1]; NaN if none is.

    Of two objects that are asked for, an image must show two. A color that is not said may be any.
    """
    wanted = [[_named(attributes) for attributes in objects] for objects in asked]
    shown = [[_named(each.attributes) for each in objects] for objects in found]
    total = sum(map(len, wanted))
    return sum(map(paired, wanted, shown)) / total if total else float("nan")


def count_exact(found: Sequence[Sequence[FoundObject]], counts: Sequence[int | None]) -> float:
    """The share of images with as many objects as they should have, in [0, 1], of those where that is not None; NaN if
    it is None for all."""
    right = [len(objects) == count for objects, count in zip(found, counts, strict=True) if count is not None]
    return float(np.mean(right)) if right else float("nan")


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: attributes[name] for name in ASKED if name in attributes}
