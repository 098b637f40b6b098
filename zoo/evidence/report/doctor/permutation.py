"""Permutation tests: is a statistic larger than under random labels, and how large is it then on average."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
ROUNDS = 199
"""Permutations: the smallest p is 0.005."""


@dataclass(frozen=True, slots=True)
class Tested:
    """A statistic, its mean under permutations, and the one-sided p of being as large by chance."""

    value: float
    chance: float
    p: float


def compare(statistic: Callable[[Ints], float], labels: Ints, strata: Ints | None = None, *, seed: int = 0) -> Tested:
    """Compare a statistic of labels (N,) with its values under ROUNDS seeded permutations, within `strata` (N,) if any.

    p is (1 + number as large) / (1 + ROUNDS), valid for any statistic (Phipson and Smyth 2010, arXiv 1603.05766).
    """
    chance = np.random.default_rng(seed)
    value = statistic(labels)
    parts = [np.arange(len(labels))] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    found = np.empty(ROUNDS)
    for number in range(ROUNDS):
        shuffled = labels.copy()
        for part in parts:
            shuffled[part] = labels[chance.permutation(part)]
        found[number] = statistic(shuffled)
    p = (1 + int((found >= value - 1e-12).sum())) / (1 + ROUNDS)
    return Tested(float(value), float(found.mean()), p)
