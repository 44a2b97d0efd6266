"""Masks as run lengths, in COCO's two forms: down the columns, first a run of 0, then runs of 1 and 0 by turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from open4m.types import Open4MError, shown

LONGEST_RUN = 6
"""Characters of one number in compressed run lengths, at most: 30 bits, above any mask's pixels."""
LARGEST_MASK = 1 << 26
"""Pixels of a mask, at most."""


def decode(counts: str | bytes | Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The mask, bool (H, W), of run lengths: numbers, or COCO's string of them. ``size``: H and W.

    Raises :class:`Open4MError` for what is none, and for runs that do not add up to the mask's pixels.
    """
    try:
        height, width = map(int, size)
        text = counts.encode("ascii") if isinstance(counts, str) else counts
        runs = unpacked(text) if isinstance(text, bytes) else np.array(text, np.int64)
        pixels = height * width
        wrong = (
            runs.ndim != 1
            or min(height, width) < 1
            or pixels > LARGEST_MASK
            or (runs < 0).any()
            or (runs > pixels).any()
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise Open4MError(f"not run lengths of a mask: {shown(counts)} of size {shown(size)} ({error})") from error
    if wrong or runs.sum() != pixels:  # sums of larger numbers may wrap
        raise Open4MError(f"runs that are not as long as a mask of {height}×{width}: {shown(counts)}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def encode(mask: np.ndarray, size: tuple[int, int] | None = None, corner: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask, bool (h, w): its ``size`` [H, W] and ``counts`` as a string.

    It may be a part of a mask of ``size``, with its first pixel at ``corner``, row and column, and nothing beyond it.
    """
    height, width = size or mask.shape
    return {"size": [height, width], "counts": packed(lengths(mask, (height, width), corner))}


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


# In COCO's string, a character holds 5 bits from 48 on, the lowest first; a sixth bit says that more follow, the
# highest of the last five is the sign. From the fourth number on, they are differences to the one before the last.


def unpacked(text: bytes) -> np.ndarray:
    """The run lengths (n,) int64 of COCO's string. Raises ValueError if it holds anything else."""
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if ((bits < 0) | (bits >= 64)).any() or (bits.size and bits[-1] & 32):
        raise ValueError("not compressed run lengths")
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if not bits.size or (lengths := ends + 1 - starts).max() > LONGEST_RUN:
        raise ValueError("not compressed run lengths")
    shifts = 5 * (np.arange(bits.size) - np.repeat(starts, lengths))
    values = np.add.reduceat((bits & 31) << shifts, starts)
    values -= np.where(bits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        values[first::2] = values[first::2].cumsum()
    return values


def packed(runs: np.ndarray) -> str:
    """COCO's string of run lengths (n,) int64."""
    left = runs.astype(np.int64)
    left[3:] -= runs[1:-2]
    characters, written = [], []
    going = np.ones(len(left), bool)
    while going.any():
        low, left = left & 31, left >> 5
        more = left != np.where(low & 16, -1, 0)
        characters.append(48 + low + 32 * more)
        written.append(going)
        going = going & more
    return np.stack(characters, 1)[np.stack(written, 1)].astype(np.uint8).tobytes().decode()
