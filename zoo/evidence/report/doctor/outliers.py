"""Outliers: examples far from all others in the space of frozen features (Sun et al. 2022, arXiv 2204.06507)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEIGHBOURS = 5
LEAST_Z = 4.5
"""Least robust z-score of the log distance, in standard deviations estimated by the median absolute deviation.

Cosine distances are bounded and separate less (docs/log.md).
"""
FEWEST = 30
BLOCK = 1_024


def distances(features: Floats) -> Floats:
    """Return the mean Euclidean distance (N,) of each row of features (N, D) to its nearest others."""
    squares = (features**2).sum(1)
    found = np.empty(len(features))
    count = min(NEIGHBOURS, len(features) - 1)
    for start in range(0, len(features), BLOCK):
        rows = features[start : start + BLOCK]
        apart = squares[start : start + BLOCK, None] + squares - 2 * rows @ features.T  # (B, N)
        apart[np.arange(len(rows)), start + np.arange(len(rows))] = np.inf
        nearest = np.partition(apart, count - 1, axis=1)[:, :count]
        found[start : start + BLOCK] = np.sqrt(nearest.clip(0)).mean(1)
    return found


def share_told(features: Floats, labels: NDArray[np.int64]) -> float:
    """Return which share of examples that belong to no class would be found, by leaving each class out in turn.

    The examples of a class are measured against all others: the share of them beyond the limit of `find`, as a mean
    over the classes of `labels` (N,) with enough others.
    """
    found = []
    for label in np.unique(labels):
        rest, own = features[labels != label], features[labels == label]
        if len(rest) < FEWEST:
            continue
        middle, spread = _centre(np.log(distances(rest).clip(1e-6)))
        squares = (own**2).sum(1)[:, None] + (rest**2).sum(1) - 2 * own @ rest.T
        nearest = np.partition(squares, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS]
        logs = np.log(np.sqrt(nearest.clip(0)).mean(1).clip(1e-6))
        found.append(float(((logs - middle) / spread >= LEAST_Z).mean()))
    return float(np.mean(found)) if found else 0.0


def _centre(logs: Floats) -> tuple[float, float]:
    """Return median and robust standard deviation."""
    middle = float(np.median(logs))
    return middle, max(1.4826 * float(np.median(np.abs(logs - middle))), 1e-6)


def find(features: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return the indices of the outliers of features (N, D), farthest first, and the robust z-scores (N,) of all."""
    if len(features) < FEWEST:
        return np.empty(0, dtype=np.int64), np.zeros(len(features))
    logs = np.log(distances(features).clip(1e-6))
    middle, spread = _centre(logs)
    z = (logs - middle) / spread
    far = np.flatnonzero(z >= LEAST_Z)
    return far[np.argsort(-z[far], kind="stable")], z
