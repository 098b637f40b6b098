"""Regression: a number for each input."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.tasks import metrics
from zoo.tasks.intervals import Interval, bootstrap
from zoo.tasks.task import Mistake, Prediction, Task, is_at_most


@dataclass(frozen=True, slots=True)
class Regress(Task):
    """Linear head and squared error; `mean` and `std` are those of the training labels.

    The head predicts standardised numbers, so learning rates and penalties do not depend on the unit.
    """

    mean: float
    std: float
    labels: tuple[str, ...] = ("value",)
    name: ClassVar[str] = "regress"
    main_metric: ClassVar[str] = "r2"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Compute mean and standard deviation of the labels; DataError for non-numbers, and if all are equal."""
        values = _numbers(labels)
        if values.min() == values.max():
            what = f"every label is {float(values[0]):g}: there is nothing to learn"
            raise DataError(what, fix="give examples whose labels differ")
        mean, std = float(values.mean()), float(values.std(correction=0))
        if not (math.isfinite(mean) and 0 < std < math.inf):
            what = (
                f"labels from {float(values.min()):g} to {float(values.max()):g} exceed the range of 64-bit arithmetic"
            )
            raise DataError(what, fix="rescale them, or train on their logarithms")
        return cls(mean, std)

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        mean, std = float(saved["mean"]), float(saved["std"])
        if not math.isfinite(mean) or not 0 < std < math.inf:
            raise ValueError(f"mean {mean} and std {std} are no scale")
        return cls(mean, std)

    def head(self, dim: int) -> nn.Linear:
        """Return a linear layer with torch's default initialisation."""
        return nn.Linear(dim, 1)

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return standardised numbers (N,) float32; raises DataError for a label that is not a finite number."""
        targets = ((_numbers(labels) - self.mean) / self.std).float()
        for index in (~targets.isfinite()).nonzero()[:1, 0].tolist():
            what = (
                f"label of example {index} is {labels[index]!r:.60}; those of training are {self.mean:g} ± {self.std:g}"
            )
            raise DataError(what, fix="correct or remove it")
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error of outputs (N, 1), in units of the labels' variance."""
        return F.mse_loss(outputs[:, 0], targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return R², mean absolute and root mean squared error in the labels' own unit, and the mean loss."""
        error = (outputs[:, 0] - targets).double()
        return {
            "r2": metrics.r2(outputs[:, 0], targets),
            "mae": float(error.abs().mean()) * self.std,
            "rmse": float(error.square().mean().sqrt()) * self.std,
            "loss": float(error.square().mean()),
        }

    def intervals(self, outputs: Tensor, targets: Tensor) -> dict[str, Interval]:
        """Return the bootstrap intervals of R² and of the mean absolute error."""
        errors, truths = (outputs[:, 0] - targets).double(), targets.double() - targets.double().mean()
        table = torch.stack([errors.abs(), errors.square(), truths, truths.square()], 1)  # (N, 4)

        def score(weights: Tensor) -> dict[str, Tensor]:
            error, squared, mean, square = (weights @ table / len(table)).unbind(1)
            variance = square - mean.square()
            constant = variance <= 1e-12 * square  # R² is undefined where a sample has one value
            return {"r2": torch.where(constant, 0, 1 - squared / variance), "mae": error * self.std}

        return bootstrap(score, *table.shape)

    def mistakes(self, inputs: Sequence[Any], outputs: Tensor, targets: Tensor) -> list[Mistake]:
        """Return the examples by their absolute error in the labels' own unit, largest first."""
        answers, truths = (part.double() * self.std + self.mean for part in (outputs[:, 0], targets))
        errors = (answers - truths).abs()
        order = [i for i in errors.argsort(descending=True, stable=True).tolist() if errors[i] != 0]
        return [Mistake(i, inputs[i], float(truths[i]), float(answers[i]), None, float(errors[i])) for i in order]

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the numbers, in the labels' own unit."""
        return [Prediction(value * self.std + self.mean) for value in outputs[:, 0].tolist()]

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the mean absolute error of predicting the training mean."""
        return f"the mean is off by {float((_numbers(labels) - self.mean).abs().mean()):.3g}"

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether R² is at most that of predicting the training mean."""
        targets = self.targets(labels)
        return is_at_most(found["r2"], metrics.r2(torch.zeros_like(targets), targets))

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Return the task itself; RecipeError for any balancing: there are no classes."""
        if how != "none":
            raise RecipeError(f'class_balance="{how}" needs classes, and regress has none', fix='class_balance="none"')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name, the labels, and how numbers were standardised."""
        return {"name": self.name, "labels": list(self.labels), "mean": self.mean, "std": self.std}


def _numbers(labels: Sequence[Label]) -> Tensor:
    """Return labels as float64 (N,); raises DataError for a label that is not a finite number."""
    values = []
    for index, label in enumerate(labels):
        try:
            values.append(math.nan if isinstance(label, bool | str) else float(label))
        except (TypeError, ValueError, OverflowError):
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise DataError(
                f"label of example {index} is {reprlib.repr(label)}, no finite number", fix="correct or remove it"
            )
    return torch.tensor(values, dtype=torch.float64)
