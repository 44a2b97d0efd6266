"""What frozen features say of the classes of images, without training the encoder: nearest neighbors, a linear
classifier, and retrieval.

All functions are of features (n, D) and class ids (n,), and compute in float64. Intervals are of other test images: the
training images stay the same. Those of recall@k are 1.5 to 1.9 times as wide as they need be (150 simulated sets of 200
images): each image that is left out changes who is nearest. Those of the other figures are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from open4m.evaluate.diagnose.linear import PENALTIES
from open4m.evaluate.intervals import Figures, measure
from open4m.rng import stream
from open4m.types import Open4MError

Labelled = tuple[np.ndarray, np.ndarray]
"""Features (n, D) and class ids (n,)."""

Normalization = Literal["none", "standardize", "l2"]

NEIGHBORS = 20

TEMPERATURE = 0.07
"""Of the votes of neighbors, as in DINO (https://arxiv.org/abs/2104.14294)."""

RECALLS = (1, 5, 10)
"""The numbers of images among which one of the same class is looked for."""

HELD_OUT = 0.2
"""The share of training examples by which the penalty of the linear classifier is chosen."""

PATIENCE = 2
"""Penalties in a row that make it worse, after which no smaller one is tried."""

ROWS = 256
"""Test images that are compared with all others at once."""

ITERATIONS = 1000
"""Of the linear classifier's optimizer, at most."""

PRECISION = 1e-5
"""The largest entry of the gradient at which it stops: probabilities are right to 0.001."""


def normalized(train: np.ndarray, others: np.ndarray, how: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """Features as probes read them: as they are, each channel with the mean 0 and the deviation 1 of the training
    features, or each vector at unit length."""
    train, others = train.astype(np.float64), others.astype(np.float64)
    if how == "standardize":
        mean, deviation = train.mean(0), train.std(0)
        deviation = np.where(deviation > 1e-9, deviation, 1.0)
        return (train - mean) / deviation, (others - mean) / deviation
    return (unit(train), unit(others)) if how == "l2" else (train, others)


def unit(features: np.ndarray) -> np.ndarray:
    """Vectors (n, D) of length 1; a zero stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


# ---- nearest neighbors


def neighbors(train: Labelled, test: np.ndarray, k: int = NEIGHBORS, temperature: float = TEMPERATURE) -> np.ndarray:
    """The classes (n,) that the ``k`` nearest training examples vote for.

    Nearest is by cosine similarity s. A neighbor's vote for its class counts exp(s / temperature). Of equally near
    examples the first ones are taken, of classes with equally many votes the one with the lowest id.
    """
    classes, places = np.unique(train[1], return_inverse=True)
    k, known = min(k, len(train[0])), unit(train[0].astype(np.float64))
    found = []
    for rows in _chunks(unit(test.astype(np.float64))):
        near = rows @ known.T  # (m, n)
        least = -np.partition(-near, k - 1, axis=1)[:, k - 1 : k]
        above, equal = near > least, near == least
        missing = k - above.sum(1, keepdims=True)
        chosen = above | (equal & (equal.cumsum(1) <= missing))
        owner, example = np.nonzero(chosen)
        votes = np.zeros((len(rows), len(classes)))
        np.add.at(votes, (owner, places[example]), np.exp(near[owner, example] / temperature))
        found.append(classes[votes.argmax(1)])
    return np.concatenate(found)


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), ROWS):
        yield rows[first : first + ROWS]


# ---- a linear classifier


@dataclass(frozen=True)
class Logistic:
    """A multinomial logistic regression of features (D,)."""

    classes: np.ndarray  # (C,) ids
    weights: np.ndarray  # (D, C)
    intercept: np.ndarray  # (C,)
    penalty: float

    def log_probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, C) of features (n, D)."""
        return log_softmax(features @ self.weights + self.intercept, axis=1)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The likeliest classes (n,)."""
        return self.classes[(features @ self.weights + self.intercept).argmax(1)]


def fit_logistic(
    train: Labelled,
    classes: np.ndarray,
    penalty: float,
    start: Logistic | None = None,
    precision: float = PRECISION,
) -> Logistic:
    """The classifier of ``classes`` (C,) with the least mean cross-entropy plus penalty / 2 times the sum of squared
    weights, intercepts aside; by L-BFGS from ``start``."""
    mean = train[0].mean(0)
    scale = float((train[0] - mean).std()) or 1.0  # so that the optimizer's steps suit weights and intercepts alike
    features, own = (train[0] - mean) / scale, penalty / scale**2
    wanted = (train[1][:, None] == classes).astype(np.float64)
    count, width, many = *features.shape, len(classes)

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, intercept = flat[: width * many].reshape(width, many), flat[width * many :]
        logs = log_softmax(features @ weights + intercept, axis=1)
        wrong = (np.exp(logs) - wanted) / count
        value = -(wanted * logs).sum() / count + own / 2 * (weights**2).sum()
        return value, np.concatenate([(features.T @ wrong + own * weights).ravel(), wrong.sum(0)])

    first = np.zeros((width + 1) * many)
    if start is not None:
        first = np.concatenate([scale * start.weights.ravel(), start.intercept + mean @ start.weights])
    options = {"maxiter": ITERATIONS, "gtol": precision, "ftol": 1e-15}
    best = minimize(cost, first, jac=True, method="L-BFGS-B", options=options).x
    weights, intercept = best[: width * many].reshape(width, many) / scale, best[width * many :]
    return Logistic(classes, weights, intercept - mean @ weights, penalty)


def choose_logistic(train: Labelled, seed: int = 0, penalties: Sequence[float] = PENALTIES) -> Logistic:
    """The classifier of all training examples whose penalty has the least cross-entropy on a part of them that it was
    not fitted to.

    ``penalties`` are for features of deviation 1, and are multiplied by the features' mean variance. Classes are those
    of the training examples.
    """
    features, labels = train[0].astype(np.float64), train[1]
    classes, scale = np.unique(labels), float(features.var(0).mean()) or 1.0
    order = stream(seed, len(labels)).permutation(len(labels))
    held = max(1, round(HELD_OUT * len(labels)))
    rest = order[held:] if len(labels) > 1 else order
    wanted = np.searchsorted(classes, labels[order[:held]])
    best, worse, fitted = (np.inf, max(penalties) * scale), 0, None
    for penalty in sorted(penalties, reverse=True):
        fitted = fit_logistic((features[rest], labels[rest]), classes, penalty * scale, fitted)
        logs = fitted.log_probabilities(features[order[:held]])
        error = -logs[np.arange(held), wanted].mean()
        worse = 0 if error < best[0] else worse + 1
        best = (error, penalty * scale) if error < best[0] else best
        if worse == PATIENCE:
            break
    return fit_logistic((features, labels), classes, best[1])


# ---- retrieval


class Retrieval:
    """Images among which those of the same class are looked for, each with all others, nearest first by cosine
    similarity; of equally near ones, the first.

    Keeps (n, n) numbers: for 10,000 images, half a gigabyte.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        features, self.labels = unit(features.astype(np.float64)), np.asarray(labels)
        self.order = np.empty((len(features), max(0, len(features) - 1)), np.int32)
        first = 0
        for rows in _chunks(features):
            away = -(rows @ features.T)
            places = np.arange(first, first + len(rows))
            away[np.arange(len(rows)), places] = np.inf  # the image itself is last, and left out
            self.order[places] = away.argsort(1, kind="stable")[:, :-1]
            first += len(rows)

    def measure(self, indices: Sequence[int]) -> dict[str, float]:
        """Figures of the images of some indices, among these alone.

        ``recall@k``: the share of images with one of their class among the k nearest. ``mAP``: mean average precision,
        that is, the mean over images of the mean, over others of their class, of the share of this class among those at
        least as near. Images without another of their class are not looked up; NaN if there is no other.
        """
        indices = np.asarray(indices)
        shown = np.zeros(len(self.labels), bool)
        shown[indices] = True
        nearest, precisions = [], []
        for rows in _chunks(indices):
            order = self.order[rows]
            kept = shown[order]
            same = kept & (self.labels[order] == self.labels[rows][:, None])
            some = same.any(1)
            if not some.any():
                continue
            rank, hits, same = kept[some].cumsum(1), same[some].cumsum(1), same[some]
            precisions.append(np.where(same, hits / np.maximum(rank, 1), 0.0).sum(1) / hits[:, -1])
            nearest.append(np.take_along_axis(rank, same.argmax(1)[:, None], 1)[:, 0])
        if not nearest:
            return dict.fromkeys([*(f"recall@{k}" for k in RECALLS), "mAP"], float("nan"))
        places = np.concatenate(nearest)
        found = {f"recall@{k}": float((places <= k).mean()) for k in RECALLS}
        return found | {"mAP": float(np.concatenate(precisions).mean())}


# ---- all of them


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Figures of one kind of features, with 95% intervals. ``penalty``: that the linear classifier chose."""

    figures: Figures
    penalty: float


def probe(train: Labelled, test: Labelled, how: Normalization = "standardize", seed: int = 0) -> Probed:
    """The accuracies of neighbors (``kNN``) and of a linear classifier (``linear``), and the figures of retrieval among
    the test images. A class that no training example has counts as wrong.

    Raises :class:`Open4MError` if there are no examples, or features are not finite.
    """
    for name, (features, labels) in (("training", train), ("test", test)):
        if not len(features) or len(features) != len(labels):
            raise Open4MError(f"probes: {len(features)} {name} features of {len(labels)} labels; expected some of each")
        if not np.isfinite(features).all():
            raise Open4MError(f"probes: {name} features hold numbers that are not finite: the encoder is broken")
    known, others = normalized(train[0], test[0], how)
    classifier = choose_logistic((known, train[1]), seed)
    right = {"kNN": neighbors((known, train[1]), others) == test[1], "linear": classifier(others) == test[1]}
    found = Retrieval(others, test[1])

    def figures(indices: Sequence[int]) -> dict[str, float]:
        places = np.asarray(indices)
        return {name: float(hits[places].mean()) for name, hits in right.items()} | found.measure(indices)

    return Probed(figures=measure(figures, len(test[1])), penalty=classifier.penalty)
