"""Numbers about values, and when a shard's differ from those of the first ones."""

import numpy as np
import pytest

from open4m.data.statistics import Drift, Moments, measures, token_measures
from open4m.types import Boxes


def test_moments_are_those_of_all_that_was_added():
    numbers, parts = np.random.default_rng(0).normal(5, 2, 100), (Moments(), Moments(), Moments())
    for i, number in enumerate(numbers):
        parts[0 if i < 30 else 1].add(number)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert (parts[2].count, parts[2].mean, parts[2].deviation) == pytest.approx((100, numbers.mean(), numbers.std()))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("three plain words", {"words": 3}),
        (Boxes(np.zeros((2, 4), np.float32), ["a", "b"], np.ones(2, np.float32)), {"boxes": 2}),
        (np.array([[1.0, 3.0]]), {"measured share": 1, "mean": 2, "spread": 1}),
        ({"any": "thing"}, {}),
    ],
)
def test_what_is_measured_of_a_value(value, expected):
    assert measures(value) == expected


def test_pixels_without_a_measurement_do_not_count():
    depth = np.array([[0.0, 3.0]])
    assert measures(depth, depth > 0) == {"measured share": 0.5, "mean": 3, "spread": 0}
    assert measures(depth, depth > 9) == {"measured share": 0}


def test_what_is_measured_of_a_row_of_tokens():
    assert token_measures(np.array([5, 5, 7])) == {"tokens": 3, "different tokens": 2}
    assert token_measures(np.array([[3.0, 4.0]], np.float32)) == {"vectors": 1, "norm": 5}
    assert token_measures(b"x") == {"bytes": 0}


@pytest.mark.parametrize(
    ("numbers", "is_found"),
    [
        (lambda rng: rng.normal(0, 1, 64), False),  # like the first shards
        (lambda rng: rng.normal(0.6, 1, 64), False),  # another subject
        (lambda rng: rng.normal(3, 1, 64), True),
        (lambda rng: rng.normal(3, 1, 4), False),  # too few to say
        (lambda rng: np.full(64, 0.1), True),  # a network that says the same of all
    ],
)
def test_a_shard_differs_from_the_first_ones_or_not(numbers, is_found):
    rng, drift = np.random.default_rng(0), Drift()
    for shard in range(5):
        for number in rng.normal(0, 1, 64):
            drift.add("depth", shard, {"mean": number})
    for number in numbers(rng):
        drift.add("depth", 5, {"mean": number})
    assert [line.split(":")[0] for line in drift.findings()] == ["depth shard 5"] * is_found


def test_values_that_are_all_alike_may_differ_a_little():
    drift = Drift()
    for shard, number in enumerate([1.0] * 300 + [0.99] * 8):
        drift.add("depth", 0 if shard < 300 else 1, {"share": number})
    assert drift.findings() == []
