"""Overfitting in numbers: the gap between training and held-out scores, memorised examples, what few examples show."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zoo.tasks.intervals import Z, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SMALL, BELOW, SMALL_SHARE, MAX_P = 5, 0.5, 0.25, 0.05
"""A class is small with at most SMALL training examples, and BELOW of those of the median class; with at most
SMALL_SHARE of these only where its recall is below that of the other classes with a p of at most MAX_P."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Mean score of the training examples minus that of the held-out ones, with its 95 % interval."""

    train: float
    held: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """The difference."""
        return self.train - self.held


def gap(train: Floats, held: Floats) -> Gap:
    """Return the gap of scores (N,) and (M,) of different examples.

    Hits have the interval of Newcombe (1998, method 10), other scores that of Welch.
    """
    means = float(train.mean()), float(held.mean())
    difference = means[0] - means[1]
    if np.isin(train, (0, 1)).all() and np.isin(held, (0, 1)).all():
        (low1, high1), (low2, high2) = (wilson(part.sum(), len(part)) for part in (train, held))
        low = difference - math.hypot(means[0] - low1, high2 - means[1])
        high = difference + math.hypot(high1 - means[0], means[1] - low2)
        return Gap(*means, low, high)
    error = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in (train, held) if len(part) > 1))
    return Gap(*means, difference - Z * error, difference + Z * error)


def memorised(trained: NDArray[np.bool_], out_of_fold: NDArray[np.bool_]) -> Ints:
    """Return the training examples that are right when trained on, and wrong when held out (Feldman 2020, 1906.05271).

    `trained` (N,) are the hits of the model, `out_of_fold` (N,) those of heads that did not see the example.
    """
    return np.flatnonzero(trained & ~out_of_fold)


@dataclass(frozen=True, slots=True)
class SmallClass:
    """A class with few training examples, and its recall on held-out ones.

    p  of Fisher's test that its recall is not below that of the other classes; 1 where none was held out
    """

    label: int
    train: int
    median: float
    held: int
    hits: int
    p: float

    @property
    def recall(self) -> tuple[float, float]:
        """95 % interval of the recall, Wilson's; (0, 1) where none was held out."""
        return wilson(self.hits, self.held) if self.held else (0.0, 1.0)


def small_classes(train: Ints, held: Ints, hits: NDArray[np.bool_], classes: int) -> list[SmallClass]:
    """Return the classes with few training examples beside the others, the smallest first.

    train, held  class indices (N,) and (M,); hits (M,): which held-out examples are right
    """
    counts = np.bincount(train, minlength=classes)
    median = float(np.median(counts))
    found = []
    for label in np.argsort(counts, kind="stable").tolist():
        count = int(counts[label])
        is_tiny = count <= min(SMALL, BELOW * median)
        if not is_tiny and count > SMALL_SHARE * median:
            break
        own = held == label
        table = [[int((side & part).sum()) for part in (hits, ~hits)] for side in (own, ~own)]
        p = float(stats.fisher_exact(table, alternative="less").pvalue) if own.any() else 1.0
        if is_tiny or p <= MAX_P:
            found.append(SmallClass(label, count, median, int(own.sum()), table[0][0], p))
    return found
