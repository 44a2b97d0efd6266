"""Masks as COCO's run lengths: lengths of runs of 0 and 1 by turns, down the columns, as numbers or as a string.

The string holds 5 bits per character from 48 on, the lowest ones first; a sixth bit says that more follow, and the
last of the five is the sign. From the fourth number on it holds differences to the number two places before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

LONGEST_RUN = 6
"""Characters of one number in a string, at most: 30 bits, above any mask's pixels."""


def encode(mask: np.ndarray, size: tuple[int, int] | None = None, corner: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """``{"size": [H, W], "counts": string}`` of a mask (h, w) bool.

    It may be a part of a mask of ``size``, with its first pixel at ``corner``, row and column, and nothing beyond it.
    """
    height, width = size or mask.shape
    return {"size": [height, width], "counts": packed(lengths(mask, (height, width), corner))}


def decode(runs: Mapping[str, Any], size: tuple[int, int] | None = None) -> np.ndarray:
    """The mask (H, W) bool of run lengths, in either form.

    Raises ValueError for what is malformed or, where a size is given, of another one; KeyError and TypeError for what
    is no run lengths.
    """
    height, width = size = tuple(runs["size"]) if size is None else size
    if tuple(runs["size"]) != size:
        raise ValueError(f"a mask of {runs['size']} in an image of {list(size)}")
    counts = runs["counts"]
    counts = np.array(unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    pixels = height * width
    if counts.ndim != 1 or (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:  # sums may wrap
        raise ValueError("runs that are not as long as the mask")
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def lengths(mask: np.ndarray, size: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(runs,) int64: how many pixels are 0, then 1, then 0, and so on; the first may be none. See :func:`encode`."""
    height, width = size
    columns = np.pad(mask.T, ((0, 0), (1, 1)))
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])  # by turns where ones begin and where they end
    changes = (corner[1] + column) * height + corner[0] + row
    apart = np.repeat(changes[1:-1:2] != changes[2::2], 2)  # ones may end at the bottom and go on at the top
    changes = np.concatenate([changes[:1], changes[1:-1][apart], changes[-1:]]) if len(changes) else changes
    ends = [] if len(changes) and changes[-1] == height * width else [height * width]
    return np.diff(np.concatenate([[0], changes, ends]).astype(np.int64))


def packed(counts: np.ndarray) -> str:
    """The string of run lengths (n,)."""
    left = np.asarray(counts, np.int64).copy()
    left[3:] -= counts[1:-2]
    characters = np.zeros((len(left), LONGEST_RUN + 1), np.uint8)
    more = np.ones(len(left), dtype=bool)
    for place in range(LONGEST_RUN + 1):
        bits = left & 31
        left >>= 5
        written, more = more, more & (left != np.where(bits & 16, -1, 0))
        characters[written, place] = 48 + (bits | 32 * more)[written]
    return characters[characters > 0].tobytes().decode()


def unpacked(text: str) -> list[int]:
    """The run lengths of a string. Raises ValueError if it holds anything else."""
    counts: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            if not 0 <= bits < 64 or shift >= 5 * LONGEST_RUN:
                raise ValueError("not compressed run lengths")
            value |= (bits & 31) << shift
            more, shift, at = bool(bits & 32), shift + 5, at + 1
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts
