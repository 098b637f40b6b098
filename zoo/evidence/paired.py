"""Saved models compared on the same items, by paired tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data import split
from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.data.reading import read, read_one
from zoo.errors import DataError, RecipeError
from zoo.evidence import statistics
from zoo.evidence.comparison import Pair
from zoo.evidence.learning_curve import one_label_each
from zoo.evidence.statistics import Estimate
from zoo.model.load import load
from zoo.model.model import Model
from zoo.tasks import KINDS
from zoo.tasks.task import LOWER_IS_BETTER

Scores = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Paired:
    """Saved models on the same items: the mean score of each, and the difference of each two.

    validation  the items are those that the models were validated on, which chose among their weights
    """

    metric: str
    items: int
    validation: bool
    scores: Mapping[str, Estimate]
    pairs: tuple[Pair, ...]


def compare_saved(
    folders: Sequence[Path], data: object, *, device: str = "auto", columns: Columns | None = None
) -> Paired:
    """Measure saved models on the same labelled data and test their differences.

    Of the data that all were trained on, the examples that all held out for validation. Raises RecipeError for models
    of different tasks, DataError for data that one of them was trained on.
    """
    models = {str(folder): load(folder, device) for folder in folders}
    first = next(iter(models.values()))
    kinds = sorted({model.task.name for model in models.values() if model.task})
    if len(models) < 2 or len(kinds) != 1:
        what = f"models of different tasks: {', '.join(kinds)}" if len(kinds) > 1 else "one model is not compared"
        raise RecipeError(what, fix="two saved models of one task: zoo runs runs/a runs/b --on DATA")
    kind = KINDS[kinds[0]]
    known = replace(columns or (first.summary.columns if first.summary else Columns()), task=kind.name)
    items, held_out = _items(models, data, known)
    scores: dict[str, Scores] = {}
    for name, model in models.items():
        found = model.measure(items)
        scores[name] = found.task.item_scores(found.outputs.values, found.outputs.targets).numpy()
    is_share = kind.item_metric not in LOWER_IS_BETTER
    means = {name: statistics.mean_score(found, is_share=is_share) for name, found in scores.items()}
    return Paired(kind.item_metric, len(items), held_out, means, tuple(_pairs(scores, is_share)))


def _pairs(scores: Mapping[str, Scores], is_share: bool) -> list[Pair]:
    names = list(itertools.combinations(scores, 2))
    tests = [statistics.permutation(scores[a], scores[b]) for a, b in names]
    found = []
    for (a, b), p, adjusted in zip(names, tests, statistics.holm(tests), strict=True):
        difference = statistics.mean_difference(scores[a], scores[b], is_share=is_share)
        ends, detectable = (difference.low, difference.high), statistics.smallest_detectable(difference)
        found.append(Pair(a, b, 0, difference.mean, *ends, p, adjusted, detectable))
    return found


def _items(models: Mapping[str, Model], data: object, columns: Columns) -> tuple[Examples, bool]:
    """Return the items to measure on, and whether they are validation items of the models."""
    modality = next(iter(models.values())).entry.modality
    items = read_one(data, modality=modality, columns=columns)
    identity = fingerprint(items)
    trained = [name for name, model in models.items() if model.summary and model.summary.fingerprint == identity]
    if not trained:
        return items, False
    splits = {_split(model) for model in models.values()}
    (seed, share, groups), *others = splits
    if len(trained) < len(models) or others or share is None:
        what = f"{trained[0]} was trained on {items.origin}, and the models do not hold out the same part of it"
        raise DataError(what, fix=f"data that none was trained on: zoo runs {' '.join(models)} --on DATA")
    whole, _ = read(data, modality=modality, columns=replace(columns, groups=groups))
    task = next(iter(models.values())).task
    assert task is not None
    _, held = split.held_out(one_label_each(whole, task.name), share, stratify=KINDS[task.name].single_label, seed=seed)
    return whole.at(held), True


def _split(model: Model) -> tuple[int, float | None, str | None]:
    """Return seed, share and groups of the validation split; no share where it was not a share of all the data."""
    request = model.training.get("request", {})
    share, recipe = request.get("valid"), model.recipe
    is_share = isinstance(share, int | float) and share > 0 and request.get("test") is None
    return recipe.seed if recipe else 0, float(share) if is_share else None, request.get("groups")
