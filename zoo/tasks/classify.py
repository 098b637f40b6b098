"""Classification: one of K classes for each input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.tasks import classes, metrics
from zoo.tasks.task import Prediction


@dataclass(frozen=True, slots=True)
class Classify:
    """Tell K classes apart by a linear head and the cross-entropy.

    `weights` (K,) weigh the classes in the loss, `prior` (K,) are added to the outputs in it.
    """

    labels: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    prior: tuple[float, ...] | None = None
    name: str = "classify"
    best: str = "accuracy"
    reads: str = "pooled"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Take the classes, in order, from the labels of the examples; DataError for what is no class."""
        return cls(classes.ordered((label,) for label in labels))

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Rebuild the task from what `to_dict` returned."""
        return cls(tuple(saved["labels"]))

    def head(self, dim: int) -> nn.Linear:
        """Make a linear layer with torch's own random weights."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return class indices (N,); raises DataError for a label that the model does not know."""
        return torch.tensor(classes.places(labels, self.labels), dtype=torch.long)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy in nats, of balanced classes if the task is."""
        return classes.cross_entropy(outputs, targets, smoothing, self.weights, self.prior)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return outputs

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, macro-F1 (mean over the classes that occur in outputs or targets) and mean loss in nats."""
        hits, truths, guessed = self._counts(outputs, targets)
        return {
            "accuracy": float(hits.sum() / len(targets)),
            "macro_f1": metrics.macro_f1(hits, truths, guessed),
            "loss": float(F.cross_entropy(outputs, targets)),
        }

    def per_class(self, outputs: Tensor, targets: Tensor) -> dict[Label, dict[str, float]]:
        """Return precision, recall, F1 and support (number of examples) of each class."""
        hits, truths, guessed = self._counts(outputs, targets)
        columns = {
            "precision": hits / guessed.clamp(min=1),
            "recall": hits / truths.clamp(min=1),
            "f1": metrics.f1(hits, truths, guessed),
            "support": truths,
        }
        return {label: {k: float(v[i]) for k, v in columns.items()} for i, label in enumerate(self.labels)}

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the `top` likeliest classes of each output, by softmax."""
        probabilities, indices = outputs.softmax(1).topk(min(top, len(self.labels)))
        answers = []
        for row, places in zip(probabilities.tolist(), indices.tolist(), strict=True):
            ranked = tuple((self.labels[i], p) for i, p in zip(places, row, strict=True))
            answers.append(Prediction(ranked[0][0], ranked[0][1], ranked))
        return answers

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say how often the commonest class occurs."""
        share = Counter(labels).most_common(1)[0][1] / len(labels)
        return f"majority class {share:.3f}"

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Return the task with a loss in which rare classes count: how = "weights" or "logits"; "sampler" leaves it."""
        return replace(self, **classes.balance(how, targets, len(self.labels)))

    def sampling_weights(self, targets: Tensor) -> Tensor:
        """Return each example's chance of being drawn (N,), in proportion: all classes are drawn equally often."""
        return 1 / torch.bincount(targets)[targets].double()

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the labels, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}

    def _counts(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each class how often it was guessed rightly, occurs, and was guessed, (K,) each."""
        table = metrics.confusion(outputs.argmax(1), targets, len(self.labels))
        return table.diag(), table.sum(1), table.sum(0)
