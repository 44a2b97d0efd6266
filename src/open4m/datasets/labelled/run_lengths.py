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
        runs = _unpacked(text) if isinstance(text, bytes) else np.array(text, np.int64)
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


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask, bool (H, W): its ``size`` [H, W] and ``counts`` as a string."""
    flat = np.concatenate([[False], np.asarray(mask, bool).T.ravel()])  # the first run is one of 0
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [flat.size - 1]]))
    return {"size": list(mask.shape), "counts": _packed(runs).decode()}


# In COCO's string, a character holds 5 bits from 48 on, the lowest first; a sixth bit says that more follow, the
# highest of the last five is the sign. From the fourth number on, they are differences to the one before the last.


def _unpacked(text: bytes) -> np.ndarray:
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


def _packed(runs: np.ndarray) -> bytes:
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
    return np.stack(characters, 1)[np.stack(written, 1)].astype(np.uint8).tobytes()
