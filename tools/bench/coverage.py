"""Simulated coverage of the confidence intervals, error rates and power of the tests of zoo.evidence.statistics.

    python tools/bench/coverage.py [REPEATS [FIRST LETTERS OF A LINE]]

A simulated model is right on item i in draw d with probability logistic(m + u_d + v_i + w_i), all normal: the draw, the
difficulty of the item for all models, and for this one. Two models share v and half of the variance of u, as they see
the same items and training examples. The truth is the mean over all draws and items. Nominal: 95 % coverage, at most
5 % false findings, 80 % power.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zoo.evidence import statistics
from zoo.tasks.intervals import bootstrap, wilson

SIZES = (40, 100, 400, 1_000)
SHARES = (0.6, 0.8, 0.9, 0.95)
DRAWS = 5
ITEM_STD = 2.0
"""Standard deviation of the difficulty of items, in logits: most are easy or hard for every model."""
DRAW_STD, PAIR_STD = 0.25, 1.0
"""Standard deviations, in logits, of draws (about 3 points of accuracy), and of a model's own taste for an item."""
REPEATS = 2_000


@dataclass(frozen=True)
class World:
    """Logits of two models whose true scores are shares `a` and `b`; `draw_std` is 0 for trained models as given."""

    a: float
    b: float
    draw_std: float = DRAW_STD

    def sample(self, draws: int, items: int, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the hits (D, N) of both models on new draws and items."""
        v = chance.normal(0, ITEM_STD, items)
        u = chance.normal(0, self.draw_std * 0.5**0.5, (draws, 1))
        return self.model(self.a, u, v, chance), self.model(self.b, u, v, chance)

    def model(self, share: float, u: np.ndarray, v: np.ndarray, chance: np.random.Generator) -> np.ndarray:
        """Return the hits (D, N) of a model on draws u (D, 1) and items v (N,)."""
        own_u = chance.normal(0, self.draw_std * 0.5**0.5, u.shape)
        taste = chance.normal(0, PAIR_STD, v.shape)
        logits = middle(share, self.draw_std) + u + own_u + v + taste
        return (chance.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)


_middles: dict[tuple[float, float], float] = {}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def middle(share: float, draw_std: float) -> float:
    """Return the mean logit m for which the mean probability is a share, by Gauss-Hermite quadrature and bisection."""
    key = (share, draw_std)
    if key not in _middles:
        std = (ITEM_STD**2 + PAIR_STD**2 + draw_std**2) ** 0.5
        low, high = -20.0, 20.0
        for _ in range(60):
            m = (low + high) / 2
            mean = (WEIGHTS / (1 + np.exp(-(m + std * NODES)))).sum() / WEIGHTS.sum()
            low, high = (m, high) if mean < share else (low, m)
        _middles[key] = low
    return _middles[key]


def covered(intervals: Iterator[tuple[tuple[float, float], float]]) -> float:
    """Return the share of intervals that hold the true value."""
    return float(np.mean([low <= truth <= high for (low, high), truth in intervals]))


def one_draw(items: int, repeats: int, share: float) -> float:
    """Return the coverage of Wilson's interval: one trained model."""
    hits = np.random.default_rng(items).binomial(items, share, repeats)
    return covered((wilson(hit, items), share) for hit in hits)


def several_draws(items: int, repeats: int, share: float) -> float:
    """Return the coverage of `mean_score` with five draws."""
    chance = np.random.default_rng(items)
    world = World(share, share)

    def found() -> Iterator[tuple[tuple[float, float], float]]:
        for _ in range(repeats):
            estimate = statistics.mean_score(world.sample(DRAWS, items, chance)[0], is_share=True)
            yield (estimate.low, estimate.high), share

    return covered(found())


def difference(items: int, repeats: int, share: float, draws: int = DRAWS) -> float:
    """Return the coverage of `mean_difference` of a model that is 5 points better."""
    chance = np.random.default_rng(items)
    world = World(share, share - 0.05, DRAW_STD if draws > 1 else 0.0)

    def found() -> Iterator[tuple[tuple[float, float], float]]:
        for _ in range(repeats):
            estimate = statistics.mean_difference(*world.sample(draws, items, chance), is_share=True)
            yield (estimate.low, estimate.high), 0.05

    return covered(found())


def difference_of_one_draw(items: int, repeats: int, share: float) -> float:
    """Return the coverage of `mean_difference` of two trained models."""
    return difference(items, repeats, share, draws=1)


def absolute_errors(items: int, repeats: int, share: float) -> float:
    """Return the coverage of `mean_score` of absolute errors in five draws (no share: half normal)."""
    chance = np.random.default_rng(items)

    def found() -> Iterator[tuple[tuple[float, float], float]]:
        for _ in range(repeats):
            hardness = chance.normal(0, 1, items)
            errors = np.abs(
                hardness + 0.5 * chance.normal(0, 1, (DRAWS, items)) + 0.1 * chance.normal(0, 1, (DRAWS, 1))
            )
            estimate = statistics.mean_score(errors, is_share=False)
            yield (estimate.low, estimate.high), (1 + 0.25 + 0.01) ** 0.5 * (2 / np.pi) ** 0.5

    return covered(found())


def f1_bootstrap(items: int, repeats: int, share: float) -> float:
    """Return the coverage of the bootstrap of F1, with as many positives as negatives and `share` of each right."""
    chance = np.random.default_rng(items)

    def found() -> Iterator[tuple[tuple[float, float], float]]:
        for _ in range(repeats // 4):
            truths = chance.random(items) < 0.5
            guesses = truths ^ (chance.random(items) >= share)
            hits, both = torch.tensor(truths & guesses).double(), torch.tensor(truths).double() + torch.tensor(guesses)
            ends = bootstrap(lambda w, h=hits, t=both: {"f1": 2 * (w @ h) / (w @ t).clamp(min=1)}, items, 1)["f1"]
            yield ends, share  # precision and recall are both the share

    return covered(found())


def false_findings(items: int, repeats: int, share: float, draws: int = 1) -> float:
    """Return how often the permutation test finds a difference between equally good models, the draws given."""
    chance = np.random.default_rng(items)
    world = World(share, share, 0.0)
    return float(
        np.mean([statistics.permutation(*world.sample(draws, items, chance)) < 0.05 for _ in range(repeats // 2)])
    )


def false_claims(items: int, repeats: int, share: float) -> float:
    """Return how often test and interval both find a difference between equally good strategies: other draws count."""
    chance = np.random.default_rng(items)
    world, found = World(share, share), 0
    for _ in range(repeats // 2):
        pair = world.sample(DRAWS, items, chance)
        interval = statistics.mean_difference(*pair, is_share=True)
        found += statistics.permutation(*pair) < 0.05 and not interval.low <= 0 <= interval.high
    return found / (repeats // 2)


def best_left_out(items: int, repeats: int, share: float) -> float:
    """Return how often the best of five models, one point better than the others, is outside the first rank group."""
    return _first_groups(items, repeats, (share + 0.01, *[share] * 4))[0]


def equals_apart(items: int, repeats: int, share: float) -> float:
    """Return how often any of five equally good models is outside the first rank group."""
    return _first_groups(items, repeats, [share] * 5)[1]


def _first_groups(items: int, repeats: int, shares: Sequence[float]) -> tuple[float, float]:
    """Return how often the first model, and how often any of them, is outside the first rank group."""
    chance = np.random.default_rng(items)
    first = anyone = 0
    for _ in range(repeats // 4):
        hardness = chance.normal(0, ITEM_STD, items)
        groups = statistics.tie_groups(
            [World(s, s, 0.0).model(s, np.zeros((1, 1)), hardness, chance)[0] for s in shares]
        )
        first, anyone = first + (groups[0] > 1), anyone + (max(groups) > 1)
    return first / (repeats // 4), anyone / (repeats // 4)


def power(items: int, repeats: int, share: float) -> float:
    """Return how often a difference as large as the smallest detectable one is found."""
    chance = np.random.default_rng(items)
    sample = [World(share, share - 0.05).sample(DRAWS, items, chance) for _ in range(50)]
    gap = float(
        np.mean([statistics.smallest_detectable(statistics.mean_difference(*s, is_share=True)) for s in sample])
    )
    if share - gap < 0.05:
        return float("nan")
    world, found = World(share, share - gap), 0
    for _ in range(repeats // 4):
        low = statistics.mean_difference(*world.sample(DRAWS, items, chance), is_share=True).low
        found += low > 0
    return found / (repeats // 4)


CHECKS: dict[str, Callable[[int, int, float], float]] = {
    "Wilson, one model": one_draw,
    "mean score, 5 draws": several_draws,
    "difference, one draw": difference_of_one_draw,
    "difference, 5 draws": difference,
    "absolute error, 5 draws": absolute_errors,
    "bootstrap of F1": f1_bootstrap,
    "false: permutation p < 0.05": false_findings,
    "false: claims, 5 draws": false_claims,
    "best not in tie group": best_left_out,
    "any of 5 equals not in it": equals_apart,
    "power at detectable diff.": power,
}


def main() -> None:
    """Print a table: mean over the true shares, and the range."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    print(f"{repeats} repeats; mean over true scores of {', '.join(map(str, SHARES))} (lowest to highest)")
    print(f"{'':<28}" + "".join(f"{f'n = {items:,}':>21}" for items in SIZES))
    for name, check in CHECKS.items():
        if len(sys.argv) > 2 and not name.startswith(sys.argv[2]):
            continue
        cells = []
        for items in SIZES:
            found = [check(items, repeats, share) for share in SHARES]
            cells.append(f"{np.nanmean(found):.1%} ({np.nanmin(found):.1%}-{np.nanmax(found):.1%})")
        print(f"{name:<28}" + "".join(f"{cell:>21}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
