"""Probes, against naive loops, computations by hand and scikit-learn."""

import math

import numpy as np
import pytest

from open4m.evaluate.intervals import GROUPS
from open4m.transfer import probes
from open4m.transfer.probes import Retrieval, choose_logistic, fit_logistic, neighbors, normalized, probe
from open4m.types import Open4MError


def clusters(count, width=6, classes=3, spread=1.0, seed=0):
    """Features around a center per class, and their classes, 0, 1, ..."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(0, classes, count)
    return centers[labels] + rng.normal(size=(count, width)) * spread, labels


# ---- neighbors


def naive_neighbors(train, labels, test, k, temperature):
    found = []
    for one in test:
        near = [(float(one @ x / np.linalg.norm(one) / np.linalg.norm(x)), -i) for i, x in enumerate(train)]
        votes = {}
        for similarity, place in sorted(near, reverse=True)[:k]:
            label = labels[-place]
            votes[label] = votes.get(label, 0) + math.exp(similarity / temperature)
        found.append(min(votes, key=lambda label: (-votes[label], label)))
    return found


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 2.0), (500, 0.07)])
def test_neighbors_vote_as_a_naive_loop_counts(k, temperature, monkeypatch):
    monkeypatch.setattr(probes, "ROWS", 7)  # several parts, the last one shorter
    train, labels = clusters(60, spread=1.5)
    test, _ = clusters(25, spread=1.5, seed=1)
    found = neighbors((train, labels * 10 - 3), test, k, temperature)
    assert found.tolist() == naive_neighbors(train, labels * 10 - 3, test, k, temperature)
    assert len(set(found.tolist())) > 1


def test_nearer_neighbors_outvote_more_but_farther_ones():
    train = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels, test = np.array([5, 2, 2]), np.array([[1.0, 0.0]])
    assert neighbors((train, labels), test, 3, 0.07) == [5]  # exp(1 / 0.07) > 2 exp(0.6 / 0.07)
    assert neighbors((train, labels), test, 3, 10.0) == [2]


def test_ties_of_neighbors_go_to_the_first_examples_and_of_votes_to_the_lowest_class():
    train = np.eye(4)[[0, 1, 2, 3]]
    test = np.ones((1, 4))  # as near to each
    assert neighbors((train, np.array([7, 3, 3, 3])), test, 1) == [7]
    assert neighbors((train, np.array([7, 3, 1, 1])), test, 2) == [3]
    assert neighbors((train, np.array([7, 3, 1, 3])), test, 3) == [1]


def test_a_vector_of_zeros_is_as_near_to_all():
    train = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert neighbors((train, np.array([4, 2])), np.zeros((1, 2)), 1) == [4]


# ---- the linear classifier


@pytest.mark.parametrize(("classes", "penalty"), [(2, 0.1), (3, 0.01), (5, 1e-4)])
def test_the_linear_classifier_is_scikit_learn_s(classes, penalty):
    """Where its objective is n times ours: C = 1 / (n · penalty). Of two classes it has one vector w, we have two,
    w / 2 and its opposite, whose squares are half as large together. Newton's method finds its minimum; probabilities
    of ours are within 1e-5 of those there."""
    from sklearn.linear_model import LogisticRegression

    features, labels = clusters(120, classes=classes)
    features = features * np.array([1, 2, 0.5, 1, 1, 3]) + 5  # neither centered nor of one scale
    ours = fit_logistic((features, labels), np.arange(classes), penalty, precision=1e-8)
    strength = len(labels) * penalty / (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=1 / strength, solver="newton-cg", tol=1e-9, max_iter=1000).fit(features, labels)
    test, _ = clusters(50, classes=classes, seed=2)
    np.testing.assert_allclose(np.exp(ours.log_probabilities(test)), theirs.predict_proba(test), atol=1e-5)
    assert ours(test).tolist() == theirs.predict(test).tolist()
    np.testing.assert_allclose(ours.weights.sum(1), 0, atol=1e-4)  # no class is favored


def test_a_start_changes_nothing_but_the_way():
    train = clusters(80)
    cold = fit_logistic(train, np.arange(3), 0.01, precision=1e-8)
    warm = fit_logistic(train, np.arange(3), 0.01, fit_logistic(train, np.arange(3), 10.0), 1e-8)
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-4)
    np.testing.assert_allclose(warm.intercept, cold.intercept, atol=1e-4)


def test_the_penalty_is_the_one_that_is_best_for_examples_left_out():
    """Of the first fifth of an order that the seed gives."""
    features, labels = clusters(100, width=30, spread=4.0)
    order = probes.stream(3, 100).permutation(100)
    held, rest, scale = order[:20], order[20:], features.var(0).mean()
    costs = {}
    for penalty in probes.PENALTIES:
        fitted = fit_logistic((features[rest], labels[rest]), np.arange(3), penalty * scale)
        costs[penalty] = -fitted.log_probabilities(features[held])[np.arange(20), labels[held]].mean()
    best = min(costs, key=costs.get)
    assert min(probes.PENALTIES) < best < max(probes.PENALTIES)
    chosen = choose_logistic((features, labels), 3)
    assert chosen.penalty == pytest.approx(best * scale)
    whole = fit_logistic((features, labels), np.arange(3), best * scale)
    np.testing.assert_allclose(chosen.weights, whole.weights, atol=1e-2)


def test_the_scale_of_features_does_not_matter():
    train, test = clusters(100), clusters(40, seed=1)[0]
    plain = choose_logistic(train)(test)
    assert choose_logistic((train[0] * 1e-3, train[1]))(test * 1e-3).tolist() == plain.tolist()


def test_one_class_is_always_named():
    features = np.random.default_rng(0).normal(size=(4, 3))
    assert choose_logistic((features, np.full(4, 8)))(features).tolist() == [8] * 4
    assert choose_logistic((features[:1], np.array([8])))(features).tolist() == [8] * 4


# ---- retrieval


def naive_retrieval(features, labels, ranks=probes.RECALLS):
    recalls, precisions = {k: [] for k in ranks}, []
    for i, query in enumerate(features):
        others = [j for j in range(len(features)) if j != i]
        near = {j: query @ features[j] / np.linalg.norm(query) / np.linalg.norm(features[j]) for j in others}
        order = sorted(others, key=lambda j: (-near[j], j))
        right = [labels[j] == labels[i] for j in order]
        if not any(right):
            continue
        for k in ranks:
            recalls[k].append(any(right[:k]))
        precisions.append(np.mean([sum(right[: n + 1]) / (n + 1) for n, hit in enumerate(right) if hit]))
    return {f"recall@{k}": np.mean(hits) for k, hits in recalls.items()} | {"mAP": np.mean(precisions)}


def test_retrieval_of_five_images_by_hand():
    """Images at angles of 0, 10, 25, 90 and 120 degrees, of classes a, b, a, b, c.

    Of 0: b, a, b, c: its other a is second, precision 1/2. Of 10: a (10 away), a (15), b (80): third, 1/3. Of 25: b, a:
    second, 1/2. Of 90: c (30), a (65), b (80): third, 1/3. That of class c has no other.
    """
    angles = np.radians([0, 10, 25, 90, 120])
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = Retrieval(features * np.array([[1], [2], [3], [4], [5]]), np.array([0, 1, 0, 1, 2])).measure(range(5))
    assert found == pytest.approx({"recall@1": 0, "recall@5": 1, "recall@10": 1, "mAP": (1 / 2 + 1 / 3) / 2})


def test_retrieval_is_that_of_a_naive_loop_also_of_some_images(monkeypatch):
    monkeypatch.setattr(probes, "ROWS", 7)
    features, labels = clusters(40, spread=2.0)
    labels[3] = 17  # alone in its class
    found = Retrieval(features, labels)
    assert found.measure(range(40)) == pytest.approx(naive_retrieval(features, labels))
    some = [i for i in range(40) if i % 3]
    assert found.measure(some) == pytest.approx(naive_retrieval(features[some], labels[some]))
    assert 0 < found.measure(some)["recall@1"] < 1


def test_equally_near_images_come_in_their_order():
    found = Retrieval(np.ones((4, 2)), np.array([0, 1, 1, 0])).measure(range(4))
    assert found == pytest.approx(naive_retrieval(np.ones((4, 2)), np.array([0, 1, 1, 0])))
    assert found["recall@1"] == 0.25  # the last one finds the first


def test_retrieval_without_pairs_has_no_figures():
    assert math.isnan(Retrieval(np.eye(3), np.arange(3)).measure(range(3))["mAP"])
    assert math.isnan(Retrieval(np.eye(1), np.arange(1)).measure(range(1))["recall@1"])


# ---- all of them


def test_features_are_normalized_by_the_training_examples():
    train, test = np.array([[0.0, 5.0], [4.0, 5.0]]), np.array([[6.0, 8.0]])
    known, others = normalized(train, test, "standardize")
    assert known.tolist() == [[-1, 0], [1, 0]]
    assert others.tolist() == [[2, 3]]
    assert normalized(train, test, "l2")[1].tolist() == [[0.6, 0.8]]
    assert normalized(train, test, "none")[1].tolist() == [[6, 8]]


def test_figures_are_shares_of_the_test_images_with_intervals_of_them():
    train, test = clusters(150), clusters(60, seed=1)
    found = probe(train, test, "none")
    assert found.figures.values["kNN"] == np.mean(neighbors(train, test[0]) == test[1])
    assert found.figures.values["linear"] == np.mean(choose_logistic(train)(test[0]) == test[1])
    assert list(found.figures.values) == ["kNN", "linear", "recall@1", "recall@5", "recall@10", "mAP"]
    hits = choose_logistic(train)(test[0]) == test[1]
    without = [np.mean(np.delete(hits, slice(group, None, GROUPS))) for group in range(GROUPS)]
    half = 2.0930 * math.sqrt((GROUPS - 1) * np.var(without))  # the quantile of Student's t with 19 degrees of freedom
    low, high = found.figures.intervals["linear"]
    assert (high - low) / 2 == pytest.approx(half, rel=1e-3)
    assert low < found.figures.values["linear"] < high
    assert found.figures.intervals.keys() == found.figures.values.keys()


def test_normalization_changes_what_probes_see():
    train, test = clusters(150), clusters(60, seed=1)
    rng = np.random.default_rng(5)
    noisy = [(np.hstack([x, rng.normal(size=(len(x), 3)) * 1000]), y) for x, y in (train, test)]
    plain, even = (probe(*noisy, how).figures.values["kNN"] for how in ("none", "standardize"))
    assert even > plain + 0.2


def test_a_class_that_no_training_example_has_is_never_named():
    train, test = clusters(100, spread=0.1), clusters(50, spread=0.1, seed=1)
    kept = train[1] != 2
    found = probe((train[0][kept], train[1][kept]), test).figures.values
    share = np.mean(test[1] != 2)
    assert found["kNN"] == found["linear"] == share < 1
    assert found["recall@1"] == 1  # which needs no training examples


def test_probes_of_nothing_say_so():
    train = clusters(10)
    with pytest.raises(Open4MError, match="0 test features of 0 labels"):
        probe(train, (np.zeros((0, 6)), np.zeros(0)))
    with pytest.raises(Open4MError, match="test features hold numbers that are not finite"):
        probe(train, (np.full((1, 6), np.nan), np.zeros(1)))
