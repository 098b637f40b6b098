"""What a report sets a model beside: the rows of a comparison (`zoo compare`), and other saved models."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.fingerprint import fingerprint
from zoo.errors import DataError
from zoo.evidence.report.facts import Facts, Part
from zoo.model.load import load
from zoo.tasks.intervals import Interval

SCRATCH = "from scratch"
SPLIT = ("data", "valid", "test", "groups", "seed")
"""Of the request of a run: what two models have in common that hold out the same examples."""
NAMES = {"scratch": SCRATCH, "probe": "frozen probe"}


@dataclass(frozen=True, slots=True)
class Compared:
    """A score to set a model beside: on `where`, with `trained` examples; sentences say what the comparison shows."""

    name: str
    where: str
    count: int
    value: float
    interval: Interval | None
    sentences: tuple[str, ...] = ()


def compared(facts: Facts, source: str | os.PathLike[str]) -> list[Compared]:
    """Return the scores in a comparison's .json file, or that of a saved model on the examples that are reported on.

    Raises DataError for what is neither, for other data or another task, and for a model that has seen these examples.
    """
    path = Path(source)
    if path.suffix.lower() == ".json":
        return _of_comparison(facts, path)
    return [_of_model(facts, path)]


def _of_comparison(facts: Facts, path: Path) -> list[Compared]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows, task, data = document["rows"], document["task"], document["data"]
        size = max(row["size"] for row in rows)
        same = [row for row in rows if row["size"] == size and row["backbone"] == facts.entry.name]
        found = [_row(document, row) for row in same]
    except (OSError, ValueError, KeyError, TypeError) as error:
        again = f"zoo compare {facts.entry.name} {facts.summary.origin}   (writes one)"
        raise DataError(f"{path} is no comparison of zoo compare: {error}", fix=again) from error
    if task != facts.task.name or not found or not _is_of(facts, data):
        what = f"{path} compares {', '.join(sorted({row['backbone'] for row in rows}))} on {data} ({task})"
        fix = f"zoo compare {facts.entry.name} {facts.summary.origin}   (this model's backbone and data)"
        raise DataError(what, fix=fix)
    return found


def _row(document: dict[str, Any], row: dict[str, Any]) -> Compared:
    name = NAMES.get(row["strategy"], row["strategy"])
    where = f"zoo compare: {row['size']:,} training examples, {row['draws']:,} draws"
    interval = float(row["low"]), float(row["high"])
    sentences = tuple(map(str, document["sentences"]))
    return Compared(name, where, int(document["test"]), float(row["mean"]), interval, sentences)


def _is_of(facts: Facts, data: object) -> bool:
    """Return whether a comparison names the data of the model; folders may be given in several ways."""
    own = facts.summary.origin
    return str(data) == own or Path(str(data)).resolve() == Path(own).resolve()


def _of_model(facts: Facts, folder: Path) -> Compared:
    other, held = load(folder, str(facts.model.device)), facts.held_out
    if held is None:
        raise DataError(f"nothing was held out to compare {folder} on", fix="zoo report MODEL DATA --compare FOLDER")
    if other.task is None or other.task.name != facts.task.name or other.task.labels != facts.task.labels:
        raise DataError(f"{folder} has another task or other labels", fix="--compare takes a model of the same data")
    ours, theirs = (model.training.get("request", {}) for model in (facts.model, other))
    seen = other.summary is not None and other.summary.fingerprint == fingerprint(held.whole.examples)
    if (held.name == "valid" and [ours.get(name) for name in SPLIT] != [theirs.get(name) for name in SPLIT]) or seen:
        what = f"{folder} did not hold out the same examples as this model, so that it has seen some of them"
        fix = "fine-tune both on the same data with the same --valid, --test, --groups and --seed"
        raise DataError(what, fix=fix)
    return _measured(facts, held, other, folder)


def _measured(facts: Facts, held: Part, other: Any, folder: Path) -> Compared:
    found = other.measure(held.examples)
    metric = facts.task.main_metric
    strategy = other.recipe.strategy
    name = NAMES.get(strategy, strategy) if other.entry.name == facts.entry.name else f"{other.entry.name}, {strategy}"
    return Compared(name, str(folder), len(held), found.metrics[metric], found.intervals.get(metric))


def all_compared(facts: Facts, sources: Sequence[str | os.PathLike[str]]) -> tuple[Compared, ...]:
    """Return the scores of several comparisons and models."""
    return tuple(one for source in sources for one in compared(facts, source))
