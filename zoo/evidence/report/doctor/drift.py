"""Drift: a classifier tells two parts of the data apart (classifier two-sample test, Lopez-Paz and Oquab 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from zoo.data.seeding import generator
from zoo.evidence.report.doctor.shortcuts import auc
from zoo.finetune.features import out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.tasks.classify import Classify
from zoo.tasks.intervals import Z

MOST, FEWEST = 500, 20
"""Examples of each part that are used at most, and below which nothing is said."""
MAX_P, LEAST_AUC, LEAST_CHANGE = 0.01, 0.6, 0.1
"""Drift is beyond chance, and large: the lower end of the AUC, or the change of the class shares (total variation)."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How well two parts are told apart by their frozen features.

    auc, low, high  area under the ROC curve, out of fold, with its 95 % interval (Hanley and McNeil 1982)
    p               one-sided, Mann and Whitney's test
    odd             indices of the held-out examples that look least like training examples, the oddest first
    """

    auc: float
    low: float
    high: float
    p: float
    odd: NDArray[np.int64]

    @property
    def is_drift(self) -> bool:
        """Whether the parts differ beyond chance, and clearly."""
        return self.p <= MAX_P and self.low >= LEAST_AUC


@dataclass(frozen=True, slots=True)
class ShareChange:
    """Change of the class shares: total variation distance in [0, 1], p of the chi-squared test, the largest change."""

    distance: float
    p: float
    most: int

    @property
    def is_change(self) -> bool:
        """Whether the shares differ beyond chance, and clearly."""
        return self.p <= MAX_P and self.distance >= LEAST_CHANGE


def find(train: Tensor, held: Tensor, *, seed: int = 0) -> Drift | None:
    """Test whether features (N, D) and (M, D) are of the same distribution; None for too few."""
    if min(len(train), len(held)) < FEWEST:
        return None
    first, second = (_drawn(len(part), seed) for part in (train, held))
    features = torch.cat([train[first], held[second]])
    sides = torch.cat([torch.zeros(len(first)), torch.ones(len(second))]).long()
    found = out_of_fold.predict(Classify(("train", "held")), ProbeData(features, sides), seed, repeats=1)
    scores = found.values[:, 1].double().numpy()
    is_held = sides.numpy().astype(bool)
    area = auc(scores, is_held)
    p = float(stats.mannwhitneyu(scores[is_held], scores[~is_held], alternative="greater").pvalue)
    error = _error(area, len(second), len(first))
    order = np.argsort(-scores[is_held], kind="stable")
    return Drift(area, max(0.0, area - Z * error), min(1.0, area + Z * error), p, second.numpy()[order])


def of_shares(train: NDArray[np.int64], held: NDArray[np.int64], classes: int) -> ShareChange:
    """Compare the class shares of two parts, given as class indices (N,) and (M,)."""
    counts = np.stack([np.bincount(part, minlength=classes) for part in (train, held)])
    counts, places = counts[:, counts.sum(0) > 0], np.flatnonzero(counts.sum(0) > 0)
    shares = counts / counts.sum(1, keepdims=True)
    change = np.abs(shares[0] - shares[1])
    p = float(stats.chi2_contingency(counts).pvalue) if len(places) > 1 else 1.0
    return ShareChange(float(change.sum() / 2), p, int(places[change.argmax()]))


def _drawn(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, "drift", count))[:MOST].sort().values


def _error(area: float, positive: int, negative: int) -> float:
    """Return the standard error of an area under the ROC curve (Hanley and McNeil 1982)."""
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (positive - 1) * (q1 - area * area) + (negative - 1) * (q2 - area * area)
    return math.sqrt(max(spread, 0.0) / (positive * negative))
