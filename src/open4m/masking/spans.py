"""Span masking of sequences with sentinels (paper C.1)."""

from __future__ import annotations

import numpy as np

from open4m.rng import RowDraws


def span_mask(
    draw: RowDraws, lengths: np.ndarray, longest: int, budget: np.ndarray, unmasked: np.ndarray
) -> np.ndarray:
    """Which tokens of sequences are masked, bool (B, L): those whose random key lies below p_mask ~ U(0, 1).

    ``lengths``, ``budget``, ``unmasked``: (B,). p_mask is raised until the shown tokens fit the budget (paper C.1);
    where ``unmasked``, it starts at 0. With a budget of 0 all tokens are masked.
    """
    never = np.uint32(1 << 31)  # the key of padding: above all others
    place_bits = 2 + (longest - 1).bit_length()
    p_mask = np.where(unmasked, 0, draw.bits(1)[:, 0] >> 1)
    places = np.arange(longest, dtype=np.uint32)  # their bits make keys differ
    key = draw.bits(longest) & ((1 << 31) - (1 << place_bits)) | places << 2
    key[places >= lengths[:, None]] = never

    # Masking one more token, in the order of the keys, shortens the input by the number of its neighbors that are
    # masked already: a span grows by it, or two spans meet. The lowest bits hold this number, so that one sort and a
    # cumulative sum find the smallest p_mask that fits the budget.
    before, after = key[:, :-1], key[:, 1:]
    neighbors = np.zeros_like(key)
    neighbors[:, 1:] += before < after
    neighbors[:, :-1] += after < before
    key |= neighbors
    ordered = np.sort(key, axis=1)
    saved = np.cumsum(ordered & 3, axis=1, dtype=np.uint32)  # (B, L): after masking the first 1, 2, ...
    excess = lengths - budget
    fits = np.where(excess > 0, 1 + (saved < np.maximum(excess, 0)[:, None]).sum(1), 0)
    wanted = (ordered < p_mask[:, None]).sum(1)
    count = np.where(budget > 0, np.minimum(np.maximum(fits, wanted), lengths), lengths)
    first_shown = np.take_along_axis(ordered, np.minimum(count, longest - 1)[:, None], 1)
    return key < np.where(count < lengths, first_shown[:, 0], never)[:, None]


class Spans:
    """The input and target tokens of a batch of sequences with masked spans (paper C.1).

    The input has a sentinel in place of each masked span. The target lists the spans, each after its sentinel, and ends
    with one more sentinel. All arrays here are flat: the tokens of one row after those of another.
    """

    def __init__(self, masked: np.ndarray, lengths: np.ndarray, budget: np.ndarray):
        """``masked``: bool (B, L). A row whose ``budget`` (B,) is 0 shows nothing at all, not even sentinels."""
        size, longest = masked.shape
        starts = masked.copy()  # of spans
        starts[:, 1:] &= ~masked[:, :-1]
        spans, hidden = starts.sum(1), masked.sum(1)
        self.input_count = np.where(budget > 0, lengths - hidden + spans, 0)  # (B,)
        self.target_count = hidden + spans  # (B,): queries, one less than tokens

        shown = starts | (~masked & (np.arange(longest) < lengths[:, None]))
        shown[budget == 0] = False
        self._shown = np.flatnonzero(shown)
        self._shown_starts = starts.reshape(-1)[self._shown]
        self._input_spans = np.where(budget > 0, spans, 0)

        # Each token has a place before it for the sentinel of a span that it starts; one more is for the last one.
        target = np.zeros((size, longest + 1, 2), dtype=bool)
        target[:, :-1, 0] = starts
        target[np.arange(size), lengths, 0] = spans > 0
        target[:, :-1, 1] = masked
        self._target = np.flatnonzero(target)
        self._target_sentinels = spans + (spans > 0)

    def shown(self, ids: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
        """The input tokens, ``input_count`` per row; ``ids``: (B, L)."""
        tokens = ids.reshape(-1)[self._shown].astype(np.int64)
        tokens[self._shown_starts] = sentinels[entries(self._input_spans)[1]]
        return tokens

    def asked(
        self, ids: np.ndarray, sentinels: np.ndarray, budget: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Queries and answers, ``budget`` (B,) per row: a part of the target that starts at a random sentinel."""
        size = len(budget)
        start = np.flatnonzero(self._target % 2 == 0)  # the sentinels in self._target, and their rows
        row = np.repeat(np.arange(size), self._target_sentinels)
        end = np.cumsum(self.target_count + (self._target_sentinels > 0))  # of every row in self._target
        enough = start < (end - np.minimum(budget, self.target_count))[row]
        chosen = np.floor(uniform * np.bincount(row[enough], minlength=size)).astype(np.int64)
        first = np.cumsum(self._target_sentinels) - self._target_sentinels
        begin = np.append(start, 0)[first + chosen]  # rows without a masked token have no sentinel, and no query

        row, column = entries(np.where(budget > 0, budget + 1, 0))
        place = self._target[begin[row] + column]
        is_sentinel = place % 2 == 0
        part = ids.reshape(-1).take(place // 2 - row, mode="clip").astype(np.int64)
        sentinel_row, number = entries(np.bincount(row[is_sentinel], minlength=size))
        part[is_sentinel] = sentinels[chosen[sentinel_row] + number]
        return part[column < budget[row]], part[column > 0]


def entries(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column), both (n,), of the first ``count`` (B,) entries of each row, one row after another."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
