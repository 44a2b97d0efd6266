"""The Fréchet distance between two sets of feature vectors (paper Table 32, there of Inception features: FID)."""

from __future__ import annotations

import numpy as np

from open4m.types import Open4MError


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """The squared Fréchet distance of two Gaussians with means (D,) and covariances (D, D), in float64.

        |mean1 - mean2|² + tr(cov1 + cov2 - 2 (cov1^½ cov2 cov1^½)^½)

    The product is symmetric, so that eigenvalues suffice: covariances of few samples, which have no full rank, are
    exact too, where the general matrix root of cov1·cov2 is not even real. Never negative, 0 for equal Gaussians.
    """
    mean1, cov1, mean2, cov2 = (np.asarray(a, dtype=np.float64) for a in (mean1, cov1, mean2, cov2))
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T  # cov1^½
    product = root @ cov2 @ root
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0)).sum()
    return max(0.0, float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * overlap))


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and unbiased covariance (D, D) of features (n, D), n of at least 2."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise Open4MError(f"Fréchet distance: expected features (n, D) of 2 samples or more, got {features.shape}")
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def distance(features: np.ndarray, reference: np.ndarray) -> float:
    """The Fréchet distance between features (n, D) and reference features (m, D).

    Its estimate falls with the number of samples: compare only distances of equal n to the same reference.
    """
    return frechet_distance(*gaussian(features), *gaussian(reference))
