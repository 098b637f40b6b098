"""Plain sentences about a comparison: what is shown, how large it is, and what cannot be told from this data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from zoo.console import counted
from zoo.evidence.comparison import Comparison, Pair, Row
from zoo.evidence.statistics import ALPHA
from zoo.tasks.task import LOWER_IS_BETTER

FURTHEST = 2
"""Learning curves are extrapolated to this many times the largest size, no further: many misbehave (2505.15657)."""
MOST_PAIRS = 4
"""Other differences that are put into words."""


def of(found: Comparison) -> Iterator[str]:
    """Yield the sentences: transfer against scratch, data that it saves, other differences, overfitting, precision."""
    largest = found.rows_at(found.sizes[-1])
    best = found.best(largest)
    for backbone in dict.fromkeys(row.backbone for row in found.rows):
        tuned = _transfer(found, backbone)
        if tuned is not None:
            scratch = found.name(backbone, "scratch")
            yield from _pays(found, found.name(backbone, tuned), scratch)
            yield from _data_saved(found, backbone, tuned)
    yield from _others(found, best)
    yield _overfitting(found, largest)
    yield _precision(found, best)
    if found.leaked:
        which = f"{found.leaked:,} of {counted(found.test, 'test item')}"
        yield f"{which} have a near-duplicate among the training examples: all scores are optimistic"


def _transfer(found: Comparison, backbone: str) -> str | None:
    """Return the strategy that stands for transfer, if there is one and training from scratch beside it."""
    strategies = [row.strategy for row in found.rows if row.backbone == backbone]
    others = [each for each in dict.fromkeys(strategies) if each != "scratch"]
    if "scratch" not in strategies or not others:
        return None
    return "auto" if "auto" in others else others[-1]


def _pays(found: Comparison, tuned: str, scratch: str) -> Iterator[str]:
    """Say where transfer is better, where worse, and where no difference can be shown."""
    pairs = [found.pair(tuned, scratch, size) for size in reversed(found.sizes)]
    better = [pair for pair in pairs if pair.is_shown and _gain(pair, found.metric) > 0]
    worse = [pair for pair in pairs if pair.is_shown and _gain(pair, found.metric) < 0]
    for shown, what in ((better, "transfer pays here"), (worse, "transfer does harm here")):
        if shown:
            first, *more = shown
            also = "".join(f", {_change(pair, found.metric)} at {pair.size:,}" for pair in more)
            yield f"{what}: {of_pair(first, found.metric, _at(first.size))}{also}"
    unclear = [pair for pair in pairs if not pair.is_shown]
    if unclear:
        yield of_pair(unclear[0], found.metric, _at(unclear[0].size))


def _data_saved(found: Comparison, backbone: str, tuned: str) -> Iterator[str]:
    """Say how many times the data training from scratch needs for what transfer reaches at the smallest size."""
    scratch = found.name(backbone, "scratch")
    name = found.name(backbone, tuned)
    shown = [size for size in found.sizes if found.pair(name, scratch, size).is_shown]
    if not shown or _gain(found.pair(name, scratch, shown[0]), found.metric) <= 0:
        return
    size, last = shown[0], found.sizes[-1]
    target = found.row(backbone, tuned, size).mean
    curve = [(each, found.row(backbone, "scratch", each).mean) for each in found.sizes]
    sign = -1 if found.metric in LOWER_IS_BETTER else 1
    needed = crossing([(n, sign * mean) for n, mean in curve], sign * target)
    reached = f"what {name} reaches with {size:,} ({target:.3f})"
    if needed is None and last > size:
        beyond = f"{scratch} would need more than {_times(last / size)} the data"
        yield f"{beyond}: {last:,} examples do not reach {reached}, nor does its trend at {FURTHEST * last:,}"
    elif needed is None:
        trend = f"its trend does not reach that at {FURTHEST * last:,}" if len(curve) > 1 else "more were not measured"
        scores = f"it scores {curve[-1][1]:.3f}, {name} {target:.3f}"
        yield f"{scratch} would need more data: with {size:,} {scores}; {trend}"
    elif needed > size:
        how = f"measured up to {last:,}" if needed <= last else f"measured up to {last:,} and extrapolated"
        about = f"about {_times(needed / size)} the data"
        yield f"{scratch} would need {about}: some {needed:,.0f} examples for {reached}; {how}"


def crossing(curve: Sequence[tuple[int, float]], target: float) -> float | None:
    """Return the number of examples at which a curve (size, score) first reaches a score; None where it does not.

    Linear in the logarithm of the size between measured points; beyond the last one along the last two, up to twice its
    size.
    """
    if curve[0][1] >= target:
        return float(curve[0][0])
    for (n0, low), (n1, high) in itertools.pairwise(curve):
        if high >= target:
            return float(n0 * (n1 / n0) ** ((target - low) / (high - low)))
    if len(curve) < 2 or curve[-1][1] <= curve[-2][1]:
        return None
    (n0, low), (n1, high) = curve[-2:]
    steps = (target - high) / (high - low)
    return float(n1 * (n1 / n0) ** steps) if steps * math.log(n1 / n0) <= math.log(FURTHEST) else None


def _others(found: Comparison, best: Row) -> Iterator[str]:
    """Compare the best model at the largest size with the others; transfer against scratch has its own sentence."""
    name = found.name(best.backbone, best.strategy)
    pairs = [pair for pair in found.pairs if pair.size == best.size and name in (pair.a, pair.b)]
    said = 0
    for pair in pairs:
        other = pair.b if pair.a == name else pair.a
        if "scratch" in (best.strategy, other.split()[-1]) and _is_same_backbone(found, best, other):
            continue
        said += 1
        if said > MOST_PAIRS:
            break
        shown = found.pair(name, other, best.size)
        if _are_the_same(found, shown):
            yield f"{name} and {other} have the same scores at {counted(best.size, 'example')}"
        else:
            yield of_pair(shown, found.metric, _at(best.size))


def _is_same_backbone(found: Comparison, best: Row, other: str) -> bool:
    return any(found.name(best.backbone, row.strategy) == other for row in found.rows if row.backbone == best.backbone)


def _are_the_same(found: Comparison, pair: Pair) -> bool:
    """Return whether two strategies came to the same scores, as auto does where it keeps the probe."""
    rows = [row for row in found.rows_at(pair.size) if found.name(row.backbone, row.strategy) in (pair.a, pair.b)]
    return pair.difference == 0 and pair.p == 1 and len({(r.train, r.test_error, r.draws_std) for r in rows}) == 1


def _overfitting(found: Comparison, rows: Sequence[Row]) -> str:
    gaps = ", ".join(f"{found.name(row.backbone, row.strategy)} {_size(row.gap, found.metric)}" for row in rows)
    size = counted(rows[0].size, "example")
    return f"overfitting (how much better the training than the test score is) at {size}: {gaps}"


def _precision(found: Comparison, best: Row) -> str:
    """Say how far the two sources of error move the score of the best model."""
    name = found.name(best.backbone, best.strategy)
    choice, moved = f"the choice of {counted(found.test, 'test item')} moves", _size(best.test_error, found.metric)
    if best.draws_std is None:
        rest = "one draw: how far other training examples move it is not measured (more draws)"
        return f"{choice} the score of {name} by ±{moved} (95 %); {rest}"
    smaller = [size for size in found.sizes if size < found.pool]
    row = found.row(best.backbone, best.strategy, smaller[-1]) if smaller else best
    what = f"another draw of {row.size:,} training examples" if smaller else "another seed and validation split"
    spread = f"{_size(row.draws_std or 0, found.metric)} (standard deviation)"
    return f"{what} moves the score of {name} by {spread}; {choice} it by ±{moved} (95 %)"


def of_pair(pair: Pair, metric: str, where: str) -> str:
    """Say whether the difference of two models is shown; `where`: "at 40 examples"."""
    interval = _interval(pair, metric)
    if pair.is_shown:
        return f"{pair.a} against {pair.b} is {_change(pair, metric)} {where} ({interval})"
    detectable = f"a true difference of {_size(pair.detectable, metric)} would be found in 80 % of such comparisons"
    if metric not in LOWER_IS_BETTER and pair.detectable >= 1:
        detectable = "so few items or draws cannot show any difference reliably"
    change = f"{_change(pair, metric)} ({interval})"
    if pair.adjusted < ALPHA:
        detectable = f"beyond chance with these training examples, but others may turn it; {detectable}"
    return f"no difference can be shown between {pair.a} and {pair.b} {where}: {change}; {detectable}"


def _at(size: int) -> str:
    return f"at {counted(size, 'example')}"


def _interval(pair: Pair, metric: str) -> str:
    p = "p < 0.001" if pair.adjusted < 0.001 else f"p = {pair.adjusted:.3f}"
    return f"95 % interval {_number(pair.low, metric, '+')} to {_number(pair.high, metric, '+')}, {p}"


def _gain(pair: Pair, metric: str) -> float:
    return -pair.difference if metric in LOWER_IS_BETTER else pair.difference


def _change(pair: Pair, metric: str) -> str:
    return _number(pair.difference, metric, "+") + _unit(metric)


def _size(value: float, metric: str) -> str:
    return _number(value, metric) + _unit(metric)


def _number(value: float, metric: str, sign: str = "") -> str:
    """Return a score in points, an error in its own unit."""
    if metric in LOWER_IS_BETTER:
        return f"{value:{sign}.3g}"
    return f"{round(100 * value, 1) + 0.0:{sign}.1f}"  # + 0.0: no -0.0


def _unit(metric: str) -> str:
    return f" ({metric})" if metric in LOWER_IS_BETTER else " points"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"
