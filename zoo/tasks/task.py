"""What every task provides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from zoo.data.examples import Label


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer for one input: the likeliest label, its probability, and the `top` likeliest with theirs."""

    label: Label
    probability: float
    top: tuple[tuple[Label, float], ...]


class Task(Protocol):
    """The head, targets, loss, metrics and decoding of a task; `best` is the metric that chooses (higher: better)."""

    @property
    def name(self) -> str:
        """How the task is called: "classify", …"""
        ...

    @property
    def best(self) -> str:
        """The metric by which models are compared; higher is better."""
        ...

    @property
    def labels(self) -> tuple[Label, ...]:
        """What the head's outputs stand for, in their order."""
        ...

    def head(self, dim: int) -> nn.Module:
        """Make a new head from features (N, D) to outputs (N, K)."""
        ...

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Encode labels for the loss: (N,) or (N, K)."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the metrics of all outputs (N, K) against all targets."""
        ...

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Turn outputs (N, K) into N answers."""
        ...

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say in a few words what a model that learnt nothing would score on these labels."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved model keeps: `name` and `labels`."""
        ...
