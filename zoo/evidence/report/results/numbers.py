"""Regression: answers against true values, and the distribution of the errors, in the labels' own units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.seeding import generator
from zoo.evidence.report.facts import Part
from zoo.tasks import Task

MAX_POINTS = 600
"""Most points of a scatter plot; more are drawn at random."""
MAX_NUMBERS = 6
"""Most numbers with pictures of their own."""
BINS = 21


@dataclass(frozen=True, slots=True)
class NumberAnswers:
    """The answers for one number.

    points   (true value, answer), at most MAX_POINTS
    bins     (low end, high end, count) of the errors, answer minus truth
    bias     mean error; spread: its standard deviation; within: the error that 90 % of the answers stay below
    """

    name: str
    points: tuple[tuple[float, float], ...]
    bins: tuple[tuple[float, float, int], ...]
    bias: float
    spread: float
    within: float
    mae: float
    r2: float
    baseline: float


def number_answers(task: Task, part: Part) -> list[NumberAnswers]:
    """Return the answers for each number of a regression, [] for other tasks."""
    if task.name != "regress":
        return []
    mean, std = (torch.tensor(task.to_dict()[name]).double().flatten() for name in ("mean", "std"))
    truths, answers = (values.double() * std + mean for values in (part.targets, part.values))
    shown = torch.randperm(len(truths), generator=generator(0, "scatter"))[:MAX_POINTS].sort().values
    return [
        _answers(str(name), truths[:, k], answers[:, k], shown, float(mean[k]))
        for k, name in enumerate(task.labels[:MAX_NUMBERS])
    ]


def _answers(name: str, truths: Tensor, answers: Tensor, shown: Tensor, mean: float) -> NumberAnswers:
    errors = answers - truths
    points = tuple(zip(truths[shown].tolist(), answers[shown].tolist(), strict=True))
    variance = (truths - truths.mean()).square().sum()
    return NumberAnswers(
        name=name,
        points=points,
        bins=_histogram(errors),
        bias=float(errors.mean()),
        spread=float(errors.std(correction=0)),
        within=float(errors.abs().quantile(0.9)),
        mae=float(errors.abs().mean()),
        r2=float(1 - errors.square().sum() / variance) if variance > 0 else 0.0,
        baseline=float((truths - mean).abs().mean()),
    )


def _histogram(errors: Tensor) -> tuple[tuple[float, float, int], ...]:
    """Return bins of equal width, symmetric around 0."""
    reach = float(errors.abs().max()) or 1.0
    counts = torch.histc(errors, BINS, -reach, reach).long().tolist()
    width = 2 * reach / BINS
    return tuple((-reach + k * width, -reach + (k + 1) * width, count) for k, count in enumerate(counts))
