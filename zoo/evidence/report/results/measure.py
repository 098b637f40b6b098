"""Measure the held-out part of a report: its metrics, what they compare with, and the figures of its task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from zoo.evidence.report.facts import Facts, Part
from zoo.evidence.report.results import classes, confidence, mistakes, numbers, tokens
from zoo.evidence.report.results.classes import ClassScore, Confusion, LabelCurve
from zoo.evidence.report.results.compared import Compared
from zoo.evidence.report.results.confidence import Calibrated, Coverage
from zoo.evidence.report.results.learning_curve import LearningCurve, learning_curve
from zoo.evidence.report.results.mistakes import Mistakes
from zoo.evidence.report.results.numbers import NumberAnswers
from zoo.evidence.report.results.tokens import Surprise
from zoo.tasks.intervals import Interval, wilson
from zoo.tasks.task import LOWER_IS_BETTER

HEAD_FIRST = ("probe", "lp-ft", "gradual")
"""Strategies whose first evaluation is that of a head on the frozen backbone."""


@dataclass(frozen=True, slots=True)
class Score:
    """The main metric of a model, or of what it compares with: on `count` examples of a part, with its interval."""

    name: str
    part: str
    count: int
    value: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """What a model reaches on data that it was not trained on.

    part, count    the held-out part: "test", else "valid"; its examples (blocks of text)
    metric         name of the main metric; scores: of this model on each part, then of what it compares with
    metrics        all metrics on the held-out part; intervals: 95 %, by metric
    baseline       the score of a model that ignores its inputs, as text
    is_no_better   whether a model that ignores its inputs does as well
    selected       whether the weights were chosen on this very part, so that its figures are optimistic
    compared       scores of other trainings on the same data, where some are given
    """

    part: str
    count: int
    metric: str
    scores: tuple[Score, ...]
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    baseline: str
    is_no_better: bool
    selected: bool
    classes: tuple[ClassScore, ...] = ()
    confusion: Confusion | None = None
    calibrated: Calibrated | None = None
    coverage: Coverage | None = None
    label_curves: tuple[LabelCurve, ...] = ()
    numbers: tuple[NumberAnswers, ...] = ()
    surprise: Surprise | None = None
    curve: LearningCurve | None = None
    mistakes: Mistakes | None = None
    compared: tuple[Compared, ...] = ()

    @property
    def lower_is_better(self) -> bool:
        """Whether the main metric is an error."""
        return self.metric in LOWER_IS_BETTER


def measure(facts: Facts, beside: tuple[Compared, ...] = ()) -> Results | None:
    """Return the results on the test data, else the validation data, `beside` others; None without any."""
    part = facts.held_out
    if part is None:
        return None
    task = facts.task
    metric = task.main_metric if task.labelled else "perplexity"
    metrics = task.measure(part.values, part.targets)
    labels = part.examples.labels
    found = Results(
        part=part.name,
        count=len(part),
        metric=metric,
        scores=_scores(facts, metric),
        metrics=metrics,
        intervals=task.intervals(part.values, part.targets),
        baseline=task.baseline(labels) if task.labelled else "",
        is_no_better=len(set(map(str, labels))) > 1 and task.is_no_better_than_baseline(metrics, labels),
        selected=part.name == "valid" and len(facts.history) > 1,
    )
    sure = confidence.answers(task, part.values, part.targets)
    chosen, strategy = facts.training.get("step"), facts.recipe.strategy
    return replace(
        found,
        classes=tuple(classes.class_scores(facts, part)),
        confusion=classes.confusion(task, part),
        calibrated=confidence.calibrated(task, part.values, part.targets, facts.training),
        coverage=None if sure is None else confidence.coverage(*sure),
        label_curves=tuple(classes.label_curves(task, part)),
        numbers=tuple(numbers.number_answers(task, part)),
        surprise=tokens.surprise(facts, part),
        curve=learning_curve(facts.history, metric, chosen=chosen, strategy=strategy),
        mistakes=mistakes.mistakes(task, part),
        compared=beside,
    )


def _scores(facts: Facts, metric: str) -> tuple[Score, ...]:
    """Return the scores of the model on each part, and of what it compares with."""
    found = [_score(facts, metric, part) for part in (facts.parts.get(n) for n in ("test", "valid", "train")) if part]
    first = facts.history[0] if facts.history else {}
    value, valid = first.get(f"valid_{metric}"), facts.parts.get("valid")
    if value is not None and valid is not None and first.get("step") == 0 and len(facts.history) > 1:
        name = "frozen probe" if facts.recipe.strategy in HEAD_FIRST else "before training"
        interval = wilson(value * len(valid), len(valid)) if metric == "accuracy" else None
        found.append(Score(name, "valid", len(valid), value, interval))
    held = facts.held_out
    if held is not None and facts.task.single_label:
        count = Counter(held.examples.labels).most_common(1)[0][1]
        found.append(Score("majority class", held.name, len(held), count / len(held)))
    return tuple(found)


def _score(facts: Facts, metric: str, part: Part) -> Score:
    value = facts.task.measure(part.values, part.targets)[metric]
    interval = facts.task.intervals(part.values, part.targets).get(metric)
    return Score("this model", part.name, len(part), value, interval)
