"""How many results a call makes, and which seeds they have."""

import numpy as np
import pytest

from open4m.generate.seeds import MOST, check_count, check_seed, seeds_of
from open4m.types import Open4MError


def test_one_seed_counts_up_and_several_are_taken_as_they_are():
    assert seeds_of(7, 3) == [7, 8, 9]
    assert seeds_of(np.int64(7), 1) == [7]
    assert seeds_of([5, 1], 2) == [5, 1]
    assert seeds_of(np.array([5, 1]), 2) == [5, 1]
    with pytest.raises(Open4MError, match="one for each of 3 results, got 2"):
        seeds_of([5, 1], 3)


@pytest.mark.parametrize("seed", [-1, 1.5, "7", None, 1 << 62, [1, -1], np.array([0.5])])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(Open4MError, match="seed must be a whole number"):
        check_seed(seed)


def test_counts_are_whole_numbers_that_memory_may_hold():
    for count in (1, np.int64(3), MOST):
        check_count("samples", count)
    for wrong in (0, -1, 1.0, True, None, "3"):
        with pytest.raises(Open4MError, match="samples must be a whole number, 1 or more"):
            check_count("samples", wrong)
    with pytest.raises(Open4MError, match="samples must be at most"):
        check_count("samples", MOST + 1)
