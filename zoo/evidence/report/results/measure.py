"""Measure the held-out part of a report: its metrics, and the figures of its task."""

from __future__ import annotations

from dataclasses import dataclass

from zoo.evidence.report.facts import Facts
from zoo.tasks.intervals import Interval


@dataclass(frozen=True, slots=True)
class Results:
    """Metrics of the held-out part with their 95 % intervals."""

    part: str
    count: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    baseline: str


def measure(facts: Facts) -> Results | None:
    """Return the results on the test data, else the validation data; None without any."""
    part = facts.held_out
    if part is None:
        return None
    task = facts.task
    metrics = task.measure(part.values, part.targets)
    intervals = task.intervals(part.values, part.targets)
    return Results(part.name, len(part), metrics, intervals, task.baseline(part.examples.labels))
