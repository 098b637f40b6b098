"""Confidence intervals of metrics: Wilson's for shares, else percentiles; the bootstrap where a metric is no mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.data.seeding import generator

Interval = tuple[float, float]
LEVEL = 0.95
"""Confidence level of all intervals."""
Z = 1.959964
"""The 0.975 quantile of the normal distribution."""
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)
"""The 0.975 quantiles of Student's t distribution with 1 to 9 degrees of freedom."""
MAX_FOLDS = len(QUANTILES) + 1
SHARES = ("accuracy", "f1", "precision", "recall", "map")
"""Ends of the names of metrics between 0 and 1."""
RESAMPLES, FEWEST = 1_000, 100
"""Bootstrap samples; with fewer than the second no interval is given."""
WORK = 100_000_000
"""Numbers that all bootstrap samples of a metric may take together."""
CHUNK = 1_000_000
"""Numbers that the bootstrap samples computed at once may take."""


def wilson(hits: float, count: float, quantile: float = Z) -> Interval:
    """Return the score interval of a proportion, hits of count (Wilson 1927, doi 10.1080/01621459.1927.10502953)."""
    share, spread = hits / count, quantile * quantile / count
    middle = share + spread / 2
    margin = quantile * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (middle - margin) / (1 + spread)), min(1.0, (middle + margin) / (1 + spread))


def corrected_t(scores: Sequence[float]) -> Interval:
    """Return the corrected resampled t interval of the mean of K folds (Nadeau and Bengio 2003).

    The training data of the folds overlap, so the variance of the mean is (1 / K + 1 / (K - 1)) times that of a score.
    """
    folds = len(scores)
    mean = sum(scores) / folds
    variance = sum((score - mean) ** 2 for score in scores) / (folds - 1)
    margin = QUANTILES[folds - 2] * math.sqrt(variance * (1 / folds + 1 / (folds - 1)))
    return mean - margin, mean + margin


def paired_difference(differences: Tensor, *, is_share: bool) -> tuple[float, float, float]:
    """Return the mean of differences (N,) of scores on the same items, and its Student's t interval.

    To differences of scores from 0 to 1 (`is_share`) are added 1 and -1, for the interval alone, as Bonett and Price
    (2012, doi 10.3102/1076998611411915) do for paired proportions: else it is too narrow where few items differ.
    """
    from scipy import stats

    values = differences.double()
    padded = torch.cat([values, values.new_tensor([1.0, -1.0])]) if is_share else values
    if len(padded) < 2:
        return float(values.mean()), -math.inf, math.inf
    middle, count = float(padded.mean()), len(padded)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * float(padded.std()) / math.sqrt(count)
    low, high = middle - margin, middle + margin
    return float(values.mean()), *((max(-1.0, low), min(1.0, high)) if is_share else (low, high))


def is_share(name: str) -> bool:
    """Return whether a metric lies between 0 and 1: accuracy, F1, precision, recall, mean average precision."""
    return name.endswith(SHARES)


def bootstrap(metric: Callable[[Tensor], dict[str, Tensor]], count: int, width: int) -> dict[str, Interval]:
    """Return bootstrap intervals of metrics over `count` examples (Efron and Tibshirani 1993).

    Shares have Wilson's interval with the effective sample size m (1 - m) / variance (Kish 1965), the variance being
    that of the samples: percentiles are too narrow near 1, where a sample often has no mistake at all (docs/log.md).
    Other metrics have percentiles.

    `metric` maps weights (R, count), how often each example is in each of R samples, to values (R,); it takes `width`
    numbers for an example and sample. The samples are seeded. {} where so many examples and labels take too long.
    """
    size = count * width
    samples = min(RESAMPLES, WORK // max(1, size))
    if samples < FEWEST or count < 2:
        return {}
    chance = generator(0, "bootstrap", count)
    found: dict[str, list[Tensor]] = {}
    for start in range(0, samples, step := max(1, CHUNK // size)):
        drawn = torch.randint(count, (min(step, samples - start), count), generator=chance)
        weights = torch.zeros(drawn.shape, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        for name, values in metric(weights).items():
            found.setdefault(name, []).append(values)
    whole = metric(torch.ones(1, count, dtype=torch.float64))
    ends = {}
    for name, parts in found.items():
        values, mean = torch.cat(parts).double(), float(whole[name])
        ends[name] = _of_share(mean, float(values.var()), count) if is_share(name) else _percentiles(values)
    return ends


def _percentiles(values: Tensor) -> Interval:
    low, high = values.quantile(values.new_tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2])).tolist()
    return low, high


def _of_share(mean: float, variance: float, count: int) -> Interval:
    """Return Wilson's interval with the effective sample size; that of the examples, where no sample differs."""
    spread = mean * (1 - mean)
    effective = spread / variance if variance > 0 and spread > 0 else count
    return wilson(mean * effective, effective)
