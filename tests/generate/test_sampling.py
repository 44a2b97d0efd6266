"""Sampling by inversion: an even grid of uniform numbers must give back the distribution itself."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.generate import sampling
from open4m.generate.sampling import Draws, entropy, guide, gumbel, least_kept, sample, sample_limited
from open4m.generate.schemes import SCHEMES, first, halton_order
from open4m.types import Open4MError

GRID = (torch.arange(2000, dtype=torch.float64).add(0.5) / 2000).float()


def frequencies(logits, temperature=1.0, top_k=0, top_p=1.0):
    tokens, log_probability = sample(logits.expand(len(GRID), -1), GRID, temperature, top_k, top_p)
    counts = torch.bincount(tokens, minlength=len(logits))
    torch.testing.assert_close(log_probability, logits.log_softmax(0)[tokens], rtol=0, atol=1e-5)  # of the model
    return counts / len(GRID)


def slow_distribution(logits, temperature, top_k, top_p):
    """Softmax, then the k likeliest, then the shortest list of likeliest tokens that holds top_p."""
    p = (logits.double() / temperature).softmax(0).tolist()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if top_k:
        order = order[:top_k]
    total = sum(p[i] for i in order)
    kept, held = [], 0.0
    for i in order:
        kept.append(i)
        held += p[i] / total
        if held >= top_p:
            break
    total = sum(p[i] for i in kept)
    return [p[i] / total if i in kept else 0.0 for i in range(len(p))]


@given(
    st.integers(0, 10**6),
    st.sampled_from([0.3, 1.0, 2.5]),
    st.sampled_from([0, 1, 3, 7, 100]),
    st.sampled_from([1.0, 0.9, 0.5, 1e-6]),
)
@settings(max_examples=80, deadline=None)
def test_draws_follow_the_truncated_softmax(seed, temperature, top_k, top_p):
    logits = 2 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
    expected = slow_distribution(logits, temperature, top_k, top_p)
    found = frequencies(logits, temperature, top_k, top_p)
    for token, p in enumerate(expected):
        assert abs(found[token] - p) <= 1.5 / len(GRID)  # an interval holds its length of grid points, give or take one


@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.0, 2.5]), st.sampled_from([0, 2, 5]), st.sampled_from([1.0, 0.6]))
@settings(max_examples=40, deadline=None)
def test_limits_may_act_before_the_temperature(seed, temperature, top_k, top_p):
    logits = 2 * torch.randn(7, generator=torch.Generator().manual_seed(seed))
    kept = [p > 0 for p in slow_distribution(logits, 1.0, top_k, top_p)]
    expected = (logits / temperature).masked_fill(~torch.tensor(kept), -torch.inf).softmax(0)
    drawn, confidence = sample_limited(logits.expand(len(GRID), -1), GRID, temperature, top_k, top_p)
    found = torch.bincount(drawn.token, minlength=7) / len(GRID)
    assert (found - expected).abs().max() <= 1.5 / len(GRID)
    torch.testing.assert_close(confidence, expected.log()[drawn.token], rtol=0, atol=1e-4)
    torch.testing.assert_close(drawn.log_probability, logits.log_softmax(0)[drawn.token], rtol=0, atol=1e-5)


def test_the_likeliest_is_taken_whatever_the_limits():
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log()
    for draw in (sample, lambda *how: sample_limited(*how)[0]):
        assert draw(logits, torch.zeros(1), 0.0, 2, 0.9).token.tolist() == [1]
    assert sample_limited(logits, torch.zeros(1), 0.0, 2, 0.9)[1].tolist() == [0.0]


def test_boundaries_of_truncation():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert frequencies(logits, top_p=0.5).tolist() == [0, 1, 0]
    assert frequencies(logits, top_p=0.51).nonzero()[:, 0].tolist() == [1, 2]
    assert frequencies(logits, top_p=1e-9).tolist() == [0, 1, 0]
    assert frequencies(logits, top_p=1e-320).tolist() == [0, 1, 0]  # 0 in single precision
    assert frequencies(logits, top_k=1).tolist() == [0, 1, 0]
    assert (frequencies(logits, top_k=3) > 0).all()
    # 0.625 of the two that are kept first
    assert frequencies(logits, top_k=2, top_p=0.62).tolist() == [0, 1, 0]
    assert frequencies(logits, top_k=2, top_p=0.63).nonzero()[:, 0].tolist() == [1, 2]


def test_the_ends_of_the_unit_interval_and_impossible_tokens():
    logits = torch.tensor([0.0, -torch.inf, 1.0, -torch.inf])
    uniform = torch.tensor([0.0, 1 - 2**-24])
    tokens, log_probability = sample(logits.expand(2, -1), uniform, 1.0, 0, 1.0)
    assert tokens.tolist() == [0, 2]  # in the order of the vocabulary
    assert torch.isfinite(log_probability).all()
    flat = torch.zeros(1000)
    for top_p, top_k in itertools.product((1.0, 0.999), (0, 999)):
        tokens, _ = sample(flat.expand(2, -1), uniform, 1.0, top_k, top_p)
        assert ((tokens >= 0) & (tokens < 1000)).all()


def in_parallel(x, dim=-1):
    """The cumulative sum of x (..., n) as devices add it up that look back from tile to tile: before each tile of 16
    come the sums of the earlier ones, in an order of its own; within a tile one number after another."""
    tiles = torch.nn.functional.pad(x, (0, -x.shape[-1] % 16)).unflatten(-1, (-1, 16))
    whole = tiles.sum(-1)
    last = torch.stack([whole[..., :n].flip(-1).sum(-1) for n in range(whole.shape[-1])], -1)
    sums = []
    for numbers in tiles.unbind(-1):
        last = last + numbers
        sums.append(last)
    return torch.stack(sums, -1).flatten(-2)[..., : x.shape[-1]]


@pytest.mark.parametrize("limit_first", [False, True])
def test_no_token_of_probability_0_is_drawn_where_sums_are_added_up_in_parallel(monkeypatch, limit_first):
    """Such sums rise where 0 is added. A number just there drew a token outside of the nucleus, whose log-probability
    was -inf: so on a GPU generation could end, very rarely, with logits that were said to be not finite."""
    monkeypatch.setattr(sampling, "IN_ORDER", ())
    monkeypatch.setattr(torch.Tensor, "cumsum", in_parallel)
    logits = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    probability = sampling.truncated(logits, 1.0, 0, 0.9)
    if limit_first:
        probability = logits.masked_fill(probability == 0, -torch.inf).softmax(-1)
    sums = probability.cumsum(-1)
    uniform = (sums[0, :-1] / sums[0, -1]).nextafter(torch.tensor(2.0)).clamp(max=1 - 2**-24)
    naive = torch.searchsorted(sums[0], uniform * sums[0, -1], right=True)
    uniform = uniform[probability[0, naive] == 0][:20]
    assert len(uniform) > 5
    rows = logits.expand(len(uniform), -1)
    draw = (lambda *how: sample_limited(*how)[0]) if limit_first else sample
    token, log_probability = draw(rows, uniform, 1.0, 0, 0.9)
    assert log_probability.isfinite().all()
    assert (probability[0, token] > 0).all()
    exact = probability[0].double().cumsum(0) / probability[0].double().sum()
    assert (exact[token] + 1e-6 >= uniform).all()
    assert (exact[token] - probability[0, token] / probability.sum() - 1e-6 <= uniform).all()


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    tokens, log_probability = sample(logits, torch.tensor([0.99, 0.99]), 0, 0, 1.0)
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(log_probability, logits.log_softmax(-1).max(-1).values)


def test_sampling_leaves_the_callers_logits_alone():
    logits = torch.randn(4, 9)
    before = logits.clone()
    sample(logits, torch.full((4,), 0.5), 0.7, 3, 0.8)
    assert torch.equal(logits, before)


def test_guidance_formula():
    unconditional, conditional = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.5])
    assert guide(unconditional, [conditional], [3.0]).tolist() == [1 + 3 * 2, -2 + 3 * 2.5]
    assert guide(unconditional, [conditional], [0.0]).tolist() == unconditional.tolist()


def test_a_samples_draws_do_not_depend_on_the_others():
    together, alone = Draws([3, 8, 3]), Draws([8])
    for shape in ((5,), (1,), (7,)):
        drawn = together.uniform(*shape)
        assert torch.equal(drawn[1], alone.uniform(*shape)[0])
        assert torch.equal(drawn[0], drawn[2])
        assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("top_p", [0.05, 0.9, 0.9999])
@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_a_nucleus_of_a_large_vocabulary_is_that_of_a_sort(spread, top_p, devices, monkeypatch):
    """Unequal rows: some nuclei are small, some nearly everything. As on CPUs, and as on other devices."""
    monkeypatch.setattr(sampling, "IN_ORDER", devices)
    logits = torch.randn(5, 6000, generator=torch.Generator().manual_seed(3)) * spread * torch.arange(5)[:, None]
    probability = logits.double().softmax(-1)
    ordered, _ = probability.sort(descending=True)
    kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
    expected = ordered.gather(-1, kept - 1)
    torch.testing.assert_close(least_kept(probability.float(), top_p).double(), expected, rtol=1e-3, atol=0)
    tokens, _ = sample(logits, torch.full((5,), 0.7), 1.0, 0, top_p)
    assert (probability.gather(-1, tokens[:, None]) >= expected * (1 - 1e-3)).all()


def test_entropy_by_hand():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 0.0, -torch.inf, -1e9]]
    )
    torch.testing.assert_close(entropy(logits), torch.tensor([4.0, 1.0, 2.0]).log())


def test_gumbel_noise_chooses_by_probability():
    """The largest of log p + Gumbel noise is distributed as p."""
    p = torch.tensor([0.5, 0.3, 0.2])
    noise = gumbel(torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0)))
    chosen = (p.log() + noise).argmax(-1)
    assert (chosen.bincount() / 40_000 - p).abs().max() < 4 * (0.25 / 40_000) ** 0.5
    assert torch.isfinite(gumbel(torch.tensor([0.0, 1 - 2**-24]))).all()


@pytest.mark.parametrize("temperature", [1e-20, 1e-38, 1e-45, 1e-320])
def test_the_lowest_temperatures_take_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    tokens, log_probability = sample(logits, torch.tensor([0.5]), temperature, 0, 0.9)
    assert tokens.item() == 1
    torch.testing.assert_close(log_probability, logits.log_softmax(-1)[:, 1])


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_finite_are_an_error(wrong, temperature):
    with pytest.raises(Open4MError, match="not finite"):
        sample(torch.tensor([[0.0, 1.0], [wrong, 0.0]]), torch.tensor([0.5, 0.5]), temperature, 0, 1.0)


# ---- schemes


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_first_gives_exactly_the_first(seed, size, length):
    generator = torch.Generator().manual_seed(seed)
    order, among = torch.rand(size, length, generator=generator), torch.rand(size, length, generator=generator) < 0.6
    count = torch.randint(0, length + 1, (size,), generator=generator)
    chosen = first(order, among, count)
    for row in range(size):
        candidates = [i for i in range(length) if among[row, i]]
        best = sorted(candidates, key=lambda i: order[row, i])[: int(count[row])]
        assert chosen[row].nonzero()[:, 0].tolist() == sorted(best)


def test_schemes_say_in_which_order_cells_are_decoded():
    uniform = torch.rand(2, 12)
    assert SCHEMES["maskgit"](uniform, (3, 4)) is None  # by confidence
    assert torch.equal(SCHEMES["roar"](uniform, (3, 4)), uniform)
    order = SCHEMES["halton"](uniform, (3, 4))
    assert order.shape == uniform.shape
    assert torch.equal(order[0], order[1])
    assert SCHEMES["left_to_right"] is None


def test_halton_order_by_hand():
    """Points (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9) ... of bases 2 and 3 on a grid of 2 × 3."""
    assert halton_order(2, 3).reshape(2, 3).tolist() == [[5, 3, 1], [2, 0, 4]]


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (14, 14), (8, 5)])
def test_halton_order_reaches_every_cell_once_and_spreads(grid):
    order = halton_order(*grid)
    assert sorted(order.tolist()) == list(range(grid[0] * grid[1]))
    if grid == (14, 14):  # of the first 16 cells, about four are in each quarter
        quarters = [(int(i) // 14 // 7, int(i) % 14 // 7) for i in (order < 16).nonzero()[:, 0]]
        assert {quarters.count((r, c)) for r in (0, 1) for c in (0, 1)} <= {3, 4, 5}
