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
from scipy.special import betainc

from open4m.masking.batch import TokenRows, allocate, mask_batch, rectangle, touched
from open4m.masking.config import MaskingConfig, Strategy
from open4m.model.config import ModalitySpec
from open4m.rng import RowDraws
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


def vector_spec(key="embedding", length=6):
    return ModalitySpec(key=key, family="vectors", max_length=length, channels=3)


SPECS = (
    pixel_spec(),
    grid_spec("depth"),
    sequence_spec("caption"),
    grid_spec("clip", 2, 5),
    sequence_spec("boxes", 7),
    vector_spec(),
    grid_spec("normals"),
)


def make_rows(specs, size, seed=0, lengths=None):
    rng = np.random.default_rng(seed)
    rows = TokenRows({}, {}, {})
    for spec in specs:
        if spec.family == "vectors":
            rows.vectors[spec.key] = rng.standard_normal((size, spec.length, spec.channels), dtype=np.float32)
            rows.lengths[spec.key] = rng.integers(0, spec.length + 1, size)
        elif spec.family == "grid":
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

    def values(name):
        return getattr(batch, name).numpy()[row]

    chosen = values(f"{kind}_valid") & (values(f"{kind}_modality") == modality)
    columns = [values(f"{kind}_position")[chosen].tolist(), values(f"{kind}_id")[chosen].tolist()]
    columns.append(values("query_id")[chosen].tolist() if kind == "target" else [None] * len(columns[0]))
    return list(zip(*columns, strict=True))


def counts(batch, kind, modality):
    """(B,): tokens of a modality."""
    chosen = getattr(batch, f"{kind}_valid") & (getattr(batch, f"{kind}_modality") == modality)
    return chosen.sum(1).numpy()


def deviates(seen, expected):
    """Whether counts differ from expected ones by more than chance does: Pearson's statistic is more than 5 standard
    deviations above its mean. What is expected less than 5 times is one class."""
    seen, expected = np.asarray(seen, dtype=float), np.asarray(expected, dtype=float)
    rare = expected < 5
    if rare.any():
        seen = np.append(seen[~rare], seen[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    used = expected > 0
    if seen[~used].any():
        return True
    freedom = max(used.sum() - 1, 1)
    statistic = ((seen - expected)[used] ** 2 / expected[used]).sum()
    return statistic > freedom + 5 * np.sqrt(2 * freedom) + 10  # 10: for the skewness of few degrees of freedom


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
    st.integers(0, 10**6),
    st.integers(1, 40),
    st.integers(1, 60),
    st.sampled_from([0.05, 0.5, 5.0, INF]),
    st.sampled_from([(), ("caption",), ("caption", "boxes", "embedding")]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_batch_keeps_the_rules(seed, input_budget, target_budget, alpha, unmasked, overlap):
    specs = tuple(s for s in SPECS if s.key in ("depth", "normals") or s.family in ("sequence", "vectors") or overlap)
    rows = make_rows(specs, 9, seed)
    absent = {"depth": np.arange(9) % 3 == 0, "rgb_pixels": np.arange(9) % 4 == 0}
    rows.present = {s.key: ~absent[s.key] for s in specs if s.key in absent}
    least = seed % target_budget + 1
    config = make_config(specs, (0, input_budget), (least, target_budget), alpha, unmasked=unmasked, overlap=overlap)
    batch = masked(rows, specs, config, seed)
    assert batch.input_id.shape == (9, input_budget)
    assert batch.target_id.shape == (9, target_budget)
    for kind in ("input", "target"):
        valid = getattr(batch, f"{kind}_valid")
        assert valid.dtype == torch.bool
        assert (valid[:, 1:] <= valid[:, :-1]).all()  # packed to the left
        for field in ("id", "modality", "position"):
            values = getattr(batch, f"{kind}_{field}")
            assert values.dtype == torch.int64
            assert (values[~valid] == 0).all()
    assert (batch.query_id[~batch.target_valid] == 0).all()
    assert all(np.array_equal(batch.vectors[key], value) for key, value in rows.vectors.items())
    for row in range(9):
        left = 0  # tokens of targets that are neither shown nor asked for
        shown_places, asked_places = set(), set()
        for index, spec in enumerate(specs):
            shown, asked = tokens(batch, "input", row, index), tokens(batch, "target", row, index)
            if spec.family in ("sequence", "vectors"):
                assert [p for p, _, _ in shown] == list(range(len(shown)))  # positions count
                assert [p for p, _, _ in asked] == list(range(len(asked)))
            ids = [t for _, t, _ in shown]
            if spec.family == "vectors":
                assert asked == []
                numbers = [t for t in ids if t]
                assert numbers == sorted(set(numbers))
                assert all(1 <= t <= rows.lengths[spec.key][row] for t in numbers)
                assert all(a or b for a, b in itertools.pairwise(ids))  # a span is one token
            elif spec.family == "sequence":
                source = rows.ids[spec.key][row, : rows.lengths[spec.key][row]].tolist()
                assert [t for t in ids if is_sentinel(t)] == SENTINELS[: sum(map(is_sentinel, ids))].tolist()
                for (_, answer, _), (_, _, query) in itertools.pairwise(asked):
                    assert query == answer  # a query is the previous token
                if asked:
                    assert is_sentinel(asked[0][2])
                words = _subsequence(source, ids)
                assert [t for t in ids if not is_sentinel(t)] == words
                hidden = len(source) - len(words)
                spans = sum(map(is_sentinel, ids)) if ids else int(bool(source))
                left += hidden + spans - len(asked)
            else:
                absent = not rows.present.get(spec.key, np.ones(9, bool))[row]
                assert not (absent and (shown or asked))
                places, wanted = {p for p, _, _ in shown}, {p for p, _, _ in asked}
                assert len(places) + len(wanted) == len(shown) + len(asked)
                assert not places & wanted
                shown_places |= places
                asked_places |= wanted
                assert places | wanted <= set(range(spec.length))
                for position, token, query in shown + asked:
                    expected = 0 if spec.family == "pixels" else rows.ids[spec.key][row, position]
                    assert token == expected
                    assert query in (None, 0)
                if spec.family == "pixels":
                    assert not asked
                elif not absent:
                    left += spec.length - len(shown) - len(asked)
        asked = int(batch.target_valid[row].sum())
        assert asked >= least or not overlap or left == 0  # a budget is spent, if there is enough to ask for
        if not overlap:
            assert not shown_places & asked_places


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
    words = np.arange(FIRST_WORD, FIRST_WORD + length)
    hidden = ~(batch.input_id.numpy()[:, :, None] == words).any(1)  # (rows, length)
    outcomes, seen = np.unique(np.column_stack([hidden, batch.query_id[:, 0]]), axis=0, return_counts=True)
    counted = Counter()
    for (*mask, query), number in zip(outcomes.tolist(), seen, strict=True):
        _, target = slow_spans(words.tolist(), mask)
        counted[tuple(map(bool, mask)), target.index(query) if target else 0] += number
    assert set(counted) <= set(expected)
    assert not deviates([counted[k] for k in expected], [count * float(p) for p in expected.values()])


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
    config = MaskingConfig(
        input_budget=12,
        target_budget=12,
        strategies=(
            Strategy(name="whole", unmasked=("caption",), **alphas),
            Strategy(name="masked", weight=3, **alphas),
        ),
    )
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
    assert not deviates(torch.bincount(words, minlength=13), [2000] * 13)


def test_grid_cells_are_drawn_uniformly():
    """All 90 ways to show 2 and ask for 2 of 6 cells are equally likely."""
    specs = (grid_spec("depth", 2, 3),)
    count = 18_000
    batch = masked(make_rows(specs, count), specs, make_config(specs, 2, 2), seed=11)
    seen = Counter(
        zip(map(frozenset, batch.input_position.tolist()), map(frozenset, batch.target_position.tolist()), strict=True)
    )
    assert len(seen) == 90
    assert not deviates(list(seen.values()), [200] * 90)


def test_grids_are_masked_independently_of_each_other():
    """Of two grids of 16 cells that show 8 each, 4 places are shown of both, on average."""
    specs, count = (grid_spec("depth"), grid_spec("normals")), 4000
    batch = masked(make_rows(specs, count), specs, make_config(specs, 16, 2, INF))
    places = np.zeros((2, count, 16), dtype=bool)
    places[batch.input_modality, np.arange(count)[:, None], batch.input_position] = True
    both = (places[0] & places[1]).sum(1)  # hypergeometric: variance 8·(1/2)·(1/2)·8/15
    assert abs(both.mean() - 4) < 5 * np.sqrt(16 / 15 / count)


def _budget_distribution(alpha, n, k):
    """P(budget = 0..n) of one of ``k`` modalities that share ``n`` tokens.

    A share X is Beta(α, (k-1)α) and n·X is rounded to one of its two neighbors without bias, so that
    P(b) = E[max(0, 1 - |n·X - b|)], the second difference of the integral of X's distribution function.
    """
    edges = np.clip(np.arange(-1, n + 2) / n, 0, 1)
    a, b = alpha, (k - 1) * alpha
    integral = edges * betainc(a, b, edges) - a / (a + b) * betainc(a + 1, b, edges)  # of F from 0 to the edge
    integral[-1] += 1 / n  # F is 1 above 1
    return n * np.diff(integral, 2)


@pytest.mark.parametrize("alpha", [0.002, 0.05, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("kind", ["input", "target"])
def test_budgets_have_the_dirichlet_distribution(alpha, kind):
    n, k, count = 30, 3, 20_000
    specs = tuple(grid_spec(f"m{i}", 6, 6) for i in range(k))
    other = {"m0": 1.0}  # the other side takes at most one cell, so that no capacity (36) binds
    alphas = {"input_alpha": dict.fromkeys(("m0", "m1", "m2"), alpha), "target_alpha": other}
    budgets = (n, 1)
    if kind == "target":
        alphas = {"input_alpha": other, "target_alpha": dict.fromkeys(("m0", "m1", "m2"), alpha)}
        budgets = (1, n)
    batch = masked(make_rows(specs, count), specs, make_config(specs, *budgets, **alphas), seed=3)
    assert getattr(batch, f"{kind}_valid").all()  # the budget is spent
    expected = count * _budget_distribution(alpha, n, k)
    assert expected.sum() == pytest.approx(count)
    sizes = [counts(batch, kind, i) for i in range(k)]
    for size in sizes:
        assert not deviates(np.bincount(size, minlength=n + 1), expected)
    # The shares are a Dirichlet's together, too: the correlation of any two is -1/(k-1), less for rounding.
    assert np.corrcoef(sizes)[np.triu_indices(k, 1)] == pytest.approx([-0.5] * 3, abs=0.05)


@pytest.mark.parametrize("kind", ["input", "target"])
def test_infinite_alpha_gives_equal_shares(kind):
    specs = tuple(grid_spec(f"m{i}", 6, 6) for i in range(3))
    batch = masked(make_rows(specs, 500), specs, make_config(specs, 31, 31, INF))
    for i in range(3):
        assert set(counts(batch, kind, i)) == {10, 11}


def test_modalities_have_their_own_alpha():
    """Means are α_i/Σα: of 20 tokens, 5.0 and 2.5 and 12.5 of α 1, 0.5 and 2.5; variances m(1-m)/(Σα+1)·20²."""
    specs = tuple(grid_spec(f"m{i}", 6, 6) for i in range(3))
    alphas = {"m0": 1.0, "m1": 0.5, "m2": 2.5}
    batch = masked(make_rows(specs, 20_000), specs, make_config(specs, 20, 1, input_alpha=alphas))
    for i, alpha in enumerate(alphas.values()):
        mean, size = alpha / 4, counts(batch, "input", i)
        variance = mean * (1 - mean) / 5 * 400
        assert abs(size.mean() - 20 * mean) < 5 * np.sqrt((variance + 0.25) / 20_000)
        assert abs(size.var() - variance) < 0.05 * variance + 0.3  # rounding adds at most 1/4


def test_the_mixture_has_the_weights_of_its_strategies():
    specs = (pixel_spec(), grid_spec("depth"))
    target = {"depth": 1.0}
    config = MaskingConfig(
        input_budget=4,
        target_budget=4,
        strategies=(
            Strategy(name="rgb", input_alpha={"rgb_pixels": 1.0}, target_alpha=target, weight=3),
            Strategy(name="depth", input_alpha={"depth": 1.0}, target_alpha=target, weight=1),
        ),
    )
    batch = masked(make_rows(specs, 8000), specs, config)
    assert (batch.input_modality == batch.input_modality[:, :1]).all()  # a row follows one strategy
    share = (batch.input_modality[:, 0] == 0).double().mean()
    assert abs(share - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 8000)


def test_input_budgets_are_drawn_uniformly_from_their_strategys_range():
    specs = (grid_spec("depth", 6, 6),)
    alphas = {"input_alpha": {"depth": 1.0}, "target_alpha": {"depth": 1.0}}
    config = MaskingConfig(
        input_budget=(0, 4),
        target_budget=2,
        strategies=(
            Strategy(name="few", **alphas),
            Strategy(name="many", weight=3, input_budget=(20, 24), **alphas),
        ),
    )
    assert config.widest_input == 24
    assert config.tokens_per_sample == pytest.approx(0.25 * 2 + 0.75 * 22 + 2)
    batch = masked(make_rows(specs, 20_000), specs, config)
    assert batch.input_id.shape == (20_000, 24)
    seen = torch.bincount(batch.input_valid.sum(1), minlength=25)
    expected = np.zeros(25)
    expected[:5], expected[20:] = 1000, 3000
    assert seen[expected == 0].sum() == 0
    assert not deviates(seen, expected)


def test_target_budgets_are_drawn_uniformly_from_their_strategys_range():
    specs = (grid_spec("depth", 6, 6),)
    alphas = {"input_alpha": {"depth": 1.0}, "target_alpha": {"depth": 1.0}}
    config = MaskingConfig(
        input_budget=2,
        target_budget=(1, 4),
        strategies=(
            Strategy(name="few", **alphas),
            Strategy(name="many", weight=3, target_budget=(20, 22), **alphas),
        ),
    )
    assert config.widest_target == 22
    assert config.tokens_per_sample == pytest.approx(2 + 0.25 * 2.5 + 0.75 * 21)
    batch = masked(make_rows(specs, 20_000), specs, config)
    assert batch.target_id.shape == (20_000, 22)
    assert batch.input_valid.all()
    expected = np.zeros(23)
    expected[1:5], expected[20:] = 1250, 5000
    seen = torch.bincount(batch.target_valid.sum(1), minlength=23)
    assert seen[expected == 0].sum() == 0
    assert not deviates(seen, expected)
    # inputs and targets of a sample are of one strategy, but their numbers are drawn on their own
    both = masked(make_rows(specs, 20_000), specs, dataclasses.replace(config, input_budget=(1, 4)))
    few = both.target_valid.sum(1) < 20
    sizes = both.input_valid.sum(1)[few] * 4 + both.target_valid.sum(1)[few] - 5
    assert not deviates(torch.bincount(sizes, minlength=16), [few.sum() / 16] * 16)


def test_beside_a_whole_sequence_grids_fill_any_part_of_what_it_leaves():
    """So that the model sees a text with as much of a grid as generation from the text goes through."""
    specs = (grid_spec("depth", 6, 6), sequence_spec("caption", 12))
    count = 12_000
    rows = make_rows(specs, count, 0, [5] * count)
    alpha = {"depth": 1.0, "caption": 1.0}
    config = make_config(specs, 16, 4, input_alpha=alpha, unmasked=("caption",), leftover="uniform")
    batch = masked(rows, specs, config)
    seen = np.bincount(counts(batch, "input", 0)[counts(batch, "input", 1) == 5], minlength=12)
    assert len(seen) == 12
    assert not deviates(seen, [seen.mean()] * 12)


def test_only_the_named_modalities_are_shown_and_asked_for():
    config = make_config(SPECS, 20, 20, input_alpha={"rgb_pixels": 0.3, "boxes": 0.3}, target_alpha={"clip": 1.0})
    batch = masked(make_rows(SPECS, 50), SPECS, config)
    assert set(batch.input_modality[batch.input_valid].tolist()) == {0, 4}
    assert set(batch.target_modality[batch.target_valid].tolist()) == {3}


def test_what_sequences_leave_is_left_so_that_grids_get_their_share_alone():
    """A budget is an upper bound (paper C.1). With α 5 for captions beside 0.05 (A.1, A.2) little else is shown,
    however short they are."""
    specs = (grid_spec("depth", 16, 16), grid_spec("clip", 16, 16), sequence_spec("caption", 12))
    count = 4000
    alpha = {"depth": 0.05, "clip": 0.05, "caption": 5.0}
    config = make_config(specs, 100, 4, input_alpha=alpha, unmasked=("caption",))
    batch = masked(make_rows(specs, count, 0, [5] * count), specs, config)
    grids = counts(batch, "input", 0) + counts(batch, "input", 1)
    assert (counts(batch, "input", 2) == 5).mean() > 0.99
    assert grids.mean() == pytest.approx(100 * 0.1 / 5.1, rel=0.25)  # their share of the budget


def test_what_sequences_leave_may_go_to_the_grids():
    specs = (grid_spec("depth", 8, 8), sequence_spec("caption", 12))
    rows = make_rows(specs, 300, 0, [3] * 300)
    alpha = {"depth": 1.0, "caption": 1.0}
    batch = masked(rows, specs, make_config(specs, 30, 30, input_alpha=alpha, target_alpha=alpha, leftover="all"))
    assert batch.input_valid.all()
    assert batch.target_valid.all()


def same(a, b, but=("pixels", "scales", "vectors", "input_counts", "target_counts")):
    """Whether two batches have equal tokens."""
    fields = [f.name for f in dataclasses.fields(a) if f.name not in but]
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in fields)


def test_a_modality_that_no_sample_has_may_be_left_out():
    rows = make_rows(SPECS, 6)
    none, false = np.zeros(6, dtype=np.int64), np.zeros(6, dtype=bool)
    absent = dataclasses.replace(
        make_rows(SPECS, 6),
        lengths={**rows.lengths, "caption": none, "embedding": none},
        present={"depth": false, "rgb_pixels": false},
    )
    config = make_config(SPECS, 20, 20)
    told = masked(absent, SPECS, config)
    for values in (rows.ids, rows.lengths, rows.pixels, rows.vectors):
        for key in ("depth", "caption", "rgb_pixels", "embedding"):
            values.pop(key, None)
    assert same(told, masked(rows, SPECS, config))
    assert set(told.input_modality[told.input_valid].tolist()) == {3, 4, 6}


def part_of(rows, start, end):
    """Some rows of a batch."""
    kinds = (rows.ids, rows.lengths, rows.pixels, rows.present, rows.vectors)
    return TokenRows(*({k: v[start:end] for k, v in values.items()} for values in kinds))


# ---- holes
HOLE = {"name": "inpaint", "hole": (0.2, 0.5), "target_alpha": {"depth": 1.0, "clip": 1.0}}
HOLE_SPECS = (grid_spec("depth", 8, 8), grid_spec("clip", 4, 5), grid_spec("normals", 8, 8), sequence_spec())


def cells(batch, kind, row, modality):
    return {position for position, _, _ in tokens(batch, kind, row, modality)}


def test_what_is_predicted_lies_in_one_rectangle_that_grids_share_and_is_shown_last():
    rows = make_rows(HOLE_SPECS, 200)
    everything = {"input_alpha": {"depth": 1.0, "clip": 0.5, "normals": 0.5, "caption": 0.5}, **HOLE}
    batch = masked(rows, HOLE_SPECS, make_config(HOLE_SPECS, (0, 150), 200, **everything))
    seen_in_holes, areas = 0, []
    for row in range(200):
        shown, asked = ([cells(batch, kind, row, m) for m in range(3)] for kind in ("input", "target"))
        for m, (h, w) in ((0, (8, 8)), (1, (4, 5))):
            assert asked[m], "each rectangle touches a cell, and the budget asks for all of them"
            assert not shown[m] & asked[m]
            late = shown[m] | asked[m] == set(
                range(h * w)
            )  # all that is outside is shown: so may be a part of the hole
            seen_in_holes += late and _is_full(asked[m], w) is False
            if not late:
                assert _is_full(asked[m], w), "of a hole that nothing is shown of, all is asked for: a whole rectangle"
        assert not asked[2]
        if _is_full(asked[0], 8) and _is_full(asked[1], 5):  # the same place of the image, as far as cells can tell
            (top, left, bottom, right), other = _box(asked[0], 8, 8), _box(asked[1], 4, 5)
            assert other[0] < bottom
            assert other[2] > top
            assert other[1] < right
            assert other[3] > left
            areas.append((bottom - top) * (right - left))
    assert seen_in_holes > 5
    assert 0.2 < min(areas) < 0.35 < 0.45 < max(areas) < 0.8  # cells that are touched: more than the rectangle's share
    everywhere = set().union(*(cells(batch, "input", row, 2) & cells(batch, "target", row, 0) for row in range(200)))
    assert len(everywhere) > 30, "what is not predicted is shown in the hole too"


def _box(found, h, w):
    rows, columns = {i // w for i in found}, {i % w for i in found}
    return min(rows) / h, min(columns) / w, (max(rows) + 1) / h, (max(columns) + 1) / w


def _is_full(found, w):
    rows, columns = {i // w for i in found}, {i % w for i in found}
    height, width = max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
    return len(found) == height * width


def test_holes_have_the_area_and_the_ratio_that_they_should_and_lie_everywhere():
    area = np.tile([0.1, 0.9], (20_000, 1))
    left, top, right, bottom = rectangle(RowDraws(0, 0, 0, len(area)), area).T
    width, height = right - left, bottom - top
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 1 + 1e-12
    share = width * height
    assert 0.1 <= share.min() < 0.11
    assert 0.89 < share.max() <= 0.9
    assert abs(share.mean() - 0.5) < 5 * 0.8 / np.sqrt(12 * len(area))  # uniform
    ratio = np.log2(width / height)
    assert np.abs(ratio).max() <= 1 + 1e-9
    assert abs(ratio.mean()) < 0.02
    small = share < 0.3
    assert left[small].max() > 0.6
    assert left[small].min() < 0.01


def test_a_hole_touches_a_cell_however_small_it_is_and_all_of_them_if_it_is_all():
    tiny = np.array([[0.5, 0.5, 0.5 + 1e-3, 0.5 + 1e-3], [0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0]])
    found = touched(tiny, (4, 4)).reshape(3, 4, 4)
    np.testing.assert_array_equal(np.argwhere(found[0]), [[2, 2]])
    assert found[1].all()
    np.testing.assert_array_equal(np.argwhere(found[2]), [[2, 1], [3, 1]])  # edges that meet touch nothing


def test_holes_are_of_the_rows_of_their_strategy_only_and_change_no_numbers_of_others():
    plain = make_config(HOLE_SPECS, 60, 40)
    rows = make_rows(HOLE_SPECS, 64)
    other = dataclasses.replace(plain.strategies[0], name="inpaint", hole=(0.1, 0.3), target_alpha={"depth": 1.0})
    both = dataclasses.replace(plain, strategies=(plain.strategies[0], other))
    batch = masked(rows, HOLE_SPECS, both)
    without = masked(rows, HOLE_SPECS, dataclasses.replace(both, strategies=(plain.strategies[0], _filled(other))))
    differ = (batch.input_position != without.input_position).any(1)
    only_depth = torch.from_numpy(sum(counts(batch, "target", m) for m in (1, 2, 3)) == 0)
    assert 10 < differ.sum() < 54
    assert only_depth[differ].all(), "rows of the strategy without a hole are the same"


def _filled(strategy):
    return dataclasses.replace(strategy, hole=(0.9, 1.0))


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.sets(st.integers(1, 10)), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_rows_do_not_depend_on_how_the_batch_is_split(seed, step, cuts, first_row):
    """Whatever the options: all of them occur among the rows."""
    rows = make_rows(SPECS, 11, seed)
    rows.present = {"depth": np.arange(11) % 3 > 0, "rgb_pixels": np.arange(11) % 4 > 0}
    keys = [s.key for s in SPECS if s.key != "clip"]
    apart = Strategy(
        name="apart",
        overlap=False,
        input_alpha=dict.fromkeys(["depth", "normals", "caption"], 0.3),
        target_alpha=dict.fromkeys(["depth", "normals"], 0.3),
        target_budget=(3, 11),
    )
    config = make_config(SPECS, (0, 20), 20, unmasked=("boxes",), input_alpha=dict.fromkeys(keys, 0.4))
    config = dataclasses.replace(config, strategies=(*config.strategies, apart))
    whole = masked(rows, SPECS, config, seed, step, first_row)
    edges = [0, *sorted(cuts), 11]
    splits = [
        masked(part_of(rows, start, end), SPECS, config, seed, step, first_row + start)
        for start, end in itertools.pairwise(edges)
    ]
    for name in [f.name for f in dataclasses.fields(whole)]:
        value, parts = getattr(whole, name), [getattr(split, name) for split in splits]
        if isinstance(value, dict):
            assert all(torch.equal(tensor, torch.cat([p[key] for p in parts])) for key, tensor in value.items())
        elif isinstance(value, tuple):
            assert value == tuple(map(sum, zip(*parts, strict=True))), name
        else:
            assert torch.equal(value, torch.cat(parts)), name


def test_seeds_steps_and_rows_have_masks_of_their_own():
    """The same sample, which repeated sampling may have 50 times in a batch, is masked in 50 ways."""
    specs, config = (grid_spec("depth"),), make_config((grid_spec("depth"),), 8, 8)
    rows = TokenRows({"depth": np.tile(np.arange(16), (50, 1))}, {}, {})
    batches = [masked(rows, specs, config, seed, step) for seed, step in ((0, 0), (0, 1), (1, 0), (1, 1))]
    inputs = torch.cat([batch.input_position for batch in batches]).sort(1).values
    # 200 draws of 12870 subsets: 1.5 pairs are equal on average
    assert len(torch.unique(inputs, dim=0)) > 190


# ---- samples that lack modalities


def test_each_sample_is_masked_by_a_strategy_that_it_can_be_masked_by():
    """In one batch: a whole sample, one without pixels and depth, a lone caption, a lone map, and nothing."""
    specs = (pixel_spec(), grid_spec("depth"), sequence_spec("caption"))
    rows, size = make_rows(specs, 5 * 80, lengths=[12, 12, 12, 0, 0] * 80), 5 * 80
    kind = np.arange(size) % 5
    rows.present = {"rgb_pixels": kind == 0, "depth": np.isin(kind, (0, 3)), "caption": kind < 3}
    strategies = (
        Strategy(name="see", input_alpha={"rgb_pixels": 1.0}, target_alpha={"depth": 1.0}, weight=2.0),
        Strategy(
            name="read",
            input_alpha={"caption": 1.0},
            target_alpha={"depth": 1.0, "caption": 1.0},
            unmasked=("caption",),
        ),
        Strategy(name="speak", input_alpha={"caption": 1.0}, target_alpha={"caption": 1.0}),
        Strategy(name="map", input_alpha={"depth": 1.0}, target_alpha={"depth": 1.0}),
    )
    config = MaskingConfig(input_budget=4, target_budget=6, strategies=strategies)
    batch = masked(rows, specs, config)
    allowed = {0: {(0, 1), (2, 1), (2, 2), (1, 1)}, 1: {(2, 2)}, 2: {(2, 2)}, 3: {(1, 1)}, 4: set()}
    seen = {k: set() for k in allowed}
    for row in range(size):
        shown = set(batch.input_modality[row][batch.input_valid[row]].tolist())
        asked = set(batch.target_modality[row][batch.target_valid[row]].tolist())
        assert len(shown) <= 1
        seen[kind[row]] |= {(i, t) for i in shown for t in asked}
    assert seen == allowed
    whole = dataclasses.replace(rows, present=None, lengths={"caption": np.full(size, 12)})
    same_draw = masked(whole, specs, config)  # what a sample lacks changes nothing for the whole ones beside it
    for name in ("input_id", "input_position", "target_id", "target_position"):
        assert torch.equal(getattr(batch, name)[kind == 0], getattr(same_draw, name)[kind == 0])


def test_strategies_that_a_sample_can_be_masked_by_keep_their_proportions():
    draw = RowDraws(0, 0, 0, 30_000)
    allowed = np.array([[True, False, True, True, False]]).repeat(30_000, 0)
    counts = np.bincount(draw.choice([1.0, 5.0, 2.0, 1.0, 9.0], allowed), minlength=5)
    assert counts[[1, 4]].tolist() == [0, 0]
    # 5 standard deviations of a share of 0.25 among 30,000 draws are 0.0125
    np.testing.assert_allclose(counts / 30_000, [0.25, 0, 0.5, 0.25, 0], atol=0.0125)


# ---- sequences of vectors


def test_vectors_are_masked_as_a_sequence_is():
    """The same draws give a sequence and vectors of the same lengths the same spans, whatever else there is."""
    lengths = np.arange(13)
    text, vectors = sequence_spec("caption", 12, is_target=False), vector_spec("caption", 12)
    grid = grid_spec("depth")
    rows = make_rows((text, grid), 13, 5, lengths)
    rows.ids["caption"][:] = 100 + np.arange(12)
    given = TokenRows({"depth": rows.ids["depth"]}, rows.lengths, {}, vectors={"caption": np.ones((13, 12, 3), "f4")})
    for unmasked in ((), ("caption",)):
        for step in range(20):
            config = make_config((vectors, grid), 9, 9, unmasked=unmasked)
            expected = masked(rows, (text, grid), config, step=step)
            expected.input_id[(expected.input_modality == 0) & (expected.input_id < 100)] = 99  # sentinels
            expected.input_id[(expected.input_modality == 0) & expected.input_valid] -= 99
            batch = masked(given, (vectors, grid), config, step=step)
            expected.input_id[~expected.input_valid] = 0
            assert same(batch, expected)
            assert torch.equal(batch.vectors["caption"], torch.ones(13, 12, 3))


def test_a_masked_span_of_vectors_is_shown_as_one_zero():
    specs = (vector_spec("embedding", 6), grid_spec("depth"))
    rows = make_rows(specs, 4000, 1)
    rows.lengths["embedding"][:] = 6
    batch = masked(rows, specs, make_config(specs, 6, 2, input_alpha={"embedding": 1.0}), seed=2)
    shown = {tuple(t for _, t, _ in tokens(batch, "input", row, 0)) for row in range(4000)}
    every = {
        tuple(t for place, t in enumerate(numbers) if t or place == 0 or numbers[place - 1])
        for numbers in itertools.product(*((0, i + 1) for i in range(6)))
    }
    assert shown == every  # all 64 ways to mask 6 vectors occur


# ---- inputs and targets that do not overlap (paper E.8)


def places_of(batch, kind, specs, size):
    """(modalities, B, cells): which are shown or asked for."""
    places = np.zeros((len(specs), size, specs[0].length), dtype=bool)
    row, column = np.nonzero(getattr(batch, f"{kind}_valid").numpy())
    modality, position = (getattr(batch, f"{kind}_{name}").numpy()[row, column] for name in ("modality", "position"))
    places[modality, row, position] = True
    return places


def test_without_overlap_no_place_is_both_shown_and_asked_for():
    specs = (
        ModalitySpec(key="rgb_pixels", family="pixels", grid=(4, 4), patch_size=2, channels=3),
        grid_spec("depth"),
        grid_spec("clip"),
    )
    rows = make_rows(specs, 500)
    overlapping = masked(rows, specs, make_config(specs, 12, 8))
    shown, asked = (places_of(overlapping, kind, specs, 500).any(0) for kind in ("input", "target"))
    assert (shown & asked).any(1).mean() > 0.9
    apart = masked(rows, specs, make_config(specs, 12, 8, overlap=False))
    shown, asked = (places_of(apart, kind, specs, 500).any(0) for kind in ("input", "target"))
    assert not (shown & asked).any()
    assert apart.input_valid.all()  # the input budget is spent all the same
    assert asked.any(1).mean() > 0.9
    for places in (shown, asked):  # anywhere in the image alike
        assert not deviates(places.sum(0), [places.sum() / 16] * 16)


def test_the_self_baselines_show_half_of_an_image_and_ask_for_the_other():
    """Masked RGB → CLIP with a masking ratio of 50 % (paper Table 29)."""
    specs = (grid_spec("rgb"), grid_spec("clip"))
    config = make_config(specs, 8, 8, input_alpha={"rgb": 1.0}, target_alpha={"clip": 1.0}, overlap=False)
    batch = masked(make_rows(specs, 100), specs, config)
    shown, asked = places_of(batch, "input", specs, 100), places_of(batch, "target", specs, 100)
    assert np.array_equal(asked[1], ~shown[0])


def test_overlap_is_avoided_in_the_rows_of_its_strategy_only():
    specs = (grid_spec("rgb"), grid_spec("clip"))
    alphas = {"input_alpha": {"rgb": 1.0}, "target_alpha": {"clip": 1.0}}
    config = MaskingConfig(
        input_budget=8,
        target_budget=8,
        strategies=(
            Strategy(name="apart", overlap=False, **alphas),
            Strategy(name="any", weight=3, **alphas),
        ),
    )
    batch = masked(make_rows(specs, 4000), specs, config)
    both = (places_of(batch, "input", specs, 4000)[0] & places_of(batch, "target", specs, 4000)[1]).sum(1)
    # a quarter, and the one in 12870 of the others that is apart by chance
    assert (both == 0).mean() == pytest.approx(0.25, abs=5 * np.sqrt(0.19 / 4000))
    assert both[both > 0].mean() == pytest.approx(4, abs=0.1)


def test_tokens_without_a_place_in_the_image_overlap_with_nothing():
    specs = (grid_spec("rgb"), grid_spec("global", 4, 4, learned_positions=True))
    config = make_config(specs, 12, 16, input_alpha={"rgb": 1.0}, target_alpha={"global": 1.0}, overlap=False)
    assert masked(make_rows(specs, 20), specs, config).target_valid.all()


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
    result = allocate(
        np.tile([float(s) for s in shares], (size, 1)), np.full(size, total), np.tile(capacity, (size, 1)), offsets
    )
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
        ({"input_budget": (-1, 4)}, r"input_budget\[0\]: expected at least 0, got -1"),
        ({"target_budget": 0}, "strategy all: target budget must be 1 <= fewest <= most, got 0, 0"),
        ({"target_budget": (0, 4)}, "target budget must be 1 <= fewest <= most, got 0, 4"),
        ({"target_budget": (5, 4)}, "target budget must be"),
        ({"strategies": ()}, "at least one strategy"),
        ({"input_alpha": {"dept": 1.0}}, "did you mean depth"),
        ({"input_alpha": {}}, "at least one input"),
        ({"target_alpha": {}}, "at least one input"),
        (
            {"target_alpha": {"rgb_pixels": 1.0}},
            "target_alpha allows depth, caption, clip, boxes, normals, got rgb_pix",
        ),
        ({"target_alpha": {"embedding": 1.0}}, "all: target_alpha allows .*, got embedding; leave it out"),
        ({"input_alpha": {"depth": 1.0, "clip": 1.0}, "overlap": False}, "one size, got depth 4x4, clip 2x5"),
        ({"target_alpha": {"clip": 1.0}, "overlap": False}, "overlap=False is defined for grids of one size"),
        ({"target_alpha": {"depth": 0.0}}, "target_alpha.depth: expected above 0, got 0.0"),
        ({"input_alpha": {"depth": float("nan")}}, "input_alpha.depth: expected a number above 0 .*got nan"),
        ({"unmasked": ("captoin",)}, "did you mean caption"),
        ({"hole": (0.5, 0.2)}, r"hole is the least and the most area, got \(0.5, 0.2\)"),
        ({"hole": (0.2, 1.5)}, r"hole\[1\]: expected at most 1, got 1.5"),
        ({"hole": (0.2, 0.5), "target_alpha": {"caption": 1.0}}, "a hole is in grids, and none is predicted"),
        ({"weight": 0.0}, "weight: expected above 0"),
        ({"weight": float("nan")}, "weight: expected a number above 0 .*got nan"),
    ],
)
def test_mistakes_are_refused(change, message):
    strategy = {"name": "all", "input_alpha": {"depth": 1.0, "caption": 1.0}, "target_alpha": {"depth": 1.0}}
    top = {"input_budget": 4, "target_budget": 4}
    for key, value in change.items():
        (top if key in (*top, "strategies") else strategy)[key] = value

    def check():
        MaskingConfig(**{"strategies": (Strategy(**strategy),), **top}).check(SPECS, len(SENTINELS))

    with pytest.raises(Open4MError, match=message):
        check()


@pytest.mark.parametrize(("length", "needed"), [(1, 2), (2, 2), (3, 3), (6, 4), (7, 5), (11, 7), (12, 7)])
def test_too_few_sentinels_are_refused_and_enough_are_enough_and_all_used(length, needed):
    """Every second token a span of its own, and the final sentinel."""
    specs, count = (sequence_spec("caption", length),), 20_000
    config = make_config(specs, length, 2 * length + 1)
    with pytest.raises(Open4MError, match=f"caption: {needed} sentinels"):
        config.check(specs, needed - 1)
    config.check(specs, needed)
    batch = mask_batch(make_rows(specs, count, 0, [length] * count), specs, config, SENTINELS, seed=0, step=0)
    assert max(filter(is_sentinel, batch.target_id.unique().tolist())) == SENTINELS[needed - 1]


# ---- rows that are not what the specifications say


def changed(kind, key, value):
    def change(rows):
        table = getattr(rows, kind)
        if callable(value):
            table[key] = value(table[key])
        elif value is None:
            del table[key]
        else:
            table[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            changed("ids", "caption", lambda x: np.pad(x, ((0, 0), (0, 2)))),
            r"caption: expected ids of shape \(5, 12\), got \(5, 14\)",
        ),
        (changed("ids", "caption", lambda x: x[:, :10]), r"caption: expected ids of shape \(5, 12\), got \(5, 10\)"),
        (changed("ids", "depth", lambda x: x.reshape(5, 4, 4)), r"depth: expected ids of shape .*got \(5, 4, 4\)"),
        (changed("ids", "depth", lambda x: x[:3]), r"depth: expected ids of shape \(5, 16\), got \(3, 16\)"),
        (changed("pixels", "rgb_pixels", lambda x: x[:, :, 2:]), r"rgb_pixels: expected pixels .*got \(5, 3, 4, 6\)"),
        (changed("vectors", "embedding", lambda x: x[..., :2]), r"embedding: expected vectors .*got \(5, 6, 2\)"),
        (changed("lengths", "caption", lambda x: x[:4]), r"caption: expected lengths of shape \(5,\), got \(4,\)"),
        (changed("lengths", "caption", np.full(5, 13)), "caption: expected lengths from 0 to 12, got 13 to 13"),
        (changed("lengths", "embedding", np.arange(5) - 1), "embedding: expected lengths from 0 to 6, got -1 to 3"),
        (changed("present", "depth", np.ones(4, bool)), r"depth: expected present of shape \(5,\), got \(4,\)"),
        (changed("lengths", "caption", None), "caption: expected ids and lengths, got ids only"),
        (changed("ids", "caption", None), "caption: expected ids and lengths, got lengths only"),
        (changed("vectors", "embedding", None), "embedding: expected vectors and lengths, got lengths only"),
        (changed("lengths", "depth", np.full(5, 16)), "depth: expected ids, present of family grid, got lengths"),
        (changed("ids", "rgb_pixels", np.zeros((5, 9), int)), "rgb_pixels: expected pixels, present .*got ids"),
        (changed("ids", "dept", np.zeros((5, 16), int)), "'dept'; did you mean depth"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message):
    rows = dataclasses.replace(make_rows(SPECS, 5), present={})
    masked(rows, SPECS, make_config(SPECS, 20, 20))
    change(rows)
    with pytest.raises(Open4MError, match=message):
        masked(rows, SPECS, make_config(SPECS, 20, 20))


@pytest.mark.parametrize("rows", [TokenRows({}, {}, {}), make_rows(SPECS, 0)], ids=["no modality", "no sample"])
def test_rows_of_no_sample_are_refused(rows):
    with pytest.raises(Open4MError, match="at least one sample, got none"):
        masked(rows, SPECS, make_config(SPECS, 20, 20))


def test_directions_are_those_of_the_strategies_unless_one_of_them_has_all():
    def directions(*pairs):
        strategies = tuple(
            Strategy(name=f"{n}", input_alpha=dict.fromkeys(inputs, 0.5), target_alpha=dict.fromkeys(targets, 0.5))
            for n, (inputs, targets) in enumerate(pairs)
        )
        config = MaskingConfig(input_budget=4, target_budget=4, strategies=strategies)
        return [("".join(d.inputs), "".join(d.targets)) for d in config.directions]

    assert directions(("a", "b"), ("b", "a")) == [("a", "b"), ("b", "a")]
    assert directions(("a", "b"), ("b", "a"), ("a", "b")) == [("a", "b"), ("b", "a")]
    assert directions(("a", "bc"), ("ba", "bc")) == directions(("a", "b")) == []
    assert directions(("ab", "b"), ("a", "bc")) == [("ab", "b"), ("a", "bc")]
