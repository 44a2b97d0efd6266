"""Input and target masking (paper 2.3, C.1, E.4): from the tokens of whole batches to the packed tokens the model sees.

The numbers of tokens of each modality that are shown and predicted are drawn per sample from a Dirichlet distribution.
Which tokens these are is drawn uniformly in grids, and by span masking with sentinels in sequences. Everything is
vectorized over the batch. A row's random numbers are a function of (seed, step, row) alone, so any process can make it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.special import gammaincinv, ndtri

from open4m import modalities
from open4m.masking.config import MaskingConfig, Strategy
from open4m.masking.spans import Spans, entries, span_mask
from open4m.model.config import ModalitySpec
from open4m.rng import RowDraws
from open4m.types import MaskedBatch, Open4MError


@dataclass
class TokenRows:
    """The unmasked tokens of a batch, by modality key.

    ``ids``: integers (B, L): grids in raster order; sequences padded, [EOS] included.
    ``vectors``: float32 (B, L, C), padded. ``lengths``: (B,), of sequences of ids and of vectors.
    ``pixels``: (B, C, H, W), uint8 as stored, or float32 if normalized.
    Where a sample lacks a modality, its length is 0, or ``present`` (B,) is False: none of it is shown or asked for.
    A modality that all samples lack may be left out.
    """

    ids: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]
    pixels: dict[str, np.ndarray]
    present: Mapping[str, np.ndarray] | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    def normalized(self) -> TokenRows:
        """The same rows with float32 pixels, as the model's first layer takes them."""
        pixels = {
            key: np.stack([modalities.get(key).pixels(image.transpose(1, 2, 0)) for image in images])
            if images.dtype == np.uint8
            else images
            for key, images in self.pixels.items()
        }
        return replace(self, pixels=pixels)


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
    """The packed batch of these rows, the first of which is row ``first_row`` of the global batch of ``step``.

    A sample is masked by a strategy that has an input and a target among the sample's modalities. One for which no
    strategy has both shows what it can and is asked for what it can, perhaps nothing.

    ``sentinels``: the token ids of the sentinels, in order.

    Raises :class:`Open4MError` if the rows hold no sample, a modality that ``specs`` lack, or arrays of other shapes
    than ``specs`` say.
    """
    size = _batch_size(rows, specs)
    draw = RowDraws(seed, step, first_row, size)
    strategies = config.strategies
    capacity = np.stack([_capacity(rows, s, size) for s in specs], 1)  # (B, modalities)
    strategy = draw.choice([s.weight for s in strategies], _usable(strategies, specs, capacity))  # (B,)
    unmasked = np.array([[s.key in t.unmasked for s in specs] for t in strategies])[strategy]  # (B, modalities)
    apart = np.array([not t.overlap for t in strategies])[strategy, None]  # (B, 1)
    is_sequence = np.array([s.is_sequence for s in specs])
    placed = np.array([s.has_places for s in specs])

    # A hole of the grids that are predicted. Of its cells one or more stay hidden, any number alike: in-painting passes
    # through all of them.
    holes, showable = {}, capacity.copy()
    if any(t.hole for t in strategies):
        area = rectangle(draw, np.array([t.hole or (1.0, 1.0) for t in strategies])[strategy])
        for i in np.flatnonzero(placed):
            concerned = np.array([t.hole is not None and specs[i].key in t.target_alpha for t in strategies])[strategy]
            holes[i] = touched(area, specs[i].grid) & concerned[:, None]
            hidden = draw.between(np.minimum(1, holes[i].sum(1)), holes[i].sum(1))
            showable[:, i] = np.maximum(capacity[:, i] - hidden, 0)

    # Inputs. Sequences first: their number of tokens is only bounded by the budget; what they leave goes to the grids.
    total = draw.between(*np.array([config.input_range(s) for s in strategies])[strategy].T)
    shares = dirichlet(draw, _alphas(strategies, specs, "input_alpha")[strategy])
    leftover = np.array([t.leftover for t in strategies])[strategy]
    keeps = is_sequence & (leftover == "none")[:, None] & (capacity > 0)  # its share, however short it is
    shown = allocate(shares, total, np.where(keeps, total[:, None], showable), draw.one())  # (B, modalities)
    spans = {}
    for i in np.flatnonzero(is_sequence):
        masked = span_mask(draw, capacity[:, i], specs[i].length, shown[:, i], unmasked[:, i])
        spans[i] = Spans(masked, capacity[:, i], shown[:, i])
        shown[:, i] = spans[i].input_count
    left = total - np.where(is_sequence, shown, 0).sum(1)
    left = np.where(leftover == "uniform", draw.between(0, left), left)
    grids = allocate(np.where(is_sequence, 0.0, shares), left, showable, draw.one())
    shown = np.where(is_sequence | (leftover == "none")[:, None], shown, grids)

    # A grid shows the first cells of a random order, and may be asked for those after ``begin``. Grids that must not
    # overlap have the same order, and begin after the most that any of them shows.
    order = {i: draw.order(specs[i].length) for i in np.flatnonzero(~is_sequence)}
    begin = np.where(apart & placed, np.where(placed, shown, 0).max(1, keepdims=True), shown)
    if apart.any():
        for i in np.flatnonzero(placed):
            first = next(j for j in np.flatnonzero(placed) if specs[j].grid == specs[i].grid)
            order[i] = np.where(apart, order[first], order[i])
    for i, hole in holes.items():  # comes last in the order
        order[i] = np.take_along_axis(order[i], np.take_along_axis(hole, order[i], 1).argsort(1, kind="stable"), 1)
        begin[:, i] = np.where(hole.any(1), np.maximum(begin[:, i], specs[i].length - hole.sum(1)), begin[:, i])

    # Targets: cells that are left, and of sequences the masked spans.
    limits = np.maximum(capacity - begin, 0)
    for i, masked in spans.items():
        limits[:, i] = masked.target_count
    total = draw.between(*np.array([config.target_range(s) for s in strategies])[strategy].T)
    shares = dirichlet(draw, _alphas(strategies, specs, "target_alpha")[strategy])
    asked = allocate(shares, total, limits, draw.one())

    inputs, targets = _Packer(size, config.widest_input), _Packer(size, config.widest_target)
    for i, spec in enumerate(specs):
        ids = _ids(rows, spec, size)
        row, column = entries(shown[:, i])
        target_row, target_column = entries(asked[:, i])
        if is_sequence[i]:
            marks = np.zeros(spec.length, dtype=np.int64) if spec.content == "vectors" else sentinels
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
        input_id=input_id,
        input_modality=input_modality,
        input_position=input_position,
        input_valid=input_valid,
        target_id=target_id,
        target_modality=target_modality,
        target_position=target_position,
        query_id=query_id,
        target_valid=target_valid,
        pixels={key: torch.from_numpy(value) for key, value in rows.pixels.items()},
        scales={key: _scale(key) for key, value in rows.pixels.items() if value.dtype == np.uint8},
        vectors={key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in rows.vectors.items()},
        input_counts=tuple(shown.sum(0).tolist()),
        target_counts=tuple(asked.sum(0).tolist()),
    )


def dirichlet(draw: RowDraws, alpha: np.ndarray) -> np.ndarray:
    """Dirichlet shares (B, n), 0 where ``alpha`` (B, n) is 0: gamma variates, normalized.

    Gamma(α) is Gamma(α + 1)·U^(1/α). Gamma(α + 1) is drawn by Marsaglia and Tsang's method (2000) or, in the few cases
    that this rejects, by inversion; each way is exact and has random numbers of its own, so the mixture is exact too.
    The logarithm is computed, since a small α makes shares below the smallest float; the least share of a modality that
    takes part is e^-600, so that it still receives what the others cannot take.
    """
    normal, test, inversion, power = np.split(draw.uniform(4 * alpha.shape[1]), 4, axis=1)
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


def allocate(shares: np.ndarray, total: np.ndarray, capacity: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Whole budgets (B, n) in proportion to ``shares`` that sum to ``total`` (B,), or to all capacity if that is less.

    Where a share exceeds its ``capacity`` (B, n), the rest goes to the others in proportion. Fractions are rounded by
    systematic sampling with ``offset`` (B,) in [0, 1), so that the expectation of a budget is its exact fraction.
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


def rectangle(draw: RowDraws, area: np.ndarray) -> np.ndarray:
    """A rectangle per row somewhere in the image: left, top, right, bottom (B, 4) in fractions of its sides.

    Its share of the image is uniform between the two in ``area`` (B, 2), and the logarithm of the ratio of its sides
    between those of 1:2 and 2:1, as far as the image is large enough for it.
    """
    share, ratio, x, y = draw.uniform(4).T
    share = area[:, 0] + share * (area[:, 1] - area[:, 0])
    width = np.minimum(np.maximum(np.sqrt(share * 2 ** (2 * ratio - 1)), share), 1.0)
    height = share / width
    left, top = x * (1 - width), y * (1 - height)
    return np.stack([left, top, left + width, top + height], 1)


def touched(rectangle: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Which cells of a grid have a part in rectangles (B, 4): bool (B, h·w), in raster order. It is one at least."""
    left, top, right, bottom = rectangle.T[..., None]
    (h, w), edge = grid, 1e-9
    rows, columns = np.arange(h) / h, np.arange(w) / w
    inside = [
        (first < high - edge) & (first + side > low + edge)
        for first, side, low, high in ((rows, 1 / h, top, bottom), (columns, 1 / w, left, right))
    ]
    return (inside[0][:, :, None] & inside[1][:, None]).reshape(len(rectangle), -1)


class _Packer:
    """Puts the tokens of one modality after another into rows of a fixed width."""

    def __init__(self, size: int, width: int):
        self._size, self._width = size, width
        self._counts: list[np.ndarray] = []
        self._fields: list[tuple[np.ndarray, ...]] = []

    def add(self, count: np.ndarray, *fields: np.ndarray) -> None:
        """Append a modality with ``count`` (B,) tokens per row; ``fields`` (n,) hold their values, row after row."""
        self._counts.append(count)
        self._fields.append(fields)

    def packed(self) -> list[torch.Tensor]:
        """Each field, the modality, and whether there is a token: (B, width) each."""
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


def _at(array: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """``array[row, column]`` for a contiguous array (B, L), four times as fast."""
    return array.reshape(-1).take(row * array.shape[1] + column)


def _batch_size(rows: TokenRows, specs: tuple[ModalitySpec, ...]) -> int:
    """The number of samples B, after checking that all arrays are what ``specs`` say."""
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
    """The fields of :class:`TokenRows` that ``size`` rows of a modality have, with their shapes."""
    if spec.content == "pixels":
        height, width = (side * spec.patch_size for side in spec.grid)
        shapes: dict[str, tuple[int, ...]] = {"pixels": (size, spec.channels, height, width)}
    elif spec.content == "vectors":
        shapes = {"vectors": (size, spec.length, spec.channels)}
    else:
        shapes = {"ids": (size, spec.length)}
    if spec.is_sequence:
        shapes["lengths"] = (size,)
    return {**shapes, "present": (size,)}


def _capacity(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """How many tokens of a modality each sample has, (B,)."""
    is_there = any(spec.key in table for table in (rows.ids, rows.pixels, rows.vectors))
    length = rows.lengths.get(spec.key, 0) if spec.is_sequence else spec.length
    present = True if rows.present is None else rows.present.get(spec.key, True)
    return np.where(np.full(size, is_there) & present, length, 0).astype(np.int64)


def _usable(strategies: tuple[Strategy, ...], specs: tuple[ModalitySpec, ...], capacity: np.ndarray) -> np.ndarray:
    """Whether each sample has an input and a target of each strategy, bool (B, strategies).

    Sequences that are shown whole leave little to ask for: they do not count where the strategy has other targets.
    """
    shown = _alphas(strategies, specs, "input_alpha") > 0  # (strategies, modalities)
    asked = _alphas(strategies, specs, "target_alpha") > 0
    masked = asked & np.array([[spec.key not in s.unmasked for spec in specs] for s in strategies])
    asked = np.where(masked.any(1, keepdims=True), masked, asked)
    has = capacity[:, None] > 0
    return (has & shown).any(2) & (has & asked).any(2)


def _ids(rows: TokenRows, spec: ModalitySpec, size: int) -> np.ndarray:
    """Token ids (B, L): of a vector 1 + its row; zeros for pixels and for a modality that no sample has."""
    if spec.content == "vectors":
        return np.broadcast_to(1 + np.arange(spec.length), (size, spec.length))
    return rows.ids.get(spec.key, np.broadcast_to(0, (size, spec.length)))


def _scale(key: str) -> torch.Tensor:
    """Mean and standard deviation (2, C) of a modality's pixels on the [0, 1] scale."""
    modality = modalities.get(key)
    return torch.tensor([modality.mean, modality.std], dtype=torch.float32)


def _alphas(strategies: tuple[Strategy, ...], specs: tuple[ModalitySpec, ...], side: str) -> np.ndarray:
    """The α of each strategy and modality, (strategies, modalities); 0 where a modality does not take part."""
    return np.array([[getattr(s, side).get(spec.key, 0.0) for spec in specs] for s in strategies])
