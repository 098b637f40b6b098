"""Regression: a number for each input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.tasks import metrics
from zoo.tasks.task import Prediction


@dataclass(frozen=True, slots=True)
class Regress:
    """Predict a number by a linear head and the squared error; `mean` and `std` are those of the training labels.

    The head learns standardised numbers, so that rates and penalties mean the same whatever the unit.
    """

    mean: float
    std: float
    labels: tuple[str, ...] = ("value",)
    name: str = "regress"
    best: str = "r2"
    reads: str = "pooled"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Take mean and standard deviation from the labels; DataError for what is no number, and for equal ones."""
        values = _numbers(labels)
        if values.min() == values.max():
            what = f"every label is {float(values[0]):g}: there is nothing to learn"
            raise DataError(what, fix="give examples whose labels differ")
        return cls(float(values.mean()), float(values.std(correction=0)))

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Rebuild the task from what `to_dict` returned."""
        return cls(saved["mean"], saved["std"])

    def head(self, dim: int) -> nn.Linear:
        """Make a linear layer with torch's own random weights."""
        return nn.Linear(dim, 1)

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return standardised numbers (N,) float32; raises DataError for what is no finite number."""
        return ((_numbers(labels) - self.mean) / self.std).float()

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error of outputs (N, 1), in units of the labels' variance."""
        return F.mse_loss(outputs[:, 0], targets)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return outputs

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return R², mean absolute and root mean squared error in the labels' own unit, and the mean loss."""
        error = (outputs[:, 0] - targets).double()
        return {
            "r2": metrics.r2(outputs[:, 0], targets),
            "mae": float(error.abs().mean()) * self.std,
            "rmse": float(error.square().mean().sqrt()) * self.std,
            "loss": float(error.square().mean()),
        }

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the numbers, in the labels' own unit."""
        return [Prediction(value * self.std + self.mean) for value in outputs[:, 0].tolist()]

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say how far the mean of the training labels is off."""
        return f"the mean is off by {float((_numbers(labels) - self.mean).abs().mean()):.3g}"

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Return the task itself; RecipeError for any way of balancing classes, of which there are none."""
        if how != "none":
            raise RecipeError(f'balance="{how}" is for classes, and regress has none', fix='balance="none"')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the name, the labels, and how numbers were standardised."""
        return {"name": self.name, "labels": list(self.labels), "mean": self.mean, "std": self.std}


def _numbers(labels: Sequence[Label]) -> Tensor:
    """Return labels as float64 (N,); raises DataError for what is no finite number."""
    for index, label in enumerate(labels):
        if isinstance(label, bool) or not isinstance(label, int | float) or not math.isfinite(label):
            raise DataError(f"label of example {index} is {label!r}, no finite number", fix="correct or remove it")
    return torch.tensor([float(label) for label in labels], dtype=torch.float64)
