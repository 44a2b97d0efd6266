"""Sequences that are given in part: gaps, for which sentinels stand, are filled with generated spans (paper C.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple


class Filled(NamedTuple):
    """A token of a sequence whose gaps are filled, and its ``place`` among those that were made, if it was."""

    token: int
    place: int | None


def fill(given: Iterable[int], made: Iterable[int], sentinels: Collection[int]) -> list[Filled]:
    """The sequence ``given`` with its sentinels replaced by the spans that were ``made`` for them.

    ``made``: sentinels, each followed by its span. A sentinel without a span stays.
    """
    spans: dict[int, list[Filled]] = {}
    span: list[Filled] = []
    for place, token in enumerate(made):
        if token in sentinels:
            span = spans.setdefault(token, [])
        else:
            span.append(Filled(token, place))
    return [filled for token in given for filled in spans.get(token, [Filled(token, None)])]
