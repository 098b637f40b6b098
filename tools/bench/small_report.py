"""Tables and picture of the small-data benchmark, from the lines of its results."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import small_sets

Row = Mapping[str, Any]
Place = tuple[str, str, int | None]
"""Data set, weights, examples of each class."""
DOCS = Path(__file__).parents[2] / "docs"
BASELINE = "logistic"
NAMES = {
    "standardised": "logistic, standardised",
    "unit": "logistic, unit length",
    "probe": "zoo, probe",
    "zoo": "zoo, default",
}
SOLVED = frozenset({"standardised", "unit"})
"""Of these sides, those of scikit-learn."""
COMMON = frozenset({2, 5, 10})
"""Examples of a class at which a data set must have been measured to be in the picture."""
MIN_DRAWS = 3
"""Fewest draws for which a standard error is shown."""
T95 = {3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided 95 % quantile of Student's t for so many draws."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean paired difference to the baseline in points, its standard error (nan: too few draws), and the count."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        error = "" if math.isnan(self.error) else f" ± {self.error:.1f}"
        return f"{self.mean:+.1f}{error}"

    @property
    def is_loss(self) -> bool:
        """Whether it is below zero beyond chance (95 %)."""
        return self.count in T95 and self.mean + T95[self.count] * self.error < 0


def rows(path: Path) -> list[Row]:
    """Return the runs of a results file; a last line that was cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def accuracies(found: Iterable[Row]) -> dict[Place, dict[str, dict[int, float]]]:
    """Return place -> side -> draw -> accuracy."""
    places: dict[Place, dict[str, dict[int, float]]] = {}
    for row in found:
        place = places.setdefault((row["set"], row["weights"], row["size"]), {})
        place.setdefault(row["side"], {})[row["draw"]] = row["accuracy"]
    return places


def gain(sides: Mapping[str, Mapping[int, float]], side: str, against: str = BASELINE) -> Gain | None:
    """Return the gain of a side over another on the draws of both; None without any."""
    ours, theirs = sides.get(side, {}), sides.get(against, {})
    return _mean([100 * (ours[draw] - theirs[draw]) for draw in ours if draw in theirs])


def _mean(values: Sequence[float]) -> Gain | None:
    if not values:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) >= MIN_DRAWS else math.nan
    return Gain(statistics.fmean(values), error, len(values))


def mean_gains(
    found: Iterable[Row], side: str, modality: str | None = None, against: str = BASELINE
) -> dict[int | None, Gain]:
    """Return size -> mean gain over data sets, each the mean over its weights; the error is that over data sets."""
    by_set: dict[int | None, dict[str, list[float]]] = {}
    for (name, _, size), sides in accuracies(found).items():
        one = gain(sides, side, against)
        if one is not None and modality in (None, small_sets.SETS[name].modality):
            by_set.setdefault(size, {}).setdefault(name, []).append(one.mean)
    means = {size: _mean([statistics.fmean(values) for values in sets.values()]) for size, sets in by_set.items()}
    return {size: one for size, one in sorted(means.items(), key=lambda item: _order(item[0])) if one}


def same_sets(found: Iterable[Row], side: str, modality: str) -> dict[int | None, Gain]:
    """Return mean gains over the data sets that have all of COMMON, for the sizes that each of them has."""
    sizes: dict[str, set[int | None]] = {}
    for (name, _, size), sides in accuracies(found := list(found)).items():
        if gain(sides, side) and small_sets.SETS[name].modality == modality:
            sizes.setdefault(name, set()).add(size)
    complete = {name: own for name, own in sizes.items() if own >= COMMON}
    shared = set.intersection(*complete.values()) if complete else set()
    return mean_gains([row for row in found if row["set"] in complete and row["size"] in shared], side, modality)


def gains(found: Sequence[Row]) -> str:
    """Return the table of mean gains, a row for each side."""
    sizes = sorted({row["size"] for row in found}, key=_order)
    lines = [["mean gain over the logistic regression", *(_size(size) for size in sizes)]]
    for side, name in NAMES.items():
        for modality in (None, "image", "text"):
            means = mean_gains(found, side, modality)
            if means:
                what = f"{name}, {modality}s" if modality else f"**{name}**"
                lines.append([what, *_shown(means, sizes)])
        if side not in SOLVED and (means := mean_gains(found, side, "text", "unit")):
            lines.append([f"{name}, texts, over unit length", *_shown(means, sizes)])
    return _table(lines)


def _shown(means: Mapping[int | None, Gain], sizes: Sequence[int | None]) -> list[str]:
    return [f"{means[size]} ({means[size].count})" if size in means else "" for size in sizes]


def losses(found: Sequence[Row]) -> str:
    """Return a list of the places where a side of zoo is below a logistic regression beyond chance."""
    lines = []
    for place, sides in sorted(accuracies(found).items(), key=lambda item: (*item[0][:2], _order(item[0][2]))):
        for side, against in itertools.product(NAMES.keys() - SOLVED, (BASELINE, "unit")):
            one = gain(sides, side, against)
            if one is not None and one.is_loss:
                below = NAMES.get(against, against)
                where = f"{place[0]}, `{place[1]}`, {_size(place[2])} a class"
                lines.append(f"- {NAMES[side]} below {below}: {where}: {one}")
    return "\n".join(sorted(lines)) or "- none"


def cells(found: Sequence[Row]) -> str:
    """Return the table of all places: accuracy of the baseline, and the gain of each side."""
    sides_run = [side for side in NAMES if any(row["side"] == side for row in found)]
    lines = [["data", "weights", "a class", "draws", "logistic", *(NAMES[side] for side in sides_run)]]
    for (name, weights, size), sides in sorted(
        accuracies(found).items(),
        key=lambda item: (list(small_sets.SETS).index(item[0][0]), item[0][1], _order(item[0][2])),
    ):
        base = sides.get(BASELINE, {})
        if base:
            compared = [gain(sides, side) for side in sides_run]
            shown = [f"{one}" if one else "" for one in compared]
            accuracy = f"{100 * statistics.fmean(base.values()):.1f}"
            lines.append([name, _short(weights), _size(size), str(len(base)), accuracy, *shown])
    return _table(lines)


def peers(found: Sequence[Row]) -> str:
    """Return the table of sides that ran in processes of their own: accuracy and seconds."""
    lines = [["data", "weights", "a class", "draws", "side", "accuracy", "zoo is better by", "CPU s", "wall s"]]
    kept = [row for row in found if row["side"] in ("zoo process", "fastai", "Trainer", "SetFit")]
    if not kept:
        return "Not run yet."
    for (name, weights, size), sides in accuracies(kept).items():
        for side, own in sides.items():
            same = [
                row
                for row in kept
                if (row["set"], row["weights"], row["size"], row["side"]) == (name, weights, size, side)
            ]
            seconds = (f"{statistics.fmean(row[clock] for row in same):.0f}" for clock in ("cpu", "wall"))
            ours = gain(sides, "zoo process", side) if side != "zoo process" else None
            accuracy = f"{100 * statistics.fmean(own.values()):.1f}"
            first = [name, _short(weights), _size(size), str(len(own))]
            lines.append([*first, side.replace("zoo process", "**zoo**"), accuracy, f"{ours or ''}", *seconds])
    return _table(lines)


def sources() -> str:
    """Return the table of data sets."""
    lines = [["data", "what", "classes", "pool", "test", "package", "licence"]]
    for name, row in small_sets.SETS.items():
        split = small_sets.split(name)
        pool = sum(map(len, split.pool.values()))
        lines.append(
            [
                name,
                f"{row.modality}s: {row.what}",
                f"{len(split.pool)}",
                f"{pool:,}",
                f"{len(split.test)}",
                row.source,
                row.license,
            ]
        )
    return _table(lines)


def page(found: Sequence[Row], text: str) -> str:
    """Return docs/benchmark.md with the tables between its markers made anew."""
    for name, make in {"gains": gains, "losses": losses, "cells": cells, "peers": peers}.items():
        block = f"<!-- {name} -->\n{make(found)}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def write(found: Sequence[Row]) -> None:
    """Write the tables into docs/benchmark.md, and the picture."""
    place = DOCS / "benchmark.md"
    text = place.read_text()
    block = f"<!-- sources -->\n{sources()}\n<!-- end -->"
    text = re.sub(r"<!-- sources -->.*?<!-- end -->", lambda _: block, text, flags=re.DOTALL)
    place.write_text(page(found, text))
    picture(found, DOCS / "benchmark.svg")


def picture(found: Sequence[Row], path: Path) -> None:
    """Draw the mean gain against the examples of a class, over the same data sets along a line."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "small data"
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, modality in zip(figure.subplots(1, 2, sharey=True), ("image", "text"), strict=True):
        for number, (side, name) in enumerate(NAMES.items()):
            means = same_sets(found, side, modality)
            if not means:
                continue
            places = [_order(size) for size in means]
            heights, errors = [one.mean for one in means.values()], [one.error for one in means.values()]
            axes.errorbar(
                [place * 1.04**number for place in places], heights, errors, marker="o", capsize=3, label=name
            )
        axes.axhline(0, color="0.4", linewidth=1)
        axes.set(xscale="log", xlabel="training examples of each class", title=f"{modality}s")
        axes.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "all"])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("points above logistic regression")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _order(size: int | None) -> int:
    return 100 if size is None else size


def _size(size: int | None) -> str:
    return "all" if size is None else str(size)


def _short(weights: str) -> str:
    return weights.rpartition("/")[2].partition(".")[0].replace("tf_efficientnet_", "").replace("resnet14", "letters")


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
