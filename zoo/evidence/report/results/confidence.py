"""How sure a model is, against how often it is right: reliability, and accuracy by coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.finetune.training.calibration import BINS as ERROR_BINS
from zoo.tasks import Task
from zoo.tasks.intervals import Interval, wilson

BINS = 10
"""Bins of the reliability diagram, of equal width."""
ROUNDS = 500
"""Resamples of the interval of the calibration error."""
REFERRED = 0.1
"""Share of the answers that goes to a person, the least sure ones."""
POINTS = 100
"""Points of the coverage curve."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence: their mean probability, the share of right ones, its 95 % interval."""

    probability: float
    accuracy: float
    interval: Interval
    count: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of answers by their probability, and the expected calibration error (Guo et al. 2017, 1706.04599).

    interval is its 95 % interval by the basic bootstrap, which takes off what few answers a bin add to the error.
    """

    bins: tuple[Bin, ...]
    error: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Reliability of the saved model, and of its outputs before temperature scaling, if they were scaled.

    cross_fitted  expected calibration errors before and after on the validation data, each example scaled by the
                  temperature of the others; None where the run did not calibrate
    """

    after: Reliability
    before: Reliability | None
    temperature: float
    cross_fitted: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Accuracy of the surest answers, by the share of answers that are taken.

    points    (share taken, accuracy of these), from few to all
    accuracy  of those that are left when the least sure `REFERRED` go to a person; its interval
    caught    wrong answers among those that go to a person, of all `wrong`
    referred  number of answers that go to a person
    below     the probability below which an answer goes to a person
    count     of all answers
    """

    points: tuple[tuple[float, float], ...]
    accuracy: float
    interval: Interval
    caught: int
    wrong: int
    referred: int
    below: float
    count: int


def answers(task: Task, values: Any, targets: Any) -> tuple[Tensor, Tensor] | None:
    """Return confidence (M,) and correctness (M,) of single-label answers, of a tagger those of all words."""
    if task.name not in ("classify", "tag"):
        return None
    rows, truths = (torch.cat(list(values)), torch.cat(list(targets))) if task.name == "tag" else (values, targets)
    sure, guesses = rows.double().softmax(1).max(1)
    return sure, guesses == truths


def reliability(sure: Tensor, right: Tensor) -> Reliability:
    """Return the reliability of answers (M,) from their probabilities in [0, 1] and whether they are right."""
    found = []
    place = ((sure * BINS).ceil().long() - 1).clamp(0, BINS - 1)
    for number in range(BINS):
        inside = place == number
        count, hits = int(inside.sum()), int(right[inside].sum())
        if count:
            found.append(Bin(float(sure[inside].mean()), hits / count, wilson(hits, count), count))
    low, high = np.quantile(_resampled_errors(sure, right), [0.025, 0.975]).tolist()
    error = calibration_error(sure, right)
    return Reliability(tuple(found), error, (max(0.0, 2 * error - high), max(0.0, 2 * error - low)))


def _resampled_errors(sure: Tensor, right: Tensor) -> NDArray[np.float64]:
    """Return the expected calibration error of ROUNDS resamples of answers (M,), weighted by Poisson numbers."""
    place = ((sure * ERROR_BINS).ceil().long() - 1).clamp(0, ERROR_BINS - 1)
    gaps = torch.nn.functional.one_hot(place, ERROR_BINS).double() * (right.double() - sure.double())[:, None]
    chance = np.random.default_rng(0)
    found = np.empty(ROUNDS)
    for number in range(ROUNDS):
        weights = chance.poisson(1.0, len(sure)).astype(np.float64)
        found[number] = np.abs(weights @ gaps.numpy()).sum() / max(1.0, weights.sum())
    return found


def calibration_error(sure: Tensor, right: Tensor) -> float:
    """Return the expected calibration error in [0, 1] of probabilities (M,): 15 bins of equal width."""
    place = ((sure * ERROR_BINS).ceil().long() - 1).clamp(0, ERROR_BINS - 1)
    gaps = torch.zeros(ERROR_BINS, dtype=torch.float64).index_add_(0, place, right.double() - sure.double())
    return float(gaps.abs().sum() / max(1, len(sure)))


def calibrated(task: Task, values: Any, targets: Any, training: Mapping[str, Any]) -> Calibrated | None:
    """Return the reliability before and after the run's temperature scaling; None for tasks without probabilities."""
    known = training.get("calibration") or {}
    temperature = float(known.get("temperature", 1.0))
    if task.name == "multilabel":
        return Calibrated(reliability(*_decisions(values, targets)), None, 1.0, None)
    found = answers(task, values, targets)
    if found is None:
        return None
    unscaled = answers(task, values * temperature, targets) if task.name == "classify" and temperature != 1 else None
    cross_fitted = (float(known["before"]), float(known["after"])) if known else None
    before = None if unscaled is None else reliability(*unscaled)
    return Calibrated(reliability(*found), before, temperature, cross_fitted)


def _decisions(values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return probability and correctness of each yes or no of a multi-label model, (N * K,)."""
    shares = values.double().sigmoid().flatten()
    return torch.maximum(shares, 1 - shares), (shares >= 0.5) == (targets.flatten() > 0.5)


def coverage(sure: Tensor, right: Tensor) -> Coverage | None:
    """Return accuracy by coverage of answers (M,), surest first; None for fewer than 10 answers."""
    count = len(sure)
    referred = round(count * REFERRED)
    if not referred:
        return None
    order = sure.argsort(descending=True, stable=True)
    hits = right[order].double().cumsum(0)
    steps = sorted({max(1, round(count * step / POINTS)) for step in range(1, POINTS + 1)})
    points = tuple((taken / count, float(hits[taken - 1]) / taken) for taken in steps)
    kept = count - referred
    left = int(hits[kept - 1])
    wrong = count - int(hits[-1])
    threshold = float(sure[order[kept - 1]])
    return Coverage(points, left / kept, wilson(left, kept), wrong - (kept - left), wrong, referred, threshold, count)
