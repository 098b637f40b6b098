"""Statistics of measured scores: intervals over draws and items, paired tests, corrections, rank groups.

An item is a test example, a draw one random choice of training examples with the model trained on it. Scores are a
matrix (D, N) of D draws and N items, the same items in each draw; (N,) is one draw. The intervals of one set of outputs
(Wilson, the bootstrap) are in zoo.tasks.intervals. Their coverage, and the error rates of the tests, are simulated by
tools/bench/coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from zoo.tasks.intervals import LEVEL, Interval, Z, bootstrap, wilson

ALPHA = 1 - LEVEL
"""Two-sided error rate of all tests."""
POWER = 0.8
"""Probability with which the smallest detectable difference is detected (Cohen 1988)."""
FLIPS = 9_999
"""Random sign flips where the exact distribution is out of reach: the smallest p is 1e-4."""
FEW_DRAWS = 2
"""Draws that are too few to see that they have no effect."""
CHUNK = 2_000_000
"""Random signs drawn at once."""
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean score, or mean difference of scores, with its two sources of error.

    low, high     95 % confidence interval for other test items and, with several draws, other draws
    items_error   standard error due to the choice of test items, the trained models given
    draws_std     standard deviation of the score over draws on these items; None for one draw
    error, df     standard error due to both, and its degrees of freedom
    """

    mean: float
    low: float
    high: float
    items_error: float
    draws_std: float | None
    error: float
    df: float


def mean_score(scores: ArrayLike, *, is_share: bool) -> Estimate:
    """Return the mean of scores (D, N) or (N,), for items and draws other than these.

    Scores from 0 to 1 (`is_share`) have Wilson's interval with the effective sample size mean (1 - mean) / error² (Kish
    1965), which is Wilson's own for one draw of hits; others Student's t. Raises ValueError without items.
    """
    values = _matrix(scores)
    found = _crossed(values)
    if not is_share:
        return found
    mean, items = found.mean, values.shape[1]
    whole = found.error == 0  # all items alike
    effective = items if whole else mean * (1 - mean) / found.error**2 * items / max(1, items - 1)
    quantile = Z if found.draws_std is None or whole else _quantile(found.df)
    low, high = wilson(mean * effective, effective, quantile)
    return replace(found, low=low, high=high)


def mean_difference(a: ArrayLike, b: ArrayLike, *, is_share: bool) -> Estimate:
    """Return the mean of a - b for scores of the same draws and items, (D, N) or (N,).

    The interval is Student's t. Scores from 0 to 1 have two items added whose differences are those of one draw, 1 / D
    and -1 / D, as Bonett and Price (2012, doi 10.3102/1076998611411915) do for paired proportions: without them the
    interval is too narrow where few items differ. Raises ValueError for matrices of different shapes.
    """
    differences = _paired(a, b)
    found = _crossed(differences)
    if not is_share:
        return found
    ends = np.tile([1.0, -1.0], (len(differences), 1)) / len(differences)
    padded = _crossed(np.hstack([differences, ends]))
    low, high = max(-1.0, padded.low), min(1.0, padded.high)
    return replace(padded, mean=found.mean, low=low, high=high, draws_std=found.draws_std)


def smallest_detectable(difference: Estimate) -> float:
    """Return the smallest true difference that a test at the 5 % level would detect with 80 % power on such data."""
    return (_quantile(difference.df) + _quantile(difference.df, POWER)) * difference.error


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Return the exact two-sided p of hits (N,) of two models on the same items being equally frequent (McNemar 1947).

    Of the items on which exactly one model is right, each is as likely to be right: a binomial test. Raises ValueError
    for other values than 0 and 1.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 1 or first.shape != second.shape or not np.isin([first, second], (0.0, 1.0)).all():
        raise ValueError("McNemar's test takes two vectors of 0 and 1 of the same length")
    only_first, only_second = int((first > second).sum()), int((second > first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second).pvalue)


def permutation(a: ArrayLike, b: ArrayLike, *, seed: int = 0) -> float:
    """Return the two-sided p of the mean difference of paired scores, (D, N) or (N,): a permutation test.

    Under the null hypothesis the two models may be swapped, item by item, in all draws at once (Fisher 1935, Pitman
    1937): the p is valid for other items, the draws given. Hits (0 and 1) have the exact p, for one draw that of
    `mcnemar`; other scores 9,999 seeded swaps. Raises ValueError for matrices of different shapes.
    """
    differences = _paired(a, b)
    sums = differences.sum(0)
    if np.array_equal(sums, np.round(sums)):
        return _exact_sign_flips(np.abs(sums).astype(int), int(abs(sums.sum())))
    return _random_sign_flips(sums, seed)


def paired_bootstrap(
    first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], count: int, width: int = 1
) -> Interval | None:
    """Return the percentile interval of a difference of metrics that are no means over items, such as F1.

    Each maps weights (R, count), how often each item is in each of R samples, to values (R,); both see the same samples
    (Efron and Tibshirani 1993, chapter 16). None where so many items take too long, or there is only one.
    """
    return bootstrap(lambda weights: {"": first(weights) - second(weights)}, count, width).get("")


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for as many comparisons (Holm 1979): below 0.05, all of them hold at the 5 % level."""
    count = len(p_values)
    adjusted, highest = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def tie_groups(scores: Sequence[ArrayLike], *, seed: int = 0) -> list[int]:
    """Return the rank group of each model, from 1, given its scores (D, N) or (N,) on the same items.

    The best mean, and all that are not shown to differ from it (`permutation`, Holm's correction), are group 1; the
    best of the others leads group 2, and so on. Higher is better. Not being shown to differ does not mean being equal.
    """
    means = [float(np.mean(np.asarray(each, dtype=float))) for each in scores]
    left = sorted(range(len(scores)), key=lambda i: -means[i])  # stable: ties in the given order
    groups, number = [0] * len(scores), 0
    while left:
        number += 1
        leader, *others = left
        adjusted = holm([permutation(scores[leader], scores[other], seed=seed) for other in others])
        tied = {other for other, p in zip(others, adjusted, strict=True) if p >= ALPHA} | {leader}
        for model in tied:
            groups[model] = number
        left = [model for model in left if model not in tied]
    return groups


def _crossed(values: Scores) -> Estimate:
    """Return the mean of a crossed layout (D, N) with Student's t interval.

    With draws and items both random, the variance of the mean is (max(MSd, MSr) + max(0, MSi - MSr)) / (D N) from the
    mean squares of draws, items and residual, with the degrees of freedom of Hillis (2007, doi 10.1002/sim.2532): the
    analysis of several readers and cases in medical imaging. With MSd below MSr, from three draws on, no effect of the
    draws is seen and the items alone count, N - 1: simulated, the coverage is then nearer to 95 % (docs/log.md).
    """
    draws, items = values.shape
    mean, by_draw, by_item = float(values.mean()), values.mean(1), values.mean(0)
    size, std = draws * items, float(by_draw.std(ddof=1)) if draws > 1 else None
    of_items = draws * float(by_item.var(ddof=1)) if items > 1 else 0.0
    items_error = error = math.sqrt(of_items / size)
    df = max(1.0, items - 1.0)
    if std is not None:
        residual = values - by_draw[:, None] - by_item + mean
        rest = float((residual**2).sum()) / ((draws - 1) * max(1, items - 1))
        of_draws = items * std**2
        total = max(of_draws, rest) + max(0.0, of_items - rest)
        error = math.sqrt(total / size)
        if of_draws > rest or (draws <= FEW_DRAWS and rest > 0):
            df = (draws - 1) * (total / max(of_draws, rest)) ** 2
    margin = _quantile(df) * error
    return Estimate(mean, mean - margin, mean + margin, items_error, std, error, df)


def _quantile(df: float, probability: float = 1 - ALPHA / 2) -> float:
    """Return a quantile of Student's t distribution."""
    return float(stats.t.ppf(probability, df))


def _matrix(scores: ArrayLike) -> Scores:
    values = np.atleast_2d(np.asarray(scores, dtype=float))
    if values.ndim != 2 or not values.size:
        raise ValueError(f"scores of shape {np.shape(scores)} are not those of draws and items, (D, N)")
    return values


def _paired(a: ArrayLike, b: ArrayLike) -> Scores:
    first, second = _matrix(a), _matrix(b)
    if first.shape != second.shape:
        raise ValueError(f"paired scores are of the same draws and items, not of shapes {first.shape}, {second.shape}")
    return first - second


def _exact_sign_flips(sizes: NDArray[np.int_], observed: int) -> float:
    """Return the probability that randomly signed whole numbers (N,) have a sum of at least `observed` in magnitude.

    The number of plus signs among k equal numbers is binomial: the distribution of the sum is the convolution of one
    binomial distribution for each number that occurs.
    """
    chances = np.ones(1)  # of sums -total, -total + 2, …, total
    total = 0
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        spread = np.zeros(int(size * count) + 1)
        spread[:: int(size)] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, spread)
        total += int(size * count)
    sums = np.arange(-total, total + 1, 2)
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def _random_sign_flips(sums: Scores, seed: int) -> float:
    chance = np.random.default_rng(seed)
    observed = abs(float(sums.sum())) * (1 - 1e-12)  # rounding makes no flip of all signs smaller
    reached, left = 0, FLIPS
    while left:
        rows = min(left, max(1, CHUNK // len(sums)))
        signs = chance.integers(0, 2, (rows, len(sums)), dtype=np.int8) * 2 - 1
        reached += int((np.abs(signs @ sums) >= observed).sum())
        left -= rows
    return (reached + 1) / (FLIPS + 1)
