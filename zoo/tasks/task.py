"""What every task provides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch import Tensor, nn

from zoo.data.examples import Label

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mae", "rmse"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer for one input: its label, and where the task has them its probability and the `top` likeliest labels.

    The label is a class, a tuple of labels (multilabel), a number (regress), a tag for each word (tag) or a text
    (language models).
    """

    label: Any
    probability: float | None = None
    top: tuple[tuple[Any, float], ...] = ()


class Task(Protocol):
    """The head, targets, loss, metrics and decoding of a task; `best` is the metric that chooses between models.

    A task that reads "pooled" features has a row of outputs for each example, (N, K); one that reads "tokens" a row
    for each word or token that counts, (M, K), and what is measured and decoded is a list of one tensor an example.
    """

    @property
    def name(self) -> str:
        """How the task is called: "classify", …"""
        ...

    @property
    def best(self) -> str:
        """The metric by which models are compared."""
        ...

    @property
    def reads(self) -> str:
        """Which features the head is put on: "pooled" or "tokens"."""
        ...

    @property
    def labels(self) -> tuple[Any, ...]:
        """What the head's outputs stand for, in their order."""
        ...

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Learn the task from the labels of the training examples; DataError where they do not suit it."""
        ...

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Rebuild the task from what `to_dict` returned."""
        ...

    def head(self, dim: int) -> nn.Module:
        """Make a new head from features (M, D) to outputs (M, K)."""
        ...

    def targets(self, labels: Sequence[Label]) -> Any:
        """Encode labels for the loss: a tensor (N, …), or a list of one tensor (words,) an example."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of outputs (M, K) against targets (M, …), a scalar."""
        ...

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what `measure` needs of a batch: the outputs (M, K), or less of them."""
        ...

    def measure(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Return the metrics of all outputs against all targets."""
        ...

    def decode(self, outputs: Any, top: int) -> list[Prediction]:
        """Turn outputs into N answers."""
        ...

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say in a few words what a model that learnt nothing would score on these labels."""
        ...

    def balanced(self, how: str, targets: Any) -> Self:
        """Return the task with a loss that makes up for rare classes: how = "none", "weights", "logits", "sampler"."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved model keeps: `name`, `labels` and what else `restore` needs."""
        ...


def score(task: Task, metrics: Mapping[str, float]) -> float:
    """Return the task's chosen metric, turned round where lower is better."""
    value = metrics[task.best]
    return -value if task.best in LOWER_IS_BETTER else value
