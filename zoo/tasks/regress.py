"""Regression: a number, or several, for each input."""

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

SINGLE = ("value",)
"""The name of a number without one."""


@dataclass(frozen=True, slots=True)
class Regress(Task):
    """Linear head and squared error for K numbers; `mean` and `std` (K,) are those of the training labels.

    A label is a number, a sequence of K numbers, or a mapping of their names to them. The head predicts standardised
    numbers, so learning rates and penalties do not depend on the units, and all K count equally.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] = SINGLE
    name: ClassVar[str] = "regress"
    main_metric: ClassVar[str] = "r2"
    item_metric: ClassVar[str] = "mae"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Compute means and standard deviations; DataError for non-numbers, and if all of one name are equal."""
        names = _names(labels[0])
        values = _numbers(labels, names)
        means, stds = values.mean(0).tolist(), values.std(0, correction=0).tolist()
        for name, column, mean, std in zip(names, values.unbind(1), means, stds, strict=True):
            of_name = "" if names == SINGLE else f" of {name}"
            low, high = float(column.min()), float(column.max())
            if low == high:
                what = f"every label{of_name} is {low:g}: there is nothing to learn"
                raise DataError(what, fix="give examples whose labels differ" + (of_name and f", or leave out {name}"))
            if not (math.isfinite(mean) and 0 < std < math.inf):
                what = f"labels{of_name} from {low:g} to {high:g} exceed the range of 64-bit arithmetic"
                raise DataError(what, fix="rescale them, or train on their logarithms")
        return cls(tuple(means), tuple(stds), names)

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`; ValueError for scales that are none."""
        means, stds = saved["mean"], saved["std"]
        if not isinstance(means, list) and not isinstance(stds, list):  # one number, in folders of format 1 and 2
            means, stds = [means], [stds]
        if not (isinstance(means, list) and isinstance(stds, list)):
            raise ValueError("mean and std are no lists of numbers")
        names, scales = tuple(saved["labels"]), list(zip(means, stds, strict=True))
        if len(scales) != len(names) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{len(names)} names and {len(scales)} scales do not fit together")
        means, stds = (tuple(map(float, values)) for values in zip(*scales, strict=True))
        if not all(map(math.isfinite, means)) or not all(0 < std < math.inf for std in stds):
            raise ValueError(f"mean {means} and std {stds} are no scale")
        return cls(means, stds, names)

    def head(self, dim: int) -> nn.Linear:
        """Return a linear layer with torch's default initialisation."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return standardised numbers (N, K) float32; raises DataError for a label without K finite numbers."""
        values = _numbers(labels, self.labels)
        targets = ((values - values.new_tensor(self.mean)) / values.new_tensor(self.std)).float()
        for index, place in (~targets.isfinite()).nonzero()[:1].tolist():
            known = f"{self.mean[place]:g} ± {self.std[place]:g}"
            what = f"label of example {index} is {labels[index]!r:.60}; those of training are {known}"
            raise DataError(what, fix="correct or remove it")
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error of outputs (N, K), in units of the labels' variances."""
        return F.mse_loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return R², mean absolute and root mean squared error in the labels' own units, and the mean loss.

        Of several numbers each is the mean over them, as scikit-learn's "uniform_average".
        """
        each = self._each(outputs, targets)
        found = {name: math.fsum(scores[name] for scores in each) / len(each) for name in ("r2", "mae", "rmse")}
        return found | {"loss": float((outputs - targets).double().square().mean())}

    def per_class(self, outputs: Tensor, targets: Tensor) -> dict[Label, dict[str, float]]:
        """Return R², mean absolute and root mean squared error of each number by its name; {} for a single one."""
        each = self._each(outputs, targets)
        return dict(zip(self.labels, each, strict=True)) if len(each) > 1 else {}

    def _each(self, outputs: Tensor, targets: Tensor) -> list[dict[str, float]]:
        errors = (outputs - targets).double()  # (N, K)
        return [
            {
                "r2": metrics.r2(outputs[:, place], targets[:, place]),
                "mae": float(errors[:, place].abs().mean()) * std,
                "rmse": float(errors[:, place].square().mean().sqrt()) * std,
            }
            for place, std in enumerate(self.std)
        ]

    def intervals(self, outputs: Tensor, targets: Tensor) -> dict[str, Interval]:
        """Return the bootstrap intervals of R² and of the mean absolute error, means over the numbers."""
        errors, truths = (outputs - targets).double(), targets.double() - targets.double().mean(0)
        table = torch.stack([errors.abs(), errors.square(), truths, truths.square()], 1)  # (N, 4, K)
        std = table.new_tensor(self.std)

        def score(weights: Tensor) -> dict[str, Tensor]:
            sums = weights @ table.flatten(1) / len(table)  # (R, 4 K)
            error, squared, mean, square = sums.unflatten(1, table.shape[1:]).unbind(1)
            variance = square - mean.square()
            constant = variance <= 1e-12 * square  # R² is undefined where a sample has one value
            r2 = torch.where(constant, 0, 1 - squared / variance)
            return {"r2": r2.mean(1), "mae": (error * std).mean(1)}

        return bootstrap(score, len(table), table[0].numel())

    def item_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the absolute error of each example (N,), in the labels' own units; of several numbers the mean."""
        errors = (outputs - targets).double().abs()  # (N, K)
        return (errors * errors.new_tensor(self.std)).mean(1)

    def mistakes(self, inputs: Sequence[Any], outputs: Tensor, targets: Tensor) -> list[Mistake]:
        """Return the examples by their absolute error in the labels' own unit, largest first.

        Of several numbers, which may have different units, the error is the mean in standard deviations of training.
        """
        answers, truths = self._in_units(outputs), self._in_units(targets)
        errors = (answers - truths).abs()
        several = len(self.labels) > 1
        losses = (errors / errors.new_tensor(self.std)).mean(1) if several else errors[:, 0]
        order = [i for i in losses.argsort(descending=True, stable=True).tolist() if losses[i] != 0]
        rows = [(inputs[i], self._answer(truths[i]), self._answer(answers[i])) for i in order]
        return [Mistake(i, *row, None, float(losses[i])) for i, row in zip(order, rows, strict=True)]

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the numbers in the labels' own units: a float, or a tuple of K in the order of `labels`."""
        return [Prediction(self._answer(row)) for row in self._in_units(outputs)]

    def _in_units(self, values: Tensor) -> Tensor:
        values = values.double().cpu()
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean)

    def _answer(self, row: Tensor) -> Any:
        return tuple(row.tolist()) if len(self.labels) > 1 else float(row[0])

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the mean absolute error of predicting the training means."""
        values = _numbers(labels, self.labels)
        what = "the means are" if len(self.labels) > 1 else "the mean is"
        return f"{what} off by {float((values - values.new_tensor(self.mean)).abs().mean()):.3g}"

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether R² is at most that of predicting the training means."""
        targets = self.targets(labels)
        return is_at_most(found["r2"], self.measure(torch.zeros_like(targets), targets)["r2"])

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Return the task itself; RecipeError for any balancing: there are no classes."""
        if how != "none":
            raise RecipeError(f'class_balance="{how}" needs classes, and regress has none', fix='class_balance="none"')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name of the task, the names of the numbers, and how they were standardised."""
        return {"name": self.name, "labels": list(self.labels), "mean": list(self.mean), "std": list(self.std)}


def by_name(labels: Sequence[Label]) -> list[Label]:
    """Return labels of several numbers as mappings of their names; others unchanged."""
    return [dict(zip(_names(label), label, strict=True)) if isinstance(label, tuple) else label for label in labels]


def _names(label: Label) -> tuple[str, ...]:
    """Return the names of the numbers of a label: those of a mapping, else value, or value_0, value_1, …"""
    if isinstance(label, Mapping):
        return tuple(map(str, label))
    count = len(label) if isinstance(label, tuple | list) else 1
    return SINGLE if count == 1 else tuple(f"value_{place}" for place in range(count))


def _numbers(labels: Sequence[Label], names: Sequence[str]) -> Tensor:
    """Return labels as float64 (N, K); raises DataError for one without a finite number for each name."""
    rows = []
    for index, label in enumerate(labels):
        if isinstance(label, Mapping) and set(map(str, label)) != set(names):
            what = f"label of example {index} has the numbers {', '.join(map(str, label))}, not {', '.join(names)}"
            raise DataError(what, fix=f"give the same numbers in all data: --label {','.join(names)}")
        several = isinstance(label, tuple | list)
        row = [label[name] for name in names] if isinstance(label, Mapping) else list(label) if several else [label]
        numbers = list(map(_number, row))
        if len(numbers) != len(names) or not all(map(math.isfinite, numbers)):
            expected = "no finite number" if len(names) == 1 else f"not {len(names)} finite numbers"
            what = f"label of example {index} is {reprlib.repr(label)}, {expected}"
            raise DataError(what, fix="correct or remove it")
        rows.append(numbers)
    return torch.tensor(rows, dtype=torch.float64)


def _number(value: object) -> float:
    """Return a number as float; NaN for what is none."""
    if isinstance(value, bool | str):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
