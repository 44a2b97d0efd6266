"""The Fréchet distance, against closed forms and a general matrix root."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from open4m.evaluate.metrics.frechet import distance, frechet_distance, gaussian
from open4m.types import Open4MError


def covariance(seed: int, dim: int = 6, rank: int = 12) -> np.ndarray:
    factors = np.random.default_rng(seed).normal(size=(dim, rank))
    return factors @ factors.T / rank


def test_one_dimension_by_hand():
    # (3 - 1)² + (2 - 5)² for standard deviations 2 and 5
    assert frechet_distance([1.0], [[4.0]], [3.0], [[25.0]]) == pytest.approx(4 + 9)


def test_commuting_covariances_have_a_closed_form():
    axes = np.linalg.eigh(covariance(0))[1]
    first, second = np.random.default_rng(1).uniform(0.1, 3, (2, 6))
    measured = frechet_distance(np.zeros(6), axes * first @ axes.T, np.ones(6), axes * second @ axes.T)
    assert measured == pytest.approx(6 + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum(), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_general_matrix_root(seed):
    first, second = covariance(seed), covariance(seed + 10)
    means = np.random.default_rng(seed).normal(size=(2, 6))
    root = np.real(sqrtm(first @ second))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(means[0], first, means[1], second) == pytest.approx(expected, rel=1e-8)


def test_is_symmetric_and_zero_for_equals():
    first, second, mean = covariance(0), covariance(1), np.arange(6.0)
    there, back = frechet_distance(mean, first, -mean, second), frechet_distance(-mean, second, mean, first)
    assert there == pytest.approx(back, rel=1e-10)
    assert frechet_distance(mean, first, mean, first) == pytest.approx(0, abs=1e-10)


def test_few_samples_of_many_dimensions():
    features = np.random.default_rng(0).normal(size=(5, 40))
    # roots of eigenvalues that rounding leaves at 1e-16: 40 times 1e-8
    assert distance(features, features) == pytest.approx(0, abs=1e-5)
    assert distance(features, features + 2) == pytest.approx(40 * 4, rel=1e-6)
    constant = np.repeat(features[:1], 5, 0)
    mean, cov = gaussian(features)
    assert distance(constant, features) == pytest.approx(((features[0] - mean) ** 2).sum() + np.trace(cov))


def test_one_sample_has_no_covariance():
    with pytest.raises(Open4MError, match="2 samples or more, got \\(1, 3\\)"):
        gaussian(np.zeros((1, 3)))
