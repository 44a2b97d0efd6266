"""Learning-rate schedules at their boundaries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.train.schedules import cosine, stable, stepped


def test_warm_up_is_linear_and_reaches_the_peak():
    for rates in ([cosine(s, 100, 4) for s in range(5)], [stable(s, 100, 4, 10) for s in range(5)]):
        assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_the_cosine_falls_from_the_peak_to_the_final_fraction():
    assert cosine(0, 100, 0) == 1.0
    assert cosine(55, 100, 10) == pytest.approx(0.5)
    assert cosine(100, 100, 10) == pytest.approx(0.0)
    assert cosine(100, 100, 10, final=0.1) == pytest.approx(0.1)
    assert cosine(55, 100, 10, final=0.1) == pytest.approx(0.1 + 0.9 * 0.5)
    assert cosine(40, 100, 10) == pytest.approx(0.5 + math.cos(math.pi / 3) / 2)
    assert cosine(500, 100, 10, final=0.1) == pytest.approx(0.1)  # after the end it stays


def test_the_rate_is_stable_until_it_decays():
    assert all(stable(s, 100, 10, 20) == 1.0 for s in range(10, 81))
    assert stable(85, 100, 10, 20) == pytest.approx(1 - math.sqrt(0.25))
    assert stable(100, 100, 10, 20) == 0.0
    assert stable(100, 100, 10, 20, final=0.1) == pytest.approx(0.1)
    assert [stable(s, 100, 10, 20) for s in range(80)] == [stable(s, 1000, 10, 50) for s in range(80)]
    assert stable(99, 100, 10, 0) == 1.0


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays_within_its_bounds(steps, warmup, decay, final):
    for rates in (
        [cosine(s, steps, warmup, final) for s in range(steps)],
        [stable(s, steps, warmup, decay, final) for s in range(steps)],
    ):
        assert all(0 <= r <= 1 + 1e-12 for r in rates)
        for s in range(1, steps):
            assert rates[s] > rates[s - 1] if s < warmup else rates[s] <= rates[s - 1] + 1e-12


def test_a_stepped_rate_falls_to_a_tenth_at_each_milestone():
    rates = [stepped(step, 100, 4, (0.89, 0.96)) for step in range(100)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:89]) == {1.0}
    assert rates[89:96] == pytest.approx([0.1] * 7)
    assert rates[96:] == pytest.approx([0.01] * 4)
