"""open4m.rng: streams are functions of their keys, whoever asks, and in whatever order."""

import random

import numpy as np
import pytest
import torch

from open4m import rng

GOLDEN = [5705853004827290377, 6584680345644299050]


def test_a_stream_is_a_function_of_its_key():
    first = rng.stream(1, 2, 3).random(5)
    rng.stream(1, 2).random(100)
    assert np.array_equal(rng.stream(1, 2, 3).random(5), first)
    keys = [(1,), (2,), (1, 2), (2, 1), (1, 2, 3), (1, 0), (1, 0, 0), (0, 1)]
    assert len({rng.stream(*key).integers(2**63) for key in keys}) == len(keys)


def test_a_torch_stream_is_a_function_of_its_key():
    first = torch.rand(5, generator=rng.torch_stream(0, 7))
    assert torch.equal(torch.rand(5, generator=rng.torch_stream(0, 7)), first)
    assert not torch.equal(torch.rand(5, generator=rng.torch_stream(7, 0)), first)


def test_a_plain_seed_is_that_of_torch():
    expected = torch.rand(3, generator=torch.Generator().manual_seed(9))
    assert torch.equal(torch.rand(3, generator=rng.seeded(9)), expected)


def test_no_global_generator_is_used_or_changed():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    rng.stream(1).random()
    torch.rand(2, generator=rng.torch_stream(1))
    torch.rand(2, generator=rng.seeded(1))
    rng.raw_numbers(3, 1, 2)
    rng.RowDraws(0, 0, 0, 4).order(9)
    assert states[0] == random.getstate()
    assert np.array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(states[2], torch.get_rng_state())


def test_raw_numbers_are_kept_for_ever():
    """Golden values: training orders and masks of runs that go on depend on them."""
    assert rng.raw_numbers(2, 1, 2).tolist() == rng.raw_numbers(4, 1, 2)[:2].tolist()
    assert rng.raw_numbers(2, 1, 2).tolist() == GOLDEN
    assert rng.raw_numbers(2, 1, 2, counter=(0, 1)).tolist() != GOLDEN


@pytest.mark.parametrize("split", [1, 3, 7])
def test_rows_are_those_of_a_step_whoever_draws_them(split):
    whole = rng.RowDraws(5, 9, 0, 8)
    parts = rng.RowDraws(5, 9, 0, split), rng.RowDraws(5, 9, split, 8 - split)
    for draw in (
        lambda r: r.bits(3),
        lambda r: r.uniform(20),
        lambda r: r.one(),
        lambda r: r.between(2, np.full(r.one().shape, 6)),
        lambda r: r.choice([1.0, 2.0, 0.5]),
        lambda r: r.order(33),
    ):
        assert np.array_equal(draw(whole), np.concatenate([draw(part) for part in parts]))


def test_draws_are_in_their_ranges_and_as_frequent_as_they_should_be():
    rows = rng.RowDraws(0, 0, 0, 40_000)
    values = rows.uniform(1)
    assert 0 < values.min() < values.max() < 1
    whole = rows.between(3, np.full(40_000, 5))
    chosen = rows.choice([1.0, 3.0])
    # five standard deviations of a share of 40,000 draws
    assert np.abs(np.bincount(whole, minlength=6)[3:] / 40_000 - 1 / 3).max() < 5 * np.sqrt(2 / 9 / 40_000)
    assert abs(chosen.mean() - 0.75) < 5 * np.sqrt(3 / 16 / 40_000)
    assert whole.min() == 3
    assert whole.max() == 5


@pytest.mark.parametrize("length", [1, 2, 5, 16, 17])
def test_an_order_holds_every_number_once_and_every_place_is_equally_likely(length):
    order = rng.RowDraws(1, 2, 3, 5_000).order(length)
    assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(length), (5_000, 1)))
    first = np.bincount(order[:, 0].astype(int), minlength=length) / 5_000
    assert np.abs(first - 1 / length).max() < 5 * np.sqrt((1 / length) * (1 - 1 / length) / 5_000) + 1e-12


def test_two_requests_of_one_row_are_independent():
    rows = rng.RowDraws(0, 0, 0, 20_000)
    correlation = np.corrcoef(rows.one(), rows.one())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(20_000)


def test_an_unmarked_stream_is_that_of_the_published_scenes():
    expected = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, 1, 7, 2)))).random(3)
    assert np.array_equal(rng.unmarked_stream(0, 1, 7, 2).random(3), expected)
    assert not np.array_equal(rng.unmarked_stream(0, 1, 7, 1).random(3), expected)
