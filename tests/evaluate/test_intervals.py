"""95% intervals hold what they promise, on data whose true figure is known."""

import numpy as np
import pytest
from scipy.stats import t

from open4m.evaluate.intervals import GROUPS, Figures, measure
from open4m.evaluate.metrics import frechet

TRIALS = 400
SLACK = 4 * (0.95 * 0.05 / TRIALS) ** 0.5  # four standard errors of a share of 95% in so many trials


def mean(data):
    return data[:, 0].mean()


def ratio(data):
    return data[:, 0].sum() / data[:, 1].sum()


def distance(data):
    return frechet.distance(data, REFERENCE)


REFERENCE = np.random.default_rng(1).normal(size=(50, 3))


@pytest.mark.parametrize("metric", [mean, ratio, distance])
def test_of_a_hundred_intervals_ninety_five_hold_the_expected_figure(metric):
    """Figures of independent sets of 60 samples; what is expected is the mean over many other such sets."""
    rng = np.random.default_rng(0)
    sets = rng.gamma(2.0, size=(TRIALS, 60, 3))
    expected = np.mean([metric(data) for data in rng.gamma(2.0, size=(4 * TRIALS, 60, 3))])
    held = 0
    for data in sets:
        low, high = measure(lambda rows, data=data: {"m": metric(data[list(rows)])}, 60).intervals["m"]
        held += low <= expected <= high
    assert held / TRIALS == pytest.approx(0.95, abs=SLACK)


def test_the_interval_of_a_mean_is_that_of_its_group_means():
    data = np.random.default_rng(0).normal(size=3 * GROUPS)
    figures = measure(lambda rows: {"mean": float(data[list(rows)].mean())}, len(data))
    groups = data.reshape(3, GROUPS).mean(0)  # sample i is in group i mod GROUPS
    expected = t.interval(0.95, GROUPS - 1, groups.mean(), groups.std(ddof=1) / GROUPS**0.5)
    assert figures.values["mean"] == pytest.approx(data.mean())
    assert figures.intervals["mean"] == pytest.approx(expected)


def test_there_is_none_where_it_cannot_be_known():
    assert measure(lambda rows: {"m": 1.0}, 1) == Figures({"m": 1.0})
    assert measure(lambda rows: {"m": 1.0 if 0 in rows else float("nan")}, 4).intervals == {}
    assert measure(lambda rows: {"m": 1.0}, 3).intervals == {"m": (1.0, 1.0)}


def test_one_metric_of_others_replaces_ones_own_with_its_interval():
    own = Figures({"a": 1.0, "b": 2.0}, {"a": (0.0, 2.0), "b": (1.0, 3.0)})
    assert own.with_(Figures({"b": 5.0}), "b") == Figures({"a": 1.0, "b": 5.0}, {"a": (0.0, 2.0)})
