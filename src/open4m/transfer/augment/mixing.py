"""Mixup, CutMix and label smoothing (paper Table 6, [129], [124]).

A row is mixed with its :func:`partner`, the other one of a pair of neighbors: which examples lie there is random
already, and a process that makes consecutive rows reads nearly none that it does not need. So a row depends on
(seed, step, row) alone: augment the row and its partner, each with its own stream, then call :meth:`Mixing.mixed` with
another stream of the row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from open4m.ranges import Amount, Share, check_ranges
from open4m.types import Open4MError


def partner(row: int, batch_size: int) -> int:
    """The row of the batch that a row is mixed with: 1 with 0, 3 with 2, ... The last row of an odd number: itself."""
    other = row ^ 1
    return other if other < batch_size else row


def needed(rows: Iterable[int], batch_size: int) -> list[int]:
    """The rows of a batch that have to be read to make ``rows``, in order."""
    rows = list(rows)
    return sorted({*rows, *(partner(row, batch_size) for row in rows)})


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the rows of a batch are mixed in pairs.

    ``mixup``, ``cutmix``: a, of the distribution Beta(a, a) of the row's own share; 0 switches one off. ``switch``: the
    probability of CutMix where both are on. ``probability``: that a row is mixed at all. ``smoothing``: the share ε of
    a label that is spread over all classes.
    """

    mixup: Amount = 0.1
    cutmix: Amount = 1.0
    switch: Share = 0.5
    probability: Share = 1.0
    smoothing: Share = 0.1

    def __post_init__(self) -> None:
        check_ranges(self)

    def smoothed(self, label: int, classes: int) -> np.ndarray:
        """The probabilities (classes,) float32 of a label: 1 - ε + ε / classes of its class, ε / classes of others."""
        if not 0 <= label < classes:
            raise Open4MError(f"label: expected a class from 0 to {classes - 1}, got {label}")
        probabilities = np.full(classes, self.smoothing / classes, dtype=np.float32)
        probabilities[label] += 1 - self.smoothing
        return probabilities

    def mixed(
        self,
        image: np.ndarray,
        label: np.ndarray,
        partner_image: np.ndarray,
        partner_label: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A row, images (H, W, C) of one size and type, and the probabilities (classes,) of labels, mixed with its
        partner. The label's share is that of the pixels, exactly."""
        if image.shape != partner_image.shape or image.dtype != partner_image.dtype:
            raise Open4MError(
                f"mixing: expected two images of one size, got {image.dtype} {image.shape} and "
                f"{partner_image.dtype} {partner_image.shape}: crop or resize them to a square before"
            )
        mixes, switches = rng.uniform(size=2) < (self.probability, self.switch)
        cuts = self.cutmix > 0 and (switches or self.mixup == 0)
        amount = self.cutmix if cuts else self.mixup
        if not mixes or amount == 0:
            return image, label
        share = rng.beta(amount, amount)
        if cuts:
            image, share = _cut(image, partner_image, share, rng)
        else:
            image = _blended(image, partner_image, share)
        own, other = np.float32(share), np.float32(1 - share)
        return image, (own * label + other * partner_label).astype(label.dtype)


def _blended(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    mixed = image * np.float32(share) + other * np.float32(1 - share)
    return mixed.round().astype(image.dtype) if image.dtype.kind in "iu" else mixed.astype(image.dtype)


def _cut(image: np.ndarray, other: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The image with a rectangle of the other one, of 1 - share of its area unless the edge clips it, around a random
    place; and the share of the image that is left."""
    size = image.shape[:2]
    spans = []
    for length in size:
        half = length * math.sqrt(1 - share) / 2
        center = rng.uniform() * length
        spans.append(slice(max(0, round(center - half)), min(length, round(center + half))))
    cut = image.copy()
    cut[spans[0], spans[1]] = other[spans[0], spans[1]]
    area = (spans[0].stop - spans[0].start) * (spans[1].stop - spans[1].start)
    return cut, 1 - area / (size[0] * size[1])
