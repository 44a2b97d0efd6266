"""Input and target masking (paper 2.3, C.1, E.4): from the tokens of whole batches to the packed tokens the model sees.

How many tokens of each modality are shown and asked for is drawn from a Dirichlet distribution a sample; which ones,
uniformly for grids and by span masking with sentinels for sequences. Everything is vectorised over the batch, and every
row's randomness is a function of (seed, step, row) alone, so that it does not matter which process makes which rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaincinv

from open4m import modalities
from open4m.model.config import ModalitySpec
from open4m.types import MaskedBatch, Open4MError


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to mask. α is the concentration of the symmetric Dirichlet distribution, a modality.

    ``input_alpha`` and ``target_alpha`` map modality keys to α (``inf``: equal shares); a modality that is not
    named is not shown, or not asked for. ``input_budget``: the fewest and the most input tokens of a sample, drawn
    uniformly (paper A.1, A.2); None: those of the :class:`MaskingConfig`. ``unmasked`` sequences are shown whole as
    far as their budget allows (p_mask = 0, paper A.2), and grids then fill a uniformly drawn part of what is left,
    from none of it to all: what generation from a text goes through. ``weight`` is the share of samples that are
    masked this way, relative to the others.
    """

    name: str
    input_alpha: dict[str, float]
    target_alpha: dict[str, float]
    input_budget: tuple[int, int] | None = None
    unmasked: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Token budgets of a sample, and the mixture of strategies (paper Table 20).

    ``input_budget`` is the fewest and the most tokens, or one number for both; batches are as wide as the most.
    """

    input_budget: int | tuple[int, int]
    target_budget: int
    strategies: tuple[Strategy, ...]

    def input_range(self, strategy: Strategy) -> tuple[int, int]:
        """The fewest and the most input tokens of a sample that is masked by ``strategy``."""
        budget = strategy.input_budget or self.input_budget
        return budget if isinstance(budget, tuple) else (budget, budget)

    @property
    def widest_input(self) -> int:
        """N: the most input tokens of a sample."""
        return max(self.input_range(strategy)[1] for strategy in self.strategies)

    @property
    def tokens_per_sample(self) -> float:
        """Input and target budget of a sample on average, by which a length in tokens seen is divided (paper E.5)."""
        total = sum(strategy.weight for strategy in self.strategies)
        inputs = sum(strategy.weight * sum(self.input_range(strategy)) / 2 for strategy in self.strategies)
        return inputs / total + self.target_budget

    def check(self, specs: tuple[ModalitySpec, ...], sentinels: int) -> None:
        """Raise for what cannot work with these modalities."""
        inputs = [s.key for s in specs if s.is_input]
        targets = [s.key for s in specs if s.is_target]
        if not self.strategies or self.target_budget < 1:
            raise Open4MError("masking needs a positive target budget and at least one strategy")
        for strategy in self.strategies:
            low, high = self.input_range(strategy)
            if not 0 <= low <= high or high < 1:
                raise Open4MError(
                    f"strategy {strategy.name}: input budget must be 0 <= fewest <= most, got {low}, {high}"
                )
        for strategy in self.strategies:
            for alphas, allowed in ((strategy.input_alpha, inputs), (strategy.target_alpha, targets)):
                for key, alpha in alphas.items():
                    if key not in allowed:
                        raise modalities.unknown(key, allowed)
                    if not alpha > 0:
                        raise Open4MError(f"strategy {strategy.name}: α of {key} must be above 0, got {alpha}")
                if not alphas:
                    raise Open4MError(f"strategy {strategy.name}: needs at least one input and one target modality")
            for key in strategy.unmasked:
                if key not in strategy.input_alpha:
                    raise modalities.unknown(key, list(strategy.input_alpha))
            if not 0 < strategy.weight < float("inf"):
                raise Open4MError(f"strategy {strategy.name}: weight must be above 0 and finite, got {strategy.weight}")
        for spec in specs:
            if spec.family == "sequence" and (needed := spec.max_length // 2 + 2) > sentinels:
                raise Open4MError(f"{spec.key}: {needed} sentinels may be needed, the text tokenizer has {sentinels}")


@dataclass
class TokenRows:
    """The whole tokens of a batch, by modality key, before masking.

    ``ids``: (B, L) of grids, raster order, and of sequences, padded, [EOS] included. ``lengths``: (B,) of sequences.
    ``pixels``: float32 (B, C, H, W). A modality a sample lacks has length 0 there, or is False in ``present`` (B,);
    one that all lack may be left out.
    """

    ids: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    pixels: dict[str, np.ndarray]
    present: Mapping[str, np.ndarray] | None = None


def mask_batch(
    rows: TokenRows,
    specs: tuple[ModalitySpec, ...],
    config: MaskingConfig,
    sentinels: np.ndarray,
    *,
    seed: int,
    step: int,
    first_row: int = 0,
) -> MaskedBatch:
    """The packed batch of these rows, which are rows ``first_row``… of the global batch of ``step``.

    ``sentinels``: the token ids of the sentinels, in order.
    """
    size = len(next(iter({**rows.ids, **rows.pixels}.values())))
    draw = _Draws(seed, step, first_row, size, specs)
    strategy = draw.choice([s.weight for s in config.strategies])
    capacity = {s.key: _capacity(rows, s, size) for s in specs}

    # Sequences first: their number of tokens is only bounded by the budget; what they leave goes to the grids.
    low, high = np.array([config.input_range(s) for s in config.strategies])[strategy].T
    input_budget = low + np.floor(draw.one() * (high - low + 1)).astype(np.int64)  # (B,)
    shares = draw.shares(_alphas(config.strategies, specs, "input_alpha")[strategy])  # (B, modalities)
    limits = np.stack([capacity[s.key] for s in specs], 1)
    budget = allocate(shares, input_budget, limits, draw.one())
    sequences = {
        i: _mask_sequence(_ids(rows, s, size), capacity[s.key], budget[:, i], draw, sentinels,
                          np.array([s.key in t.unmasked for t in config.strategies])[strategy])
        for i, s in enumerate(specs) if s.family == "sequence"
    }  # fmt: skip
    is_sequence = np.array([s.family == "sequence" for s in specs])
    used = sum((masked.input_count for masked in sequences.values()), np.zeros(size, dtype=np.int64))
    grids = np.where(is_sequence, 0.0, shares)
    left, part = input_budget - used, draw.one()
    some = np.array([bool(s.unmasked) for s in config.strategies])[strategy]
    left = np.where(some, np.floor(part * (left + 1)).astype(np.int64), left)
    budget = allocate(grids, left, limits, draw.one())
    for i, masked in sequences.items():
        budget[:, i] = masked.input_count
        limits[:, i] = masked.target_count
    order = {i: draw.permutation(s.length) for i, s in enumerate(specs) if s.family != "sequence"}

    limits = np.where(is_sequence, limits, limits - budget)
    limits = np.where([s.is_target for s in specs], limits, 0)
    shares = draw.shares(_alphas(config.strategies, specs, "target_alpha")[strategy])
    asked = allocate(shares, np.full(size, config.target_budget), limits, draw.one())

    inputs = _Packer(size, config.widest_input, ("id",))
    targets = _Packer(size, config.target_budget, ("id", "query"))
    for i, spec in enumerate(specs):
        if i in sequences:
            masked = sequences[i]
            inputs.add(i, budget[:, i], None, {"id": masked.input_ids})
            queries, answers = masked.truncated(asked[:, i], draw.one())
            targets.add(i, asked[:, i], None, {"id": answers, "query": queries})
        else:
            shown = order[i][:, : config.widest_input]
            hidden = np.take_along_axis(
                order[i], np.minimum(budget[:, i, None] + np.arange(config.target_budget), spec.length - 1), 1
            )
            ids = _ids(rows, spec, size)
            inputs.add(i, budget[:, i], shown, {"id": np.take_along_axis(ids, shown, 1)})
            if spec.is_target:
                answers = np.take_along_axis(ids, hidden, 1)
                targets.add(i, asked[:, i], hidden, {"id": answers, "query": np.zeros_like(hidden)})
    return MaskedBatch(
        **inputs.tensors("input", {"id": "input_id"}),
        **targets.tensors("target", {"id": "target_id", "query": "query_id"}),
        pixels={key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in rows.pixels.items()},
    )


def allocate(shares: np.ndarray, total: np.ndarray, capacity: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Integer budgets (B, n) in proportion to ``shares`` that sum to ``total`` (B,), or to all that can be had.

    Where a share exceeds its ``capacity`` the rest goes to the others, in proportion. Fractions are rounded by
    systematic sampling with ``offset`` (B,) in [0, 1): a budget's expectation is its exact fraction.
    """
    shares = np.where(capacity > 0, shares, 0.0)
    full = np.zeros(shares.shape, dtype=bool)
    for _ in range(shares.shape[1]):
        left = total - np.where(full, capacity, 0).sum(1)
        free = np.where(full, 0.0, shares)
        exact = left[:, None] * free / np.maximum(free.sum(1, keepdims=True), 1e-300)
        over = ~full & (exact >= capacity) & (free > 0)
        if not over.any():
            break
        full |= over
    exact = np.where(full, capacity, np.where(free > 0, exact, 0.0))
    edges = np.floor(np.cumsum(exact, 1) + offset[:, None] + 1e-9)
    start = np.floor(offset + 1e-9)[:, None]
    return np.diff(edges, prepend=start, axis=1).astype(np.int64)


class _Draws:
    """The uniform numbers of rows ``first_row``… of a step: the same ones whichever process asks for them."""

    def __init__(self, seed: int, step: int, first_row: int, size: int, specs: tuple[ModalitySpec, ...]):
        needed = 3 + 2 * len(specs) + 3 + sum(s.length + 2 for s in specs)
        self._columns = -(-needed // 4) * 4  # a Philox counter gives four numbers
        bits = np.random.Philox(np.random.SeedSequence((seed, step)))
        bits.advance(first_row * self._columns // 4)
        self._numbers = np.random.Generator(bits).random((size, self._columns))
        self._next = 0

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` numbers of every row: (B, count) in [0, 1)."""
        self._next += count
        assert self._next <= self._columns, "more random numbers were used than were planned"
        return self._numbers[:, self._next - count : self._next]

    def one(self) -> np.ndarray:
        """(B,) in [0, 1)."""
        return self.take(1)[:, 0]

    def choice(self, weights: list[float]) -> np.ndarray:
        """(B,) indices, drawn in proportion to ``weights``."""
        edges = np.cumsum(weights) / np.sum(weights)
        return np.minimum(np.searchsorted(edges, self.one(), side="right"), len(weights) - 1)

    def shares(self, alpha: np.ndarray) -> np.ndarray:
        """Dirichlet shares (B, n), 0 where ``alpha`` is 0: gamma variates by inversion, normalized."""
        uniform = self.take(alpha.shape[1])
        gamma = np.where(
            np.isinf(alpha), 1.0, gammaincinv(np.where((alpha > 0) & np.isfinite(alpha), alpha, 1), uniform)
        )
        gamma = np.where(alpha > 0, np.maximum(gamma, 1e-290), 0.0)
        return gamma / np.maximum(gamma.sum(1, keepdims=True), 1e-300)

    def permutation(self, length: int) -> np.ndarray:
        """(B, length): a uniformly random order a row."""
        return np.argsort(self.take(length), axis=1)


@dataclass
class _MaskedSequence:
    """A batch of sequences after span masking."""

    input_ids: np.ndarray  # (B, L): visible tokens and sentinels, packed to the left
    input_count: np.ndarray  # (B,)
    full: np.ndarray  # (B, L + 2): sentinel, span, sentinel, span, ..., final sentinel
    target_count: np.ndarray  # (B,): queries that the whole of it makes
    is_sentinel: np.ndarray  # (B, L + 2)

    def truncated(self, budget: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries and answers (B, L + 1) of a part of ``budget`` tokens that starts at a random sentinel."""
        latest = np.maximum(self.target_count - budget, 0)[:, None]  # the last start that leaves enough
        starts = self.is_sentinel & (np.arange(self.full.shape[1]) <= latest)
        chosen = np.floor(uniform * starts.sum(1)).astype(np.int64)
        begin = np.argmax((np.cumsum(starts, 1) == chosen[:, None] + 1) & starts, 1)
        columns = np.minimum(begin[:, None] + np.arange(self.full.shape[1]), self.full.shape[1] - 1)
        part = np.take_along_axis(self.full, columns, 1)
        return part[:, :-1], part[:, 1:]


def _mask_sequence(
    ids: np.ndarray, lengths: np.ndarray, budget: np.ndarray, draw: _Draws, sentinels: np.ndarray, unmasked: np.ndarray
) -> _MaskedSequence:
    """Span masking of sequences (B, L) with p_mask ~ U(0, 1), raised until the input fits its budget (paper C.1).

    A budget of 0 shows nothing at all and masks the whole sequence.
    """
    size, length = ids.shape
    valid = np.arange(length) < lengths[:, None]
    p_mask = np.where(unmasked, 0.0, draw.one())
    key = np.where(valid, draw.take(length), 2.0)  # token t is masked if its key is below p_mask
    key = np.where((budget == 0)[:, None] & valid, -1.0, key)

    # Masking one token more, in the order of the keys, shortens the input by its number of neighbors already masked
    # (a span grows, or two spans meet): the shortest p_mask that fits is found without trying.
    left = np.pad(key[:, :-1], ((0, 0), (1, 0)), constant_values=2.0)
    right = np.pad(key[:, 1:], ((0, 0), (0, 1)), constant_values=2.0)
    saved = (left < key).astype(np.int64) + (right < key)
    order = np.argsort(key, axis=1)
    saved = np.cumsum(np.take_along_axis(np.where(valid, saved, 0), order, 1), 1)
    saved = np.pad(saved, ((0, 0), (1, 0)))  # (B, L + 1): after masking the first k
    wanted = (key < p_mask[:, None]).sum(1)
    fits = (lengths[:, None] - saved <= budget[:, None]) & (np.arange(length + 1) >= wanted[:, None])
    count = np.where(fits.any(1), np.argmax(fits, 1), lengths)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(length), order.shape), 1)
    masked = valid & (rank < count[:, None])

    starts = masked & ~np.pad(masked[:, :-1], ((0, 0), (1, 0)))
    span = np.cumsum(starts, 1) - 1
    shown = valid & (~masked | starts) & (budget > 0)[:, None]
    content = np.where(masked, sentinels[np.maximum(span, 0)], ids)
    input_ids = np.zeros_like(ids)
    row, column = np.nonzero(shown)
    input_ids[row, (np.cumsum(shown, 1) - 1)[row, column]] = content[row, column]

    full = np.zeros((size, length + 2), dtype=ids.dtype)
    is_sentinel = np.zeros(full.shape, dtype=bool)
    place = np.cumsum(masked, 1) + span  # of a masked token; its span's sentinel stands before the span
    row, column = np.nonzero(masked)
    full[row, place[row, column]] = ids[row, column]
    row, column = np.nonzero(starts)
    full[row, place[row, column] - 1] = sentinels[span[row, column]]
    is_sentinel[row, place[row, column] - 1] = True
    spans = starts.sum(1)
    total = masked.sum(1) + spans
    full[np.arange(size), total] = sentinels[spans]
    return _MaskedSequence(input_ids, shown.sum(1), full, total, is_sentinel)


class _Packer:
    """Appends the tokens of one modality after another to rows of a fixed width."""

    def __init__(self, size: int, width: int, columns: tuple[str, ...]):
        self.filled = np.zeros(size, dtype=np.int64)
        self.arrays = {name: np.zeros((size, width), dtype=np.int64) for name in (*columns, "modality", "position")}

    def add(
        self, modality: int, count: np.ndarray, position: np.ndarray | None, columns: dict[str, np.ndarray]
    ) -> None:
        """The first ``count`` (B,) entries of each row; ``position`` None: they are numbered from 0."""
        row, column = np.nonzero(np.arange(int(count.max(initial=0))) < count[:, None])
        place = self.filled[row] + column
        self.arrays["modality"][row, place] = modality
        self.arrays["position"][row, place] = column if position is None else position[row, column]
        for name, values in columns.items():
            self.arrays[name][row, place] = values[row, column]
        self.filled += count

    def tensors(self, prefix: str, names: dict[str, str]) -> dict[str, torch.Tensor]:
        """The fields of a :class:`MaskedBatch`."""
        width = self.arrays["modality"].shape[1]
        fields = {names.get(n, f"{prefix}_{n}"): torch.from_numpy(a) for n, a in self.arrays.items()}
        return {**fields, f"{prefix}_valid": torch.from_numpy(np.arange(width) < self.filled[:, None])}


def _capacity(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """(B,): the tokens of a modality that each sample has."""
    if spec.family == "sequence":
        return rows.lengths[spec.key].astype(np.int64) if spec.key in rows.lengths else np.zeros(size, dtype=np.int64)
    here = spec.key in rows.ids or spec.key in rows.pixels
    present = (
        np.ones(size, dtype=bool) if rows.present is None else rows.present.get(spec.key, np.ones(size, dtype=bool))
    )
    return np.where(present & here, spec.length, 0).astype(np.int64)


def _ids(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """(B, L): token ids; zeros of pixels and of a modality that no sample has."""
    ids = rows.ids.get(spec.key)
    return np.zeros((size, spec.length), dtype=np.int64) if ids is None else ids


def _alphas(strategies: tuple[Strategy, ...], specs: tuple[ModalitySpec, ...], field: str) -> np.ndarray:
    """(strategies, modalities), 0 where a modality does not take part."""
    return np.array([[getattr(s, field).get(spec.key, 0.0) for spec in specs] for s in strategies])
