"""Masking against the paper's rules: exact enumeration of small cases, closed forms, reconstruction of the source."""

import dataclasses
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.masking import MaskingConfig, Strategy, TokenRows, allocate, mask_batch
from open4m.model.config import ModalitySpec
from open4m.types import Open4MError

EOS = 3
SENTINELS = np.arange(4, 24)  # ids that no word has
FIRST_WORD = 24
INF = float("inf")


def grid_spec(key, h=4, w=4, **more):
    return ModalitySpec(key=key, family="grid", vocab_size=1000, grid=(h, w), **more)


def sequence_spec(key="caption", length=12, **more):
    return ModalitySpec(key=key, family="sequence", vocab_size=1000, max_length=length, **more)


def pixel_spec(key="rgb_pixels"):
    return ModalitySpec(key=key, family="pixels", grid=(3, 3), patch_size=2, channels=3)


SPECS = (pixel_spec(), grid_spec("depth"), sequence_spec("caption"), grid_spec("clip", 2, 5), sequence_spec("boxes", 7))


def make_rows(specs, size, seed=0, lengths=None):
    rng = np.random.default_rng(seed)
    rows = TokenRows({}, {}, {})
    for spec in specs:
        if spec.family == "grid":
            rows.ids[spec.key] = rng.integers(0, 1000, (size, spec.length))
        elif spec.family == "pixels":
            side = (spec.grid[0] * spec.patch_size, spec.grid[1] * spec.patch_size)
            rows.pixels[spec.key] = rng.standard_normal((size, 3, *side), dtype=np.float32)
        else:
            length = rng.integers(0, spec.length + 1, size)
            if lengths is not None:
                length = np.asarray(lengths)
            ids = rng.integers(FIRST_WORD, 1000, (size, spec.length))
            ids[np.arange(size), np.maximum(length - 1, 0)] = EOS
            rows.ids[spec.key] = np.where(np.arange(spec.length) < length[:, None], ids, 0)
            rows.lengths[spec.key] = length
    return rows


def make_config(specs, input_budget, target_budget, alpha=0.5, **strategy):
    inputs = {s.key: alpha for s in specs if s.is_input}
    targets = {s.key: alpha for s in specs if s.is_target}
    fields = {"name": "all", "input_alpha": inputs, "target_alpha": targets, **strategy}
    return MaskingConfig(input_budget=input_budget, target_budget=target_budget, strategies=(Strategy(**fields),))


def masked(rows, specs, config, seed=0, step=0, first_row=0):
    config.check(specs, len(SENTINELS))
    return mask_batch(rows, specs, config, SENTINELS, seed=seed, step=step, first_row=first_row)


def tokens(batch, kind, row, modality):
    """[(position, id, query or None)] of one modality of one sample, in the order of the batch."""
    valid = getattr(batch, f"{kind}_valid")[row] & (getattr(batch, f"{kind}_modality")[row] == modality)
    columns = [
        getattr(batch, f"{kind}_position")[row][valid].tolist(),
        getattr(batch, f"{kind}_id")[row][valid].tolist(),
    ]
    columns.append(batch.query_id[row][valid].tolist() if kind == "target" else [None] * len(columns[0]))
    return list(zip(*columns, strict=True))


def is_sentinel(token):
    return SENTINELS[0] <= token <= SENTINELS[-1]


def slow_spans(ids, mask):
    """Input and whole target of a sequence whose tokens are masked where ``mask`` is True: the paper's C.1."""
    shown, target, span, inside = [], [], 0, False
    for token, hidden in zip(ids, mask, strict=True):
        if hidden:
            if not inside:
                shown.append(int(SENTINELS[span]))
                target.append(int(SENTINELS[span]))
                span += 1
            target.append(token)
        else:
            shown.append(token)
        inside = hidden
    return shown, ([*target, int(SENTINELS[span])] if span else [])


def rebuild(shown, target):
    """The sequence from what is shown and the whole target."""
    spans, current = {}, None
    for token in target:
        if is_sentinel(token):
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    out = []
    for token in shown:
        out += spans.pop(token) if is_sentinel(token) else [token]
    assert all(not rest for rest in spans.values())  # the final sentinel delimits nothing
    return out


@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 60), st.sampled_from([0.05, 0.5, 5.0, INF]),
    st.sampled_from([(), ("caption",), ("caption", "boxes")]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_every_batch_keeps_the_rules(seed, input_budget, target_budget, alpha, unmasked):
    rows = make_rows(SPECS, 9, seed)
    rows.present = {"depth": np.arange(9) % 3 > 0, "rgb_pixels": np.arange(9) % 4 > 0}
    batch = masked(rows, SPECS, make_config(SPECS, input_budget, target_budget, alpha, unmasked=unmasked), seed)
    assert batch.input_id.shape == (9, input_budget)
    assert batch.target_id.shape == (9, target_budget)
    for kind, fields in (("input", ("id", "modality", "position")), ("target", ("id", "modality", "position"))):
        valid = getattr(batch, f"{kind}_valid")
        assert valid.dtype == torch.bool
        assert (valid[:, 1:] <= valid[:, :-1]).all()  # packed to the left
        for field in fields:
            values = getattr(batch, f"{kind}_{field}")
            assert values.dtype == torch.int64
            assert (values[~valid] == 0).all()
    assert (batch.query_id[~batch.target_valid] == 0).all()
    for row, (index, spec) in itertools.product(range(9), enumerate(SPECS)):
        shown, asked = tokens(batch, "input", row, index), tokens(batch, "target", row, index)
        if spec.family == "sequence":
            source = rows.ids[spec.key][row, : rows.lengths[spec.key][row]].tolist()
            assert [p for p, _, _ in shown] == list(range(len(shown)))  # positions count
            assert [p for p, _, _ in asked] == list(range(len(asked)))
            ids = [t for _, t, _ in shown]
            assert [t for t in ids if is_sentinel(t)] == SENTINELS[: sum(map(is_sentinel, ids))].tolist()
            for (_, answer, _), (_, _, query) in itertools.pairwise(asked):
                assert query == answer  # a query is the previous token
            if asked:
                assert is_sentinel(asked[0][2])
            assert [t for t in ids if not is_sentinel(t)] == _subsequence(source, ids)
        else:
            absent = rows.present is not None and not rows.present.get(spec.key, np.ones(9, bool))[row]
            assert not (absent and (shown or asked))
            places = [p for p, _, _ in shown] + [p for p, _, _ in asked]
            assert len(set(places)) == len(places)  # inputs and targets are disjoint
            assert all(0 <= p < spec.length for p in places)
            for position, token, query in shown + asked:
                expected = 0 if spec.family == "pixels" else rows.ids[spec.key][row, position]
                assert token == expected
                assert query in (None, 0)
            assert spec.family != "pixels" or not asked


def _subsequence(source, ids):
    """The words of ``ids``, checked to occur in ``source`` in this order."""
    words, place = [t for t in ids if not is_sentinel(t)], 0
    for word in words:
        place = source.index(word, place) + 1
    return words


@given(st.integers(0, 10**6), st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 14))
@settings(max_examples=100, deadline=None)
def test_the_input_and_the_whole_target_rebuild_the_sequence(seed, lengths, budget):
    specs = (sequence_spec("caption", 12),)
    rows = make_rows(specs, len(lengths), seed, lengths)
    batch = masked(rows, specs, make_config(specs, budget, 40), seed)
    for row, length in enumerate(lengths):
        source = rows.ids["caption"][row, :length].tolist()
        asked = tokens(batch, "target", row, 0)
        shown = [t for _, t, _ in tokens(batch, "input", row, 0)]
        assert len(shown) <= budget
        target = [asked[0][2], *(t for _, t, _ in asked)] if asked else []
        assert rebuild(shown, target) == source
        mask = [t not in shown for t in source] if len(set(source)) == len(source) else None
        if mask is not None:
            assert slow_spans(source, mask) == (shown, target)


@given(st.integers(0, 10**6), st.integers(1, 11))
@settings(max_examples=60, deadline=None)
def test_a_truncated_target_is_a_contiguous_part_that_starts_with_a_sentinel(seed, target_budget):
    specs = (sequence_spec("caption", 12),)
    rows = make_rows(specs, 8, seed, [12] * 8)
    whole = masked(rows, specs, make_config(specs, 6, 40), seed)
    part = masked(rows, specs, make_config(specs, 6, target_budget), seed)
    assert torch.equal(whole.input_id, part.input_id)
    for row in range(8):
        full, cut = tokens(whole, "target", row, 0), tokens(part, "target", row, 0)
        full = [full[0][2], *(t for _, t, _ in full)]
        cut = [cut[0][2], *(t for _, t, _ in cut)]
        assert len(cut) == min(target_budget + 1, len(full))  # one query a budgeted token
        assert is_sentinel(cut[0])
        assert any(full[i : i + len(cut)] == cut for i in range(len(full)))


def _exact_outcomes(length, budget, target_budget):
    """Exact probabilities of (mask, start of the target) by enumeration of the paper's rule.

    With i.i.d. keys and p_mask ~ U(0, 1), the order in which tokens become masked is a uniform permutation and the
    number masked at first is uniform on 0..length, independent of it; raising p_mask masks one token more at a time.
    """
    chance = Counter()
    orders = list(itertools.permutations(range(length)))
    for order, first in itertools.product(orders, range(length + 1)):
        count = first
        while True:
            mask = [t in order[:count] for t in range(length)]
            shown, target = slow_spans(list(range(FIRST_WORD, FIRST_WORD + length)), mask)
            if len(shown) <= budget:
                break
            count += 1
        p = Fraction(1, len(orders) * (length + 1))
        latest = max(0, len(target) - 1 - target_budget)
        starts = [i for i, t in enumerate(target[:-1]) if is_sentinel(t) and i <= latest]
        for start in starts or [0]:
            chance[tuple(mask), start] += p / len(starts or [0])
    return chance


@pytest.mark.parametrize(("length", "budget", "target_budget"), [(5, 5, 20), (5, 3, 2), (5, 1, 1), (4, 2, 3)])
def test_span_masking_has_the_exact_distribution_of_the_rule(length, budget, target_budget):
    count = 20_000
    specs = (sequence_spec("caption", 6),)
    rows = TokenRows({"caption": np.zeros((count, 6), dtype=np.int64)}, {"caption": np.full(count, length)}, {})
    rows.ids["caption"][:, :length] = np.arange(FIRST_WORD, FIRST_WORD + length)
    batch = masked(rows, specs, make_config(specs, budget, target_budget), seed=5)
    expected = _exact_outcomes(length, budget, target_budget)
    seen = Counter()
    for row in range(count):
        shown = batch.input_id[row][batch.input_valid[row]].tolist()
        mask = tuple(FIRST_WORD + t not in shown for t in range(length))
        queries = batch.query_id[row][batch.target_valid[row]].tolist()
        _, target = slow_spans(list(range(FIRST_WORD, FIRST_WORD + length)), mask)
        seen[mask, target.index(queries[0]) if queries else 0] += 1
    assert set(seen) <= set(expected)
    statistic = sum((seen[k] - count * float(p)) ** 2 / (count * float(p)) for k, p in expected.items())
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom) + 10  # more than 5 deviations above the mean of chi-square


def test_a_budget_of_zero_shows_nothing_and_asks_for_the_whole_sequence():
    specs = (grid_spec("depth"), sequence_spec("caption", 12))
    rows = make_rows(specs, 5, 1, [0, 1, 2, 7, 12])
    batch = masked(rows, specs, make_config(specs, 8, 40, input_alpha={"depth": 1.0}))
    for row, length in enumerate([0, 1, 2, 7, 12]):
        assert tokens(batch, "input", row, 1) == []
        asked = tokens(batch, "target", row, 1)
        if length:
            expected = [int(SENTINELS[0]), *rows.ids["caption"][row, :length].tolist(), int(SENTINELS[1])]
            assert [asked[0][2], *(t for _, t, _ in asked)] == expected
        else:
            assert asked == []


def test_unmasked_sequences_are_shown_whole_if_they_fit():
    specs = (sequence_spec("caption", 12),)
    lengths = [0, 1, 5, 8, 9, 12]
    rows = make_rows(specs, 6, 2, lengths)
    batch = masked(rows, specs, make_config(specs, 8, 20, unmasked=("caption",)))
    for row, length in enumerate(lengths):
        shown = [t for _, t, _ in tokens(batch, "input", row, 0)]
        if length <= 8:
            assert shown == rows.ids["caption"][row, :length].tolist()
            assert tokens(batch, "target", row, 0) == []  # nothing is hidden
        else:
            assert 1 <= len(shown) <= 8
            assert any(map(is_sentinel, shown))


def test_unmasked_holds_for_the_rows_of_its_strategy_only():
    specs = (sequence_spec("caption", 12),)
    rows = make_rows(specs, 400, 2, [12] * 400)
    alphas = {"input_alpha": {"caption": 1.0}, "target_alpha": {"caption": 1.0}}
    config = MaskingConfig(input_budget=12, target_budget=12, strategies=(
        Strategy(name="whole", unmasked=("caption",), **alphas), Strategy(name="masked", weight=3, **alphas),
    ))  # fmt: skip
    batch = masked(rows, specs, config)
    whole = [not any(is_sentinel(t) for t in batch.input_id[r][batch.input_valid[r]].tolist()) for r in range(400)]
    # a quarter of the rows, and one in 13 of the others, where no key happens to lie below p_mask
    assert np.mean(whole) == pytest.approx(0.25 + 0.75 / 13, abs=5 * np.sqrt(0.21 / 400))


def test_p_mask_is_uniform():
    """The number of words shown of a sequence that fits is uniform on 0..L when p_mask ~ U(0, 1)."""
    specs = (sequence_spec("caption", 12),)
    rows = make_rows(specs, 26_000, 3, [12] * 26_000)
    batch = masked(rows, specs, make_config(specs, 12, 12))
    words = (batch.input_valid & ((batch.input_id == EOS) | (batch.input_id >= FIRST_WORD))).sum(1)
    counts = torch.bincount(words, minlength=13).numpy()
    assert ((counts - 2000) ** 2 / 2000).sum() < 12 + 5 * np.sqrt(24)


def test_grid_cells_are_drawn_uniformly():
    """All 90 ways to show 2 and ask for 2 of 6 cells are equally likely."""
    specs = (grid_spec("depth", 2, 3),)
    count = 18_000
    batch = masked(make_rows(specs, count), specs, make_config(specs, 2, 2), seed=11)
    seen = Counter(zip(map(frozenset, batch.input_position.tolist()), map(frozenset, batch.target_position.tolist()),
                       strict=True))  # fmt: skip
    assert len(seen) == 90
    assert sum((n - 200) ** 2 / 200 for n in seen.values()) < 89 + 5 * np.sqrt(2 * 89)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 5.0, INF])
@pytest.mark.parametrize("kind", ["input", "target"])
def test_budgets_have_the_moments_of_the_dirichlet_distribution(alpha, kind):
    """Mean N/K and variance N²(K-1)/(K²(Kα+1)); rounding adds at most 1/4 to the variance."""
    n, k, count = 30, 3, 20_000
    specs = tuple(grid_spec(f"m{i}", 6, 6) for i in range(k))
    other = {"m0": 1.0}  # the other side takes at most one cell, so that no capacity (36) binds
    alphas = {"input_alpha": dict.fromkeys(("m0", "m1", "m2"), alpha), "target_alpha": other}
    budgets = (n, 1)
    if kind == "target":
        alphas = {"input_alpha": other, "target_alpha": dict.fromkeys(("m0", "m1", "m2"), alpha)}
        budgets = (1, n)
    batch = masked(make_rows(specs, count), specs, make_config(specs, *budgets, **alphas), seed=3)
    valid, modality = getattr(batch, f"{kind}_valid"), getattr(batch, f"{kind}_modality")
    assert valid.all()  # the budget is spent
    sizes = torch.stack([(modality == i).sum(1) for i in range(k)], 1).double()  # (B, K)
    variance = 0 if alpha == INF else n**2 * (k - 1) / (k**2 * (k * alpha + 1))
    spread = np.sqrt((variance + 0.25) / count)
    assert (sizes.mean(0) - n / k).abs().max() < 5 * spread
    # the standard error of a variance is at most about sqrt(2/count) = 1 % of it here; 5 of them
    assert (sizes.var(0) - variance).abs().max() < 0.05 * variance + 0.3
    if alpha == INF:
        assert (sizes - n / k).abs().max() < 1


def test_the_mixture_has_the_weights_of_its_strategies():
    specs = (pixel_spec(), grid_spec("depth"))
    target = {"depth": 1.0}
    config = MaskingConfig(input_budget=4, target_budget=4, strategies=(
        Strategy(name="rgb", input_alpha={"rgb_pixels": 1.0}, target_alpha=target, weight=3),
        Strategy(name="depth", input_alpha={"depth": 1.0}, target_alpha=target, weight=1),
    ))  # fmt: skip
    batch = masked(make_rows(specs, 8000), specs, config)
    assert (batch.input_modality == batch.input_modality[:, :1]).all()  # a row follows one strategy
    share = (batch.input_modality[:, 0] == 0).double().mean()
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 8000)


def test_input_budgets_are_drawn_uniformly_from_their_strategys_range():
    specs = (grid_spec("depth", 6, 6),)
    alphas = {"input_alpha": {"depth": 1.0}, "target_alpha": {"depth": 1.0}}
    config = MaskingConfig(input_budget=(0, 4), target_budget=2, strategies=(
        Strategy(name="few", **alphas), Strategy(name="many", weight=3, input_budget=(20, 24), **alphas),
    ))  # fmt: skip
    assert config.widest_input == 24
    assert config.tokens_per_sample == pytest.approx(0.25 * 2 + 0.75 * 22 + 2)
    batch = masked(make_rows(specs, 20_000), specs, config)
    assert batch.input_id.shape == (20_000, 24)
    counts = torch.bincount(batch.input_valid.sum(1), minlength=25).numpy()
    expected = np.zeros(25)
    expected[:5], expected[20:] = 1000, 3000
    assert counts[expected == 0].sum() == 0
    assert ((counts - expected) ** 2 / np.maximum(expected, 1)).sum() < 9 + 5 * np.sqrt(18)


def test_beside_a_whole_sequence_grids_fill_any_part_of_what_it_leaves():
    """So that the model sees a text with as much of a grid as generation from the text goes through."""
    specs = (grid_spec("depth", 6, 6), sequence_spec("caption", 12))
    count = 12_000
    rows = make_rows(specs, count, 0, [5] * count)
    config = make_config(specs, 16, 4, input_alpha={"depth": 1.0, "caption": 1.0}, unmasked=("caption",))
    batch = masked(rows, specs, config)
    sequence = (batch.input_valid & (batch.input_modality == 1)).sum(1)
    grid = (batch.input_valid & (batch.input_modality == 0)).sum(1)
    counts = torch.bincount(grid[sequence == 5], minlength=12).numpy()
    assert len(counts) == 12
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 11 + 5 * np.sqrt(22)


def test_only_the_named_modalities_are_shown_and_asked_for():
    config = make_config(SPECS, 20, 20, input_alpha={"rgb_pixels": 0.3, "boxes": 0.3}, target_alpha={"clip": 1.0})
    batch = masked(make_rows(SPECS, 50), SPECS, config)
    assert set(batch.input_modality[batch.input_valid].tolist()) == {0, 4}
    assert set(batch.target_modality[batch.target_valid].tolist()) == {3}


def test_what_sequences_leave_goes_to_the_grids():
    specs = (grid_spec("depth", 8, 8), sequence_spec("caption", 12))
    rows = make_rows(specs, 300, 0, [3] * 300)
    batch = masked(rows, specs, make_config(specs, 30, 30, alpha=1.0))
    assert batch.input_valid.all()
    assert batch.target_valid.all()


def test_a_modality_that_no_sample_has_may_be_left_out():
    rows = make_rows(SPECS, 6)
    absent = dataclasses.replace(
        make_rows(SPECS, 6), lengths={**rows.lengths, "caption": np.zeros(6, dtype=np.int64)},
        present={"depth": np.zeros(6, dtype=bool), "rgb_pixels": np.zeros(6, dtype=bool)},
    )  # fmt: skip
    config = make_config(SPECS, 20, 20)
    told = masked(absent, SPECS, config)
    for values in (rows.ids, rows.lengths, rows.pixels):
        for key in ("depth", "caption", "rgb_pixels"):
            values.pop(key, None)
    left_out = masked(rows, SPECS, config)
    for field in dataclasses.fields(told):
        if field.name != "pixels":
            assert torch.equal(getattr(told, field.name), getattr(left_out, field.name)), field.name
    assert set(told.input_modality[told.input_valid].tolist()) <= {3, 4}


def test_rows_do_not_depend_on_how_the_batch_is_split():
    rows = make_rows(SPECS, 8)
    config = make_config(SPECS, 20, 20)
    whole = masked(rows, SPECS, config, seed=7, step=3)
    again = masked(rows, SPECS, config, seed=7, step=3)
    for start, end in ((0, 3), (3, 4), (4, 8)):
        part = TokenRows(
            *({k: v[start:end] for k, v in values.items()} for values in (rows.ids, rows.lengths, rows.pixels))
        )
        split = masked(part, SPECS, config, seed=7, step=3, first_row=start)
        for field in dataclasses.fields(whole):
            if field.name == "pixels":
                assert torch.equal(split.pixels["rgb_pixels"], whole.pixels["rgb_pixels"][start:end])
                continue
            assert torch.equal(getattr(whole, field.name), getattr(again, field.name))
            assert torch.equal(getattr(whole, field.name)[start:end], getattr(split, field.name)), field.name
    for other in ({"seed": 8, "step": 3}, {"seed": 7, "step": 4}):
        assert not torch.equal(whole.input_position, masked(rows, SPECS, config, **other).input_position)


# ---- allocate


def slow_allocation(shares, total, capacity):
    """Exact (not rounded) budgets of one sample: pour ``total`` in proportion to shares, spilling what is full."""
    exact = [Fraction(0)] * len(shares)
    active = [i for i, (s, c) in enumerate(zip(shares, capacity, strict=True)) if s > 0 and c > 0]
    left = Fraction(total)
    while active and left > 0:
        weight = sum(shares[i] for i in active)
        # pour until the first one is full
        level = min((capacity[i] - exact[i]) / shares[i] for i in active)
        level = min(level, left / weight)
        for i in active:
            exact[i] += level * shares[i]
        left -= level * weight
        active = [i for i in active if exact[i] < capacity[i]]
    return exact


CASES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=6)


@given(CASES, st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_allocation_is_water_filling_with_unbiased_rounding(case, total):
    shares, capacity = [Fraction(s, 7) for s, _ in case], [c for _, c in case]
    exact = slow_allocation(shares, total, capacity)
    offsets = (np.arange(600) + 0.5) / 600  # systematic rounding over an even grid of offsets: its exact expectation
    size = len(offsets)
    result = allocate(np.tile([float(s) for s in shares], (size, 1)), np.full(size, total),
                      np.tile(capacity, (size, 1)), offsets)  # fmt: skip
    assert (result >= 0).all()
    assert (result <= capacity).all()
    assert (result.sum(1) == sum(exact)).all()
    assert (np.abs(result - [float(e) for e in exact]) < 1).all()
    # each budget is one of two integers; the share of offsets that rounds up is exact to 2 steps of the grid
    assert np.abs(result.mean(0) - [float(e) for e in exact]).max() <= 2 / 600


def test_allocation_handles_rows_that_fill_at_different_speeds():
    shares = np.array([[0.5, 0.5, 0.0], [0.98, 0.01, 0.01], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    capacity = np.array([[100, 100, 100], [2, 3, 100], [5, 50, 50], [9, 9, 9]])
    result = allocate(shares, np.array([10, 20, 20, 20]), capacity, np.zeros(4))
    assert result.tolist() == [[5, 5, 0], [2, 3, 15], [5, 0, 0], [0, 0, 0]]


# ---- configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_budget": 0}, "strategy all: input budget must be 0 <= fewest <= most, got 0, 0"),
        ({"input_budget": (5, 4)}, "input budget must be 0 <= fewest <= most, got 5, 4"),
        ({"input_budget": (-1, 4)}, "input budget must be"),
        ({"target_budget": -1}, "positive target budget"),
        ({"strategies": ()}, "at least one strategy"),
        ({"input_alpha": {"dept": 1.0}}, "did you mean depth"),
        ({"input_alpha": {}}, "at least one input"),
        ({"target_alpha": {}}, "at least one input"),
        ({"target_alpha": {"rgb_pixels": 1.0}}, "unknown modality 'rgb_pixels'"),
        ({"target_alpha": {"depth": 0.0}}, "α of depth must be above 0, got 0.0"),
        ({"input_alpha": {"depth": float("nan")}}, "α of depth must be above 0"),
        ({"unmasked": ("captoin",)}, "did you mean caption"),
        ({"weight": 0.0}, "weight must be above 0"),
        ({"weight": float("nan")}, "weight must be above 0"),
    ],
)
def test_mistakes_are_refused(change, message):
    strategy = {"name": "all", "input_alpha": {"depth": 1.0, "caption": 1.0}, "target_alpha": {"depth": 1.0}}
    top = {"input_budget": 4, "target_budget": 4}
    for key, value in change.items():
        (top if key in (*top, "strategies") else strategy)[key] = value
    config = MaskingConfig(**{"strategies": (Strategy(**strategy),), **top})
    with pytest.raises(Open4MError, match=message):
        config.check(SPECS, len(SENTINELS))


def test_too_few_sentinels_are_refused_and_enough_are_enough():
    specs = (sequence_spec("caption", 12),)
    config = make_config(specs, 12, 30)
    with pytest.raises(Open4MError, match="caption: 8 sentinels"):
        config.check(specs, 7)
    config.check(specs, 8)
    rows = make_rows(specs, 3000, 0, [12] * 3000)
    batch = mask_batch(rows, specs, config, SENTINELS[:8], seed=0, step=0)
    assert (batch.target_id < 1000).all()
