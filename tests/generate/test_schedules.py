"""Schedules: as many tokens in all passes as there are, in the shape that each is called after."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.generate.schedules import SCHEDULES, bell, even, onex


def per_pass(schedule, passes, total):
    left = [schedule(done, passes, total) for done in range(passes + 1)]
    assert (left[0], left[-1]) == (total, 0)
    return [before - after for before, after in itertools.pairwise(left)]


@pytest.mark.parametrize("name", SCHEDULES)
@given(st.integers(1, 60), st.integers(0, 900))
def test_no_pass_takes_tokens_back(name, passes, total):
    assert min(per_pass(SCHEDULES[name], passes, total)) >= 0


@given(st.integers(1, 60), st.integers(0, 900))
def test_even_passes_differ_by_one_token_and_the_larger_are_first(passes, total):
    made = per_pass(even, passes, total)
    assert made == sorted(made, reverse=True)
    assert made[0] - made[-1] <= 1


@given(st.integers(2, 30), st.integers(300, 900))
def test_a_bell_is_few_tokens_then_many_then_few(passes, total):
    made = per_pass(bell, passes, total)
    assert max(abs(a - b) for a, b in zip(made[:-1], made[:0:-1], strict=True)) <= passes  # what rounding left
    half = made[: passes // 2]
    assert half == sorted(half)


def test_one_over_x_falls_from_one_to_zero():
    assert onex(0, 196, 1.0) == pytest.approx(1)
    assert onex(195, 196, 1.0) == pytest.approx(0)
    assert onex(7, 196, 0.0) == 0
    assert onex(0, 1, 0.5) == pytest.approx(0.5)  # of a single token
