"""Input and target masking (paper 2.3, C.1, E.4): from the tokens of whole batches to the packed tokens the model sees.

How many tokens of each modality are shown and asked for is drawn from a Dirichlet distribution a sample; which ones,
uniformly for grids and by span masking with sentinels for sequences. Everything is vectorised over the batch, and every
row's randomness is a function of (seed, step, row) alone, so that it does not matter which process makes which rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from scipy.special import gammaincinv, ndtri

from open4m import modalities
from open4m.model.config import Direction, ModalitySpec
from open4m.types import MaskedBatch, Open4MError


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """One way to mask. α is the concentration of the symmetric Dirichlet distribution, a modality.

    ``input_alpha`` and ``target_alpha`` map modality keys to α (``inf``: equal shares); a modality that is not
    named is not shown, or not asked for. ``input_budget`` and ``target_budget``: the fewest and the most tokens of a
    sample, drawn uniformly (paper A.1, A.2); None: those of the :class:`MaskingConfig`. ``unmasked`` sequences are
    shown whole as far as their budget allows (p_mask = 0, paper A.2). ``leftover``: how much of the budget that
    sequences are too short for is passed on to the grids; all of it, none, or ("uniform") a uniformly drawn part: from
    a text alone to nearly all of an image, which generation from a text goes through. Without ``overlap`` no grid is
    asked for at a place where another is shown (paper E.8). ``weight`` is the share of samples that are masked this
    way, relative to the others.
    """

    name: str
    input_alpha: dict[str, float]
    target_alpha: dict[str, float]
    input_budget: tuple[int, int] | None = None
    target_budget: tuple[int, int] | None = None
    unmasked: tuple[str, ...] = ()
    leftover: Literal["all", "uniform", "none"] = "all"
    overlap: bool = True
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Token budgets of a sample, and the mixture of strategies (paper Table 20).

    A budget is the fewest and the most tokens, or one number for both; batches are as wide as the most.
    """

    input_budget: int | tuple[int, int]
    target_budget: int | tuple[int, int]
    strategies: tuple[Strategy, ...]

    def input_range(self, strategy: Strategy) -> tuple[int, int]:
        """The fewest and the most input tokens of a sample that is masked by ``strategy``."""
        return _range(strategy.input_budget or self.input_budget)

    def target_range(self, strategy: Strategy) -> tuple[int, int]:
        """The fewest and the most target tokens of a sample that is masked by ``strategy``."""
        return _range(strategy.target_budget or self.target_budget)

    @property
    def widest_input(self) -> int:
        """N: the most input tokens of a sample."""
        return max(self.input_range(strategy)[1] for strategy in self.strategies)

    @property
    def widest_target(self) -> int:
        """M: the most target tokens of a sample."""
        return max(self.target_range(strategy)[1] for strategy in self.strategies)

    @property
    def tokens_per_sample(self) -> float:
        """Input and target budget of a sample on average, by which a length in tokens seen is divided (paper E.5)."""
        total = sum(strategy.weight for strategy in self.strategies)
        ranges = [(s.weight, (*self.input_range(s), *self.target_range(s))) for s in self.strategies]
        return sum(weight * sum(ends) / 2 for weight, ends in ranges) / total

    @property
    def directions(self) -> tuple[Direction, ...]:
        """What each strategy trains; nothing, if one of them trains all of it: any target from any input."""
        found = [Direction(inputs=tuple(s.input_alpha), targets=tuple(s.target_alpha)) for s in self.strategies]
        inputs, targets = ({key for d in found for key in getattr(d, side)} for side in ("inputs", "targets"))
        if any(inputs == {*d.inputs} and targets == {*d.targets} for d in found):
            return ()
        return tuple(dict.fromkeys(found))

    def check(self, specs: tuple[ModalitySpec, ...], sentinels: int) -> None:
        """Raise :class:`Open4MError` for what cannot work with these modalities."""
        if not self.strategies:
            raise Open4MError("masking: needs at least one strategy")
        for strategy in self.strategies:
            where = f"strategy {strategy.name}"
            low, high = self.input_range(strategy)
            if not 0 <= low <= high or high < 1:
                raise Open4MError(f"{where}: input budget must be 0 <= fewest <= most, got {low}, {high}")
            low, high = self.target_range(strategy)
            if not 1 <= low <= high:
                raise Open4MError(f"{where}: target budget must be 1 <= fewest <= most, got {low}, {high}")
            for side, alphas in (("input", strategy.input_alpha), ("target", strategy.target_alpha)):
                if not alphas:
                    raise Open4MError(f"{where}: needs at least one input and one target modality")
                allowed = [s.key for s in specs if (s.is_input if side == "input" else s.is_target)]
                for key, alpha in alphas.items():
                    if key not in allowed and key in [s.key for s in specs]:
                        raise Open4MError(f"{where}: {side}_alpha allows {', '.join(allowed)}, got {key}; leave it out")
                    if key not in allowed:
                        raise modalities.unknown(key, allowed)
                    if not alpha > 0:
                        raise Open4MError(f"{where}: α of {key} must be above 0, got {alpha}")
            for key in strategy.unmasked:
                if key not in strategy.input_alpha:
                    raise modalities.unknown(key, list(strategy.input_alpha))
            if not 0 < strategy.weight < float("inf"):
                raise Open4MError(f"{where}: weight must be above 0 and finite, got {strategy.weight}")
            grids = {s.key: s.grid for s in specs if s.key in {**strategy.input_alpha, **strategy.target_alpha}
                     and _has_places(s)}  # fmt: skip
            if not strategy.overlap and len(set(grids.values())) > 1:
                sizes = ", ".join(f"{key} {h}x{w}" for key, (h, w) in grids.items())
                raise Open4MError(
                    f"{where}: overlap=False is defined for grids of one size, got {sizes}; name those of one size, "
                    "or allow overlap"
                )
        for spec in specs:
            # every other token may be a span of its own, and a final sentinel follows the last one
            if spec.family == "sequence" and (needed := (spec.max_length + 1) // 2 + 1) > sentinels:
                raise Open4MError(f"{spec.key}: {needed} sentinels may be needed, the text tokenizer has {sentinels}")


@dataclass
class TokenRows:
    """The whole tokens of a batch, by modality key, before masking.

    ``ids``: integers (B, L) of grids, raster order, and of sequences, padded, [EOS] included. ``vectors``: float32
    (B, L, C) of sequences of vectors, padded. ``lengths``: (B,) of both kinds of sequences. ``pixels``: float32
    (B, C, H, W). A modality a sample lacks has length 0 there, or is False in ``present`` (B,); one that all lack may
    be left out.
    """

    ids: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    pixels: dict[str, np.ndarray]
    present: Mapping[str, np.ndarray] | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


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

    Raises :class:`Open4MError` for rows of no sample, of a modality that ``specs`` lacks, or of another shape than
    ``specs`` say.
    """
    size = _batch_size(rows, specs)
    draw = _Draws(seed, step, first_row, size)
    strategies = config.strategies
    strategy = draw.choice([s.weight for s in strategies])  # (B,)
    unmasked = np.array([[s.key in t.unmasked for s in specs] for t in strategies])[strategy]  # (B, modalities)
    apart = np.array([not t.overlap for t in strategies])[strategy, None]  # (B, 1)
    is_sequence = np.array([s.family in ("sequence", "vectors") for s in specs])
    has_places = np.array([_has_places(s) for s in specs])
    capacity = np.stack([_capacity(rows, s, size) for s in specs], 1)  # (B, modalities)

    # Inputs. Sequences first: their number of tokens is only bounded by the budget; what they leave goes to the grids.
    total = draw.between(*np.array([config.input_range(s) for s in strategies])[strategy].T)
    shares = draw.shares(_alphas(strategies, specs, "input_alpha")[strategy])
    leftover = np.array([t.leftover for t in strategies])[strategy]
    keeps = is_sequence & (leftover == "none")[:, None] & (capacity > 0)  # its share, however short it is
    shown = allocate(shares, total, np.where(keeps, total[:, None], capacity), draw.one())  # (B, modalities)
    spans = {}
    for i in np.flatnonzero(is_sequence):
        masked = _span_mask(draw, capacity[:, i], specs[i].length, shown[:, i], unmasked[:, i])
        spans[i] = _Spans(masked, capacity[:, i], shown[:, i])
        shown[:, i] = spans[i].input_count
    left = total - np.where(is_sequence, shown, 0).sum(1)
    left = np.where(leftover == "uniform", draw.between(0, left), left)
    grids = allocate(np.where(is_sequence, 0.0, shares), left, capacity, draw.one())
    shown = np.where(is_sequence | (leftover == "none")[:, None], shown, grids)

    # A grid shows the first cells of a random order, and may be asked for those after ``begin``. Grids that must not
    # overlap have the same order, and begin after the most that any of them shows.
    order = {i: draw.order(specs[i].length) for i in np.flatnonzero(~is_sequence)}
    begin = np.where(apart & has_places, np.where(has_places, shown, 0).max(1, keepdims=True), shown)
    if apart.any():
        for i in np.flatnonzero(has_places):
            first = next(j for j in np.flatnonzero(has_places) if specs[j].grid == specs[i].grid)
            order[i] = np.where(apart, order[first], order[i])

    # Targets: cells that are left, and of sequences the masked spans.
    limits = np.maximum(capacity - begin, 0)
    for i, masked in spans.items():
        limits[:, i] = masked.target_count
    total = draw.between(*np.array([config.target_range(s) for s in strategies])[strategy].T)
    shares = draw.shares(_alphas(strategies, specs, "target_alpha")[strategy])
    asked = allocate(shares, total, limits, draw.one())

    inputs, targets = _Packer(size, config.widest_input), _Packer(size, config.widest_target)
    for i, spec in enumerate(specs):
        ids = _ids(rows, spec, size)
        row, column = _entries(shown[:, i])
        target_row, target_column = _entries(asked[:, i])
        if is_sequence[i]:
            marks = np.zeros(spec.length, dtype=np.int64) if spec.family == "vectors" else sentinels
            inputs.add(shown[:, i], spans[i].shown(ids, marks), column)
            queries, answers = spans[i].asked(ids, marks, asked[:, i], draw.one())
            targets.add(asked[:, i], answers, target_column, queries)
        else:
            position = _at(order[i], row, column)
            inputs.add(shown[:, i], _at(ids, row, position), position)
            position = _at(order[i], target_row, begin[target_row, i] + target_column)
            targets.add(asked[:, i], _at(ids, target_row, position), position, np.zeros_like(position))
    input_id, input_position, input_modality, input_valid = inputs.packed()
    target_id, target_position, query_id, target_modality, target_valid = targets.packed()
    return MaskedBatch(
        input_id=input_id, input_modality=input_modality, input_position=input_position, input_valid=input_valid,
        target_id=target_id, target_modality=target_modality, target_position=target_position, query_id=query_id,
        target_valid=target_valid,
        pixels={key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in rows.pixels.items()},
        vectors={key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in rows.vectors.items()},
    )  # fmt: skip


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
    """The random numbers of rows ``first_row``… of a step: the same ones whichever process asks for them.

    Philox is a function of a key, here (seed, step), and of a counter, here (request, row): every request for numbers
    has a stream of its own, in which every row has its place.
    """

    def __init__(self, seed: int, step: int, first_row: int, size: int):
        self._key = np.random.SeedSequence((seed, step)).generate_state(2, np.uint64)
        self._first_row, self._size, self._requests = first_row, size, 0

    def bits(self, count: int) -> np.ndarray:
        """(B, count) uint32."""
        blocks = -(-count // 8)  # a counter gives 256 bits
        philox = np.random.Philox(key=self._key, counter=[self._first_row * blocks, self._requests, 0, 0])
        self._requests += 1
        return philox.random_raw(self._size * blocks * 4).view(np.uint32).reshape(self._size, -1)[:, :count]

    def uniform(self, count: int) -> np.ndarray:
        """(B, count) in (0, 1)."""
        return (self.bits(count) + 0.5) / 2**32

    def one(self) -> np.ndarray:
        """(B,) in (0, 1)."""
        return self.uniform(1)[:, 0]

    def between(self, low: np.ndarray | int, high: np.ndarray) -> np.ndarray:
        """(B,) integers from ``low`` to ``high``, both included."""
        return low + np.floor(self.one() * (high - low + 1)).astype(np.int64)

    def choice(self, weights: list[float]) -> np.ndarray:
        """(B,) indices, drawn in proportion to ``weights``."""
        edges = np.cumsum(weights) / np.sum(weights)
        return np.minimum(np.searchsorted(edges, self.one(), side="right"), len(weights) - 1)

    def shares(self, alpha: np.ndarray) -> np.ndarray:
        """Dirichlet shares (B, n), 0 where ``alpha`` is 0: gamma variates, normalized.

        Gamma(α) is Gamma(α + 1)·U^(1/α), and Gamma(α + 1) is drawn by Marsaglia and Tsang's method (2000) or, where
        that rejects, which is rare, by inversion: each way is exact and has numbers of its own, so that both together
        are. In logarithms, since a small α makes shares that no float can hold; the least that comes out is e^-600,
        so that a modality that takes part has a share of what the others cannot take.
        """
        normal, test, inversion, power = np.split(self.uniform(4 * alpha.shape[1]), 4, axis=1)
        shape = np.where((alpha > 0) & np.isfinite(alpha), alpha, 1.0)
        d = shape + 2 / 3
        x = ndtri(normal)
        v = (1 + x / np.sqrt(9 * d)) ** 3
        log_v = np.log(np.maximum(v, 1e-300))  # so that a negative v is rejected
        rejected = np.log(test) >= x**2 / 2 + d - d * v + d * log_v
        log_gamma = np.log(d) + log_v
        log_gamma[rejected] = np.log(gammaincinv(shape[rejected] + 1, inversion[rejected]))
        log_gamma = np.where(np.isinf(alpha), 0.0, log_gamma + np.log(power) / shape)
        log_gamma = np.where(alpha > 0, log_gamma, -np.inf)
        gamma = np.where(alpha > 0, np.exp(np.maximum(log_gamma - log_gamma.max(1, keepdims=True), -600)), 0.0)
        return gamma / gamma.sum(1, keepdims=True)

    def order(self, length: int) -> np.ndarray:
        """(B, length): a uniformly random order of the cells a row.

        Sorted are random numbers whose lowest bits are replaced by the cell, which is much faster than ``argsort``.
        """
        cell_bits = (length - 1).bit_length()
        keys = self.bits(length) & ((1 << 32) - (1 << cell_bits)) | np.arange(length, dtype=np.uint32)
        keys.sort(axis=1)
        return keys & ((1 << cell_bits) - 1)


def _span_mask(draw: _Draws, lengths: np.ndarray, longest: int, budget: np.ndarray, unmasked: np.ndarray) -> np.ndarray:
    """Which tokens of sequences are masked, bool (B, L): those whose random key lies below p_mask ~ U(0, 1).

    p_mask is raised until what is shown fits its budget (paper C.1); ``unmasked`` sequences start from 0. With a budget
    of 0 all tokens are masked.
    """
    never = np.uint32(1 << 31)  # above all keys: the key of padding
    place_bits = 2 + (longest - 1).bit_length()
    p_mask = np.where(unmasked, 0, draw.bits(1)[:, 0] >> 1)
    places = np.arange(longest, dtype=np.uint32)  # in the low bits of the keys, so that no two are equal
    key = draw.bits(longest) & ((1 << 31) - (1 << place_bits)) | places << 2
    key[places >= lengths[:, None]] = never

    # Masking one token more, in the order of the keys, shortens the input by its number of neighbors already masked
    # (a span grows, or two spans meet), which the lowest bits hold: the shortest p_mask that fits is found by one sort.
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


class _Spans:
    """What a batch of sequences with masked spans shows and asks for (paper C.1).

    A masked span is shown as its sentinel. The whole target is the spans, each after its sentinel, and a final
    sentinel. Here the tokens of all rows stand one after another.
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

        # Before every token is a place for the sentinel of a span that it starts; after the last, for the final one.
        target = np.zeros((size, longest + 1, 2), dtype=bool)
        target[:, :-1, 0] = starts
        target[np.arange(size), lengths, 0] = spans > 0
        target[:, :-1, 1] = masked
        self._target = np.flatnonzero(target)
        self._target_sentinels = spans + (spans > 0)

    def shown(self, ids: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
        """The tokens shown, ``input_count`` a row; ``ids``: (B, L)."""
        tokens = ids.reshape(-1)[self._shown].astype(np.int64)
        tokens[self._shown_starts] = sentinels[_entries(self._input_spans)[1]]
        return tokens

    def asked(
        self, ids: np.ndarray, sentinels: np.ndarray, budget: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Queries and answers, ``budget`` a row: a part of the target that starts at a random sentinel."""
        size = len(budget)
        start = np.flatnonzero(self._target % 2 == 0)  # the sentinels in self._target, and their rows
        row = np.repeat(np.arange(size), self._target_sentinels)
        end = np.cumsum(self.target_count + (self._target_sentinels > 0))  # of every row in self._target
        enough = start < (end - np.minimum(budget, self.target_count))[row]
        chosen = np.floor(uniform * np.bincount(row[enough], minlength=size)).astype(np.int64)
        first = np.cumsum(self._target_sentinels) - self._target_sentinels
        begin = np.append(start, 0)[first + chosen]  # where nothing is masked there is none, and nothing is asked

        row, column = _entries(np.where(budget > 0, budget + 1, 0))
        place = self._target[begin[row] + column]
        is_sentinel = place % 2 == 0
        part = ids.reshape(-1).take(place // 2 - row, mode="clip").astype(np.int64)
        sentinel_row, number = _entries(np.bincount(row[is_sentinel], minlength=size))
        part[is_sentinel] = sentinels[chosen[sentinel_row] + number]
        return part[column < budget[row]], part[column > 0]


class _Packer:
    """Puts the tokens of one modality after another into rows of a fixed width."""

    def __init__(self, size: int, width: int):
        self._size, self._width = size, width
        self._counts: list[np.ndarray] = []
        self._fields: list[tuple[np.ndarray, ...]] = []

    def add(self, count: np.ndarray, *fields: np.ndarray) -> None:
        """The next modality has ``count`` (B,) tokens; ``fields`` (n,) are their values, row after row."""
        self._counts.append(count)
        self._fields.append(fields)

    def packed(self) -> list[torch.Tensor]:
        """(B, width) of every field, of the modality and of whether there is a token."""
        counts = np.stack(self._counts)  # (modalities, B)
        first = np.arange(self._size) * self._width + np.cumsum(counts, 0) - counts  # place of the first of each count
        move = first.reshape(-1) - (np.cumsum(counts) - counts.reshape(-1))
        place = np.arange(counts.sum()) + np.repeat(move, counts.reshape(-1))
        modality = np.repeat(np.arange(len(counts)), counts.sum(1))
        packed = np.zeros((len(self._fields[0]) + 1, self._size * self._width), dtype=np.int64)
        for values, rows in zip([*map(np.concatenate, zip(*self._fields, strict=True)), modality], packed, strict=True):
            rows[place] = values
        valid = np.arange(self._width) < counts.sum(0)[:, None]
        return [*torch.from_numpy(packed).view(-1, self._size, self._width), torch.from_numpy(valid)]


def _entries(count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row, column), both (n,), of the first ``count`` (B,) entries of every row, one row after another."""
    row = np.repeat(np.arange(len(count)), count)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)


def _at(array: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """``array[row, column]``, in a quarter of its time."""
    return array.reshape(-1).take(row * array.shape[1] + column)


def _range(budget: int | tuple[int, int]) -> tuple[int, int]:
    return budget if isinstance(budget, tuple) else (budget, budget)


def _has_places(spec: ModalitySpec) -> bool:
    """Whether its tokens are places in the image. Positions are learned of those that are not, like global features."""
    return spec.family in ("pixels", "grid") and not spec.learned_positions


def _batch_size(rows: TokenRows, specs: tuple[ModalitySpec, ...]) -> int:
    """B, the number of samples of these rows, after a check that they are what ``specs`` say."""
    content = {"ids": rows.ids, "pixels": rows.pixels, "vectors": rows.vectors}
    size = max((len(array) for table in content.values() for array in table.values()), default=0)
    if size == 0:
        raise Open4MError("masking: expected the tokens of at least one sample, got none")
    given, by_key = {**content, "lengths": rows.lengths, "present": rows.present or {}}, {s.key: s for s in specs}
    for name, table in given.items():
        for key, array in table.items():
            if key not in by_key:
                raise modalities.unknown(key, list(by_key))
            shapes = _shapes(by_key[key], size)
            if name not in shapes:
                raise Open4MError(f"{key}: expected {', '.join(shapes)} of family {by_key[key].family}, got {name}")
            if array.shape != shapes[name]:
                raise Open4MError(f"{key}: expected {name} of shape {shapes[name]}, got {array.shape}")
    for spec in specs:
        needed = [name for name in _shapes(spec, size) if name != "present"]
        found = [name for name in needed if spec.key in given[name]]
        if found and found != needed:
            raise Open4MError(f"{spec.key}: expected {' and '.join(needed)}, got {found[0]} only")
    for key, lengths in rows.lengths.items():
        longest = by_key[key].length
        if lengths.min() < 0 or lengths.max() > longest:
            raise Open4MError(f"{key}: expected lengths from 0 to {longest}, got {lengths.min()} to {lengths.max()}")
    return size


def _shapes(spec: ModalitySpec, size: int) -> dict[str, tuple[int, ...]]:
    """What ``size`` rows of a modality are made of, by the names of :class:`TokenRows`, and its shapes."""
    height, width = (side * spec.patch_size for side in spec.grid)
    return {
        "pixels": {"pixels": (size, spec.channels, height, width)},
        "grid": {"ids": (size, spec.length)},
        "sequence": {"ids": (size, spec.length), "lengths": (size,)},
        "vectors": {"vectors": (size, spec.length, spec.channels), "lengths": (size,)},
    }[spec.family] | {"present": (size,)}


def _capacity(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """(B,): the tokens of a modality that each sample has."""
    if spec.family in ("sequence", "vectors"):
        return rows.lengths.get(spec.key, np.zeros(size)).astype(np.int64)
    present = np.full(size, spec.key in rows.ids or spec.key in rows.pixels)
    if rows.present is not None:
        present &= rows.present.get(spec.key, True)
    return np.where(present, spec.length, 0)


def _ids(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """(B, L): token ids; of vectors 1 + their row; zeros of pixels and of a modality that no sample has."""
    if spec.family == "vectors":
        return np.broadcast_to(1 + np.arange(spec.length), (size, spec.length))
    return rows.ids.get(spec.key, np.broadcast_to(0, (size, spec.length)))


def _alphas(strategies: tuple[Strategy, ...], specs: tuple[ModalitySpec, ...], side: str) -> np.ndarray:
    """(strategies, modalities), 0 where a modality does not take part."""
    return np.array([[getattr(s, side).get(spec.key, 0.0) for spec in specs] for s in strategies])
