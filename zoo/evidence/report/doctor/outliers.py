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


def find(features: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Return the indices of the outliers of features (N, D), farthest first, and the robust z-scores (N,) of all."""
    if len(features) < FEWEST:
        return np.empty(0, dtype=np.int64), np.zeros(len(features))
    logs = np.log(distances(features).clip(1e-6))
    middle = np.median(logs)
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    z = (logs - middle) / max(spread, 1e-6)
    far = np.flatnonzero(z >= LEAST_Z)
    return far[np.argsort(-z[far], kind="stable")], z
