"""Label issues by confident learning (Northcutt, Jiang and Chuang 2021, arXiv 1911.00068)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


LIKELY = 0.5
"""Least probability of the other label, for one of several labels and for tags, most of which are alike."""


@dataclass(frozen=True, slots=True)
class LabelIssues:
    """Label quality of each example.

    quality    (N,) probability of the given label, low is suspect
    suggested  (N,) index of the likeliest other class
    issues     indices of the examples whose label is taken to be wrong, most suspicious first
    """

    quality: Floats
    suggested: Ints
    issues: Ints


def thresholds(probabilities: Floats, labels: Ints) -> Floats:
    """Return the mean probability (K,) of each class over the examples that have it as label; 1 for one without any."""
    found = np.ones(probabilities.shape[1])
    for label in np.unique(labels):
        found[label] = probabilities[labels == label, label].mean()
    return found


def find(probabilities: Floats, labels: Ints, least: float = 0.0) -> LabelIssues:
    """Find label issues from out-of-fold probabilities (N, K) and the given labels (N,).

    An example counts as an issue if another class is the likeliest of those whose probability reaches their threshold:
    off the diagonal of the confident joint. Ranked by p(given), which finds more flipped labels early than its margin
    to the likeliest other class (docs/log.md). The probability of that has to be at least `least`: where one class has
    nearly all examples, the thresholds of the others are low.
    """
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    reached = np.where(probabilities >= thresholds(probabilities, labels) - 1e-6, probabilities, -1.0)
    confident = reached.argmax(1)
    is_issue = (reached.max(1) >= 0) & (confident != labels) & (others.max(1) >= least)
    issues = np.flatnonzero(is_issue)
    order = issues[np.argsort(given[issues], kind="stable")]
    return LabelIssues(given, others.argmax(1), order)


def find_several(probabilities: Floats, given: NDArray[np.bool_]) -> list[tuple[float, int, int]]:
    """Find label issues of examples with several labels: (quality, row, label), most suspicious first.

    probabilities (N, K) out of fold and given (N, K): each label by itself is a problem of two classes.
    """
    found = []
    for place in range(probabilities.shape[1]):
        share = probabilities[:, place]
        issues = find(np.stack([1 - share, share], 1), given[:, place].astype(np.int64), LIKELY)
        found += [(float(issues.quality[row]), row, place) for row in issues.issues.tolist()]
    return sorted(found)
