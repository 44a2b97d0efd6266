"""Attribute F1: whether a caption of a scene mentions the right objects with the right attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from open4m.datasets.scenes import parse_caption

Attributes = Mapping[str, str]
"""What is said, or true, of one object: ``{"shape": "box", "color": "red", ...}``."""


def attribute_f1(
    predictions: Sequence[str],
    references: Sequence[str],
    truth: Sequence[Sequence[Attributes]] | None = None,
) -> float:
    """The harmonic mean of precision and recall over all attributes of all captions together, in [0, 1].

    Captions are read by :func:`parse_caption`. Objects of two descriptions are paired one to one, such that as many
    attributes (shape, color, size, material, pattern) as possible agree, and the agreeing ones are counted.

    - Precision: the share of the predicted attributes that agree with the scene's true objects, ``truth``; saying
      more than the reference is no fault as long as it is true. Without ``truth`` the reference stands for it.
    - Recall: the share of the attributes in the reference caption that the prediction mentions. References do not
      always mention every object, so a true caption of other objects loses recall.

    0 if nothing was predicted. An object said to have a pattern is wrong about a plain one; the converse is no
    statement, as captions never say "plain".
    """
    predicted = [parse_caption(text) for text in predictions]
    mentioned = [parse_caption(text) for text in references]
    right = sum(agreeing(p, t) for p, t in zip(predicted, mentioned if truth is None else truth, strict=True))
    found = sum(agreeing(p, m) for p, m in zip(predicted, mentioned, strict=True))
    precision = right / max(1, _count(predicted))
    recall = found / max(1, _count(mentioned))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def agreeing(first: Sequence[Attributes], second: Sequence[Attributes]) -> int:
    """The most attributes that can agree when the objects of two descriptions are paired one to one."""
    if not first or not second:
        return 0
    agree = np.array([[len(a.items() & b.items()) for b in second] for a in first])
    return int(agree[linear_sum_assignment(agree, maximize=True)].sum())


def most_typical(captions: Sequence[str], candidates: int = 64) -> str:
    """The one of the first ``candidates`` captions that, as a prediction for all of them, has the best F1."""
    return max(captions[:candidates], key=lambda caption: attribute_f1([caption] * len(captions), captions))


def _count(descriptions: Sequence[Sequence[Attributes]]) -> int:
    return sum(len(attributes) for objects in descriptions for attributes in objects)
