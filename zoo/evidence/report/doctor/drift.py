"""Drift: two parts of the data differ, by the energy distance of their frozen features (Székely and Rizzo 2013).

How far, a classifier that tells them apart says (Lopez-Paz and Oquab 2017). As a test it is the weaker one: it found
none of ten shifts with 29 examples (docs/findings.md).
"""

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
ROUNDS = 499
"""Permutations: the smallest p is 0.002."""
POWER = 0.8
MAX_P, LEAST_AUC, LEAST_CHANGE = 0.01, 0.6, 0.1
"""Drift is beyond chance, and large: the AUC, or the change of the class shares (total variation)."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How well two parts are told apart by their frozen features.

    auc, low, high  area under the ROC curve, out of fold, with its 95 % interval (Hanley and McNeil 1982)
    p               permutation test of the energy distance
    odd             indices of the held-out examples that look least like training examples, the oddest first
    detectable      the area that would be told from chance at MAX_P with a power of POWER
    """

    auc: float
    low: float
    high: float
    p: float
    odd: NDArray[np.int64]
    detectable: float

    @property
    def is_drift(self) -> bool:
        """Whether the parts differ beyond chance, and clearly."""
        return self.p <= MAX_P and self.auc >= LEAST_AUC


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
    p = energy_test(features.double().numpy(), is_held, seed)
    error = _error(area, len(second), len(first))
    order = np.argsort(-scores[is_held], kind="stable")
    low, high = max(0.0, area - Z * error), min(1.0, area + Z * error)
    return Drift(area, low, high, p, second.numpy()[order], detectable_auc(len(first), len(second)))


def detectable_auc(train: int, held: int) -> float:
    """Return the area under the ROC curve that the Mann-Whitney test tells from 0.5 at MAX_P with a power of POWER.

    By the variance of its statistic under the null hypothesis, (n + m + 1) / (12 n m).
    """
    spread = math.sqrt((train + held + 1) / (12 * train * held))
    return min(1.0, 0.5 + float(stats.norm.isf(MAX_P) + stats.norm.ppf(POWER)) * spread)


def energy_test(features: NDArray[np.float64], is_held: NDArray[np.bool_], seed: int) -> float:
    """Return the p of the energy distance between two parts of features (N, D), under permutations of `is_held` (N,).

    Distances are of directions from the common mean: 2 E|X - Y| - E|X - X'| - E|Y - Y'|, 0 for equal distributions.
    """
    rows = features - features.mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    apart = np.sqrt((2 - 2 * rows @ rows.T).clip(0))  # (N, N)
    chance = np.random.default_rng(seed)
    sides = np.stack([is_held, *(chance.permutation(is_held) for _ in range(ROUNDS))], 1).astype(np.float64)  # (N, R)
    held, known = int(is_held.sum()), int((~is_held).sum())
    sums = apart @ sides
    inner, total = (sides * sums).sum(0), float(apart.sum())
    across = sums.sum(0) - inner
    other = total - inner - 2 * across
    distance = 2 * across / (held * known) - inner / held**2 - other / known**2
    return float((distance >= distance[0] - 1e-12).mean())


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
