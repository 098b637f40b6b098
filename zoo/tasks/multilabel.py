"""Multi-label classification: any number of K labels for each input."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.tasks import classes, metrics
from zoo.tasks.intervals import Interval, bootstrap
from zoo.tasks.task import Mistake, Prediction, Task, is_at_most

SEPARATORS = re.compile(r"\s*[|;,]\s*")


@dataclass(frozen=True, slots=True)
class Multilabel(Task):
    """Linear head and binary cross-entropy for each of K labels.

    `weights` (K,) are the weights of positive examples in the loss. The labels of an example are a tuple, list or set,
    or a text with "|", ";" or "," between them; an example may have none.
    """

    labels: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    name: ClassVar[str] = "multilabel"
    main_metric: ClassVar[str] = "map"
    item_metric: ClassVar[str] = "example_f1"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Collect the labels, sorted, from those of the examples; DataError for an invalid label, or for none."""
        known = classes.ordered(_rows(labels))
        if not known:
            raise DataError("not one example has a label", fix="give lists of labels, such as ['red', 'round']")
        return cls(known)

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        return cls(tuple(saved["labels"]))

    def head(self, dim: int) -> nn.Linear:
        """Return a linear layer with torch's default initialisation."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return 0 or 1 for each label, (N, K) float32; raises DataError for a label that the model does not know."""
        rows = _rows(labels)
        flat = classes.indices([label for row in rows for label in row], self.labels)
        owners = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows], dtype=torch.long))
        found = torch.zeros(len(rows), len(self.labels))
        found[owners, torch.tensor(flat, dtype=torch.long)] = 1
        return found

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean binary cross-entropy in nats, class-balanced if the task is."""
        weights = None if self.weights is None else outputs.new_tensor(self.weights)
        targets = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights)

    def loss_curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product of the Hessian of the loss, which is diagonal, with directions (M, K)."""
        likely = outputs.sigmoid()
        diagonal = likely * (1 - likely) / outputs.numel()
        if self.weights is not None:
            diagonal = diagonal * (1 + (outputs.new_tensor(self.weights) - 1) * targets)
        return lambda directions: diagonal * directions

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return mean average precision, macro-F1 and micro-F1 at probability 1/2, and the mean loss in nats.

        The first is a mean over the labels that occur, the second over those that occur in outputs or targets.
        """
        hits, there, guessed = _counts(outputs, targets)
        return {
            "map": float(metrics.average_precision(outputs, targets.double()).sum() / (there > 0).sum().clamp(min=1)),
            "macro_f1": metrics.macro_f1(hits, there, guessed),
            "micro_f1": float(metrics.f1(hits.sum(), there.sum(), guessed.sum())),
            "loss": float(F.binary_cross_entropy_with_logits(outputs, targets)),
        }

    def per_class(self, outputs: Tensor, targets: Tensor) -> dict[Label, dict[str, float]]:
        """Return precision, recall, F1 and support of each label, at probability 1/2."""
        return metrics.by_label(self.labels, *_counts(outputs, targets))

    def intervals(self, outputs: Tensor, targets: Tensor) -> dict[str, Interval]:
        """Return the bootstrap interval of the mean average precision."""
        truths = targets.double()
        ranked = metrics.ranking(outputs, truths)

        def score(weights: Tensor) -> dict[str, Tensor]:
            occurs = (weights @ truths > 0).sum(1).clamp(min=1)
            return {"map": ranked(weights).sum(1) / occurs}

        return bootstrap(score, *targets.shape)

    def item_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the F1 score of each example over its labels (N,), at probability 1/2; 1 where it rightly has none."""
        answers, truths = outputs.sigmoid() >= 0.5, targets > 0.5
        hits, both = (answers & truths).sum(1).double(), (answers.sum(1) + truths.sum(1)).double()
        return torch.where(both == 0, 1.0, 2 * hits / both.clamp(min=1))

    def mistakes(self, inputs: Sequence[Any], outputs: Tensor, targets: Tensor) -> list[Mistake]:
        """Return the examples with a label too few or too many at probability 1/2, highest mean loss first."""
        answers, truths = outputs.sigmoid() >= 0.5, targets > 0.5
        sure = torch.where(answers, outputs, -outputs).sigmoid().masked_fill(answers == truths, 0).amax(1)
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(1)
        wrong = [i for i in losses.argsort(descending=True, stable=True).tolist() if sure[i] > 0]

        def named(row: Tensor) -> tuple[Any, ...]:
            return tuple(self.labels[k] for k in row.nonzero()[:, 0].tolist())

        return [
            Mistake(i, inputs[i], named(truths[i]), named(answers[i]), float(sure[i]), float(losses[i])) for i in wrong
        ]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return the probability of each label (N, K)."""
        return outputs.sigmoid()

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the labels with probability 1/2 or more (possibly none), and the `top` likeliest."""
        probabilities = outputs.sigmoid()
        ranked, order = probabilities.topk(min(top, len(self.labels)))
        answers = []
        for row, values, indices in zip(probabilities.tolist(), ranked.tolist(), order.tolist(), strict=True):
            held = tuple(label for label, p in zip(self.labels, row, strict=True) if p >= 0.5)
            likeliest = tuple((self.labels[i], p) for i, p in zip(indices, values, strict=True))
            answers.append(Prediction(held, None, likeliest))
        return answers

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the mean average precision of random outputs: the mean frequency of the labels that occur."""
        return f"chance map {self._chance(labels):.3f}"

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether the mean average precision is at most that of random outputs."""
        return is_at_most(found["map"], self._chance(labels))

    def _chance(self, labels: Sequence[Label]) -> float:
        shares = self.targets(labels).mean(0)
        return float(shares.sum() / (shares > 0).sum().clamp(min=1))

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Weight the positives of each label by negatives / positives; RecipeError for other ways.

        A label that is always, or never, positive keeps weight 1.
        """
        return self.balanced_by_counts(how, targets.sum(0), len(targets))

    def balanced_by_counts(self, how: str, counts: Tensor, examples: int) -> Self:
        """Return the task as `balanced` does, from the number of positives of each label (K,)."""
        if how == "none":
            return self
        if how != "weights":
            raise RecipeError(f'class_balance="{how}" is not available for multilabel', fix='class_balance="weights"')
        ratio = (examples - counts) / counts
        return replace(self, weights=tuple(torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0).tolist()))

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the labels, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}


def _counts(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return true positives, support and number of predictions of each label, (K,) each."""
    truths, guesses = targets.double(), (outputs.sigmoid() >= 0.5).double()
    return (truths * guesses).sum(0), truths.sum(0), guesses.sum(0)


def label_sets(labels: Sequence[Label]) -> list[tuple[Any, ...]]:
    """Return the labels of each example as a tuple."""
    return [tuple(row) for row in _rows(labels)]


def _rows(labels: Sequence[Label]) -> list[list[Any]]:
    """Return the labels of each example as a list; an empty cell of a table (None) is an example without any."""
    return [_row(label, index) for index, label in enumerate(labels)]


def _row(label: Any, index: int) -> list[Any]:
    if isinstance(label, str):
        return [part for part in SEPARATORS.split(label.strip()) if part]
    if isinstance(label, tuple | list | set | frozenset):
        return list(label)
    if label is None:
        return []
    raise DataError(
        f"label of example {index} is {label!r} ({type(label).__name__}), not a list of labels",
        fix='give lists, as in ["red", "round"], or texts, as in "red|round"',
    )
