"""Linear probes in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PENALTIES = tuple(10.0**k for k in range(-5, 3))
"""Ridge penalties per example that are tried, for features of deviation 1."""


@dataclass(frozen=True)
class Ridge:
    """A ridge regression from features (D,) to values (K,)."""

    mean: np.ndarray  # (D,)
    deviation: np.ndarray  # (D,)
    weights: np.ndarray  # (D, K)
    intercept: np.ndarray  # (K,)
    penalty: float  # the one of PENALTIES that was chosen

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Values (n, K) of features (n, D)."""
        return (features - self.mean) / self.deviation @ self.weights + self.intercept


def fit_ridge(features: np.ndarray, values: np.ndarray, penalties: tuple[float, ...] = PENALTIES) -> Ridge:
    """The regression of ``values`` (n, K) on standardized ``features`` (n, D) whose penalty has the least leave-one-out
    error. That error has a closed form for linear smoothers: a residual divided by 1 minus its leverage."""
    features, values = features.astype(np.float64), values.astype(np.float64)
    count, mean, deviation = len(features), features.mean(0), features.std(0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    intercept = values.mean(0)
    u, s, vt = np.linalg.svd((features - mean) / deviation, full_matrices=False)
    projected = u.T @ (values - intercept)  # (R, K)
    best = None
    for penalty in penalties:
        shrink = s**2 / (s**2 + penalty * count)
        leverage = (u**2 @ shrink + 1 / count).clip(max=1 - 1e-9)
        residual = values - intercept - u @ (shrink[:, None] * projected)
        error = ((residual / (1 - leverage)[:, None]) ** 2).mean()
        if best is None or error < best[0]:
            best = error, penalty
    penalty = best[1]
    weights = vt.T @ ((s / (s**2 + penalty * count))[:, None] * projected)
    return Ridge(mean, deviation, weights, intercept, penalty)


def accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """The share of test examples whose class a linear probe names: pairs of features (n, D) and class ids (n,).

    Least squares to one-hot classes; the largest value is the class.
    """
    classes = np.unique(train[1])
    ridge = fit_ridge(train[0], (train[1][:, None] == classes).astype(np.float64))
    return float((classes[ridge(test[0]).argmax(1)] == test[1]).mean())


def explained(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """R² of a linear probe on test examples: pairs of features (n, D) and values (n, K). 0 is the training mean."""
    predicted = fit_ridge(*train)(test[0])
    unexplained = ((predicted - test[1]) ** 2).sum()
    return float(1 - unexplained / max(((test[1] - train[1].mean(0)) ** 2).sum(), 1e-12))
