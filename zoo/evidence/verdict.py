"""The verdict of a ranking: who goes on to the next round, rank groups, the recommended backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from zoo.errors import ZooError
from zoo.evidence import statistics


@dataclass(frozen=True, slots=True)
class Row:
    """One backbone of a ranking.

    score, low, high  main metric of its frozen features, cross-validated, with the 95 % interval; None if not measured
    group             1: the best and all that are not shown to differ from it; 2: the best of the others, …
    examples          on which it was measured
    round             the last round it took part in, 0 for none: on few examples if it was dropped early
    bytes, params     size of its files, number of parameters
    ms, gmacs         milliseconds (one thread of this machine) and billions of multiply-accumulates for an item
    seconds           that its measurement took
    error             why it was not measured, or not to the end
    fix               what can be done about the error
    items             scores of the examples (R, N) in R cross-validations; the same examples in a round
    """

    name: str
    score: float | None = None
    low: float | None = None
    high: float | None = None
    group: int | None = None
    examples: int = 0
    round: int = 0
    bytes: int | None = None
    params: int | None = None
    ms: float | None = None
    gmacs: float | None = None
    seconds: float = 0.0
    error: str = ""
    fix: str = ""
    items: Sequence[Sequence[float]] = field(default=(), repr=False)

    @property
    def mean(self) -> float:
        """Mean score of the examples; -inf without any."""
        return sum(map(sum, self.items)) / (len(self.items) * self.examples) if self.items else -math.inf


@dataclass(frozen=True, slots=True)
class Final:
    """A backbone in the finals, tuned or as a probe: its cross-validated score with the 95 % interval, or an error."""

    name: str
    strategy: str
    score: float | None = None
    low: float | None = None
    high: float | None = None
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Backbones, best first.

    recommended      the static choice if it is within one standard error of the best, else the best
    static_choice    the first by accuracy on ImageNet, or size, without looking at the data
    cheapest         the one of group 1 with the fewest multiply-accumulates
    expected         score of the best one on new data, corrected for having been chosen; None for other metrics
    detectable       true difference from the best that is found in 80 % of such rankings, for those of group 1; None
                     for other metrics, or if group 1 has one backbone
    metric, examples what was measured, and on how many examples
    finals           those that were fine-tuned, beside their probes, best first
    strategy         the recommended one, if there were finals
    """

    rows: tuple[Row, ...]
    recommended: str
    static_choice: str
    cheapest: str
    metric: str
    examples: int
    expected: float | None = None
    detectable: float | None = None
    finals: tuple[Final, ...] = ()
    strategy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the document of `zoo rank --json`."""
        hidden = {"items", "fix"}
        rows = [{key: value for key, value in asdict(row).items() if key not in hidden} for row in self.rows]
        finals = [{**asdict(final), "error": final.error or None} for final in self.finals]
        return {**asdict(self), "rows": [{**row, "error": row["error"] or None} for row in rows], "finals": finals}


def better_half(rows: Sequence[Row], keep: str) -> list[str]:
    """Return the names of those that go on, best first: the better half, all not shown to differ from the best, `keep`.

    Halving alone drops the best one where few examples cannot tell backbones apart.
    """
    ordered = sorted(rows, key=lambda row: -row.mean)
    groups = statistics.tie_groups([row.items for row in ordered])
    half = -(-len(ordered) // 2)
    return [
        row.name
        for place, (row, group) in enumerate(zip(ordered, groups, strict=True))
        if place < half or group == 1 or row.name == keep
    ]


def conclude(rows: Sequence[Row], static_choice: str, metric: str, *, is_share: bool) -> Ranking:
    """Return the ranking of measured rows; those with an error come last. Raises the first error if all have one.

    Recommended is the static choice if it is `as_good` as the best, else the best: what is known beforehand decides
    where the data cannot. Of thirteen measured rankings this rule has the least regret (docs/ranking.md).
    """
    measured = [row for row in rows if not row.error]
    if not measured:
        first = rows[0]
        raise ZooError(f"{first.name}: {first.error}", fix=first.fix or "zoo rank DATA NAME with other backbones")
    ordered, above = [], 0
    for number in sorted({row.round for row in measured}, reverse=True):
        part = sorted((row for row in measured if row.round == number), key=lambda row: (-row.mean, row.name))
        groups = statistics.tie_groups([row.items for row in part])
        ordered += sorted(
            (replace(row, group=above + group) for row, group in zip(part, groups, strict=True)),
            key=lambda row: (row.group, -row.mean, row.name),
        )
        above += max(groups)
    best = ordered[0]
    finalists = [row for row in ordered if row.round == best.round]
    static = next((row for row in finalists if row.name == static_choice), best)
    recommended = static if as_good(static.items, best.items, is_share=is_share) else best
    expected = expected_of_best([row.items for row in finalists]) if is_share else None
    tied = [row for row in finalists if row.group == 1]
    cheapest = min(tied, key=lambda row: (row.gmacs or 0.0, row.bytes or 0, row.name))
    missed = [_detectable(best, row) for row in tied if row is not best] if is_share else []
    failed = sorted((row for row in rows if row.error), key=lambda row: row.name)
    names, measures = (recommended.name, static_choice, cheapest.name), (metric, best.examples)
    return Ranking((*ordered, *failed), *names, *measures, expected, max(missed, default=None))


def _detectable(best: Row, other: Row) -> float:
    return statistics.smallest_detectable(statistics.mean_difference(best.items, other.items, is_share=True))


def as_good(items: ArrayLike, best: ArrayLike, *, is_share: bool) -> bool:
    """Return whether scores (R, N) are at most one standard error of the paired difference below the best ones.

    That is the one-standard-error rule (Breiman et al. 1984; Hastie et al. 2009, 7.10).
    """
    difference = statistics.mean_difference(best, items, is_share=is_share)
    return difference.mean <= difference.error


RESAMPLES = 1_000
"""Bootstrap samples for the expected score of the best."""


def expected_of_best(scores: Sequence[Sequence[Sequence[float]]], seed: int = 0) -> float:
    """Return the expected score on new items of the best of several models, given their scores (R, N) on N items.

    The best score of many is optimistic: part of it is luck on these items. In each bootstrap sample of the items the
    best model is chosen, and measured on the items that are not in the sample (Tsamardinos, Greasidou and Borboudakis
    2018, doi 10.1007/s10994-018-5714-4).
    """
    means = np.stack([np.asarray(each, dtype=float).mean(0) for each in scores])  # (M, N)
    count = means.shape[1]
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        chosen = np.bincount(draws.integers(0, count, count), minlength=count)
        left = chosen == 0
        if left.any():
            found.append(means[(means @ chosen).argmax(), left].mean())
    return float(np.mean(found)) if found else float(means.mean(1).max())
