"""Scores of each class, the confusion matrix, and precision against recall of each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.evidence.report.facts import Facts, Part
from zoo.tasks import Task, metrics
from zoo.tasks.intervals import Interval, wilson

MAX_CLASSES = 40
"""Most classes of a confusion matrix; of more, those with the most mistakes are shown."""
MAX_CURVES = 12
"""Most labels with a curve of their own."""
POINTS = 60
"""Most points of such a curve."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Scores of a class (label, kind of entity) on the held-out part, and its number of training examples.

    recall_interval is Wilson's 95 % interval; average_precision is that of a label of a multi-label model.
    """

    label: Any
    precision: float
    recall: float
    recall_interval: Interval
    f1: float
    support: int
    trained: int | None
    average_precision: float | None = None


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts[i][j]: examples (words) of class labels[i] that are taken for labels[j]; `hidden` classes are left out."""

    labels: tuple[Any, ...]
    counts: tuple[tuple[int, ...], ...]
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class LabelCurve:
    """Precision by recall of one label, as the threshold falls; `share` of the examples have it: chance."""

    label: Any
    points: tuple[tuple[float, float], ...]
    average_precision: float
    share: float


def class_scores(facts: Facts, part: Part) -> list[ClassScore]:
    """Return the scores of each class in the order of the task's labels; [] for tasks without classes."""
    task = facts.task
    rows = task.per_class(part.values, part.targets) if task.name != "regress" else {}
    trained = _trained(facts)
    areas: dict[Any, float] = {}
    if task.name == "multilabel":
        found = metrics.average_precision(part.values, part.targets.double())
        areas = dict(zip(task.labels, found.tolist(), strict=True))
    scores = []
    for label, row in rows.items():
        support = int(row["support"])
        interval = wilson(round(row["recall"] * support), support) if support else (0.0, 1.0)
        known = trained.get(label, 0) if trained is not None else None
        values = row["precision"], row["recall"], interval, row["f1"], support, known
        scores.append(ClassScore(label, *values, areas.get(label) if support else None))
    return scores


def _trained(facts: Facts) -> Counter[Any] | None:
    """Return the number of training examples (words) of each class; None without them, and for entities."""
    part, task = facts.parts.get("train"), facts.task
    if part is None or task.name not in ("classify", "multilabel", "tag"):
        return None
    labels = part.whole.examples.labels
    if task.name == "classify":
        return Counter(labels)
    if task.name == "tag" and metrics.marks_entities([str(tag) for tag in task.labels]):
        return Counter(kind for tags in labels for kind, _, _ in metrics.entities([str(tag) for tag in tags]))
    return Counter(label for several in labels for label in several)


def confusion(task: Task, part: Part) -> Confusion | None:
    """Return the confusion matrix of single-label answers, None for other tasks."""
    if task.name not in ("classify", "tag"):
        return None
    counts = Counter({(truth, guess): n for truth, guess, n in task.confusion(part.values, part.targets)})
    kept = _most_confused(task.labels, counts)
    matrix = tuple(tuple(counts[truth, guess] for guess in kept) for truth in kept)
    return Confusion(tuple(kept), matrix, len(task.labels) - len(kept))


def _most_confused(labels: Sequence[Any], counts: Counter[tuple[Any, Any]]) -> list[Any]:
    """Return at most MAX_CLASSES labels, in order: those that most mistakes are of."""
    if len(labels) <= MAX_CLASSES:
        return list(labels)
    wrong: Counter[Any] = Counter()
    for (truth, guess), count in counts.items():
        if truth != guess:
            wrong.update({truth: count, guess: count})
    kept = {label for label, _ in wrong.most_common(MAX_CLASSES)}
    return [label for label in labels if label in kept]


def label_curves(task: Task, part: Part) -> list[LabelCurve]:
    """Return precision by recall of the labels of a multi-label model, lowest average precision first."""
    if task.name != "multilabel":
        return []
    truths = part.targets > 0.5
    areas = metrics.average_precision(part.values, part.targets.double()).tolist()
    found = [
        LabelCurve(
            label, _precision_by_recall(part.values[:, k], truths[:, k]), areas[k], float(truths[:, k].double().mean())
        )
        for k, label in enumerate(task.labels)
        if truths[:, k].any()
    ]
    return sorted(found, key=lambda curve: curve.average_precision)[:MAX_CURVES]


def _precision_by_recall(scores: Tensor, truths: Tensor) -> tuple[tuple[float, float], ...]:
    """Return (recall, precision) at each distinct score (N,), at most POINTS of them."""
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order], truths[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])]).nonzero()[:, 0]  # of equal scores
    recall, precision = hits[last] / hits[-1], hits[last] / (last + 1).double()
    thinned = torch.linspace(0, len(last) - 1, min(POINTS, len(last))).round().long()
    return tuple(zip(recall[thinned].tolist(), precision[thinned].tolist(), strict=True))
