"""Classification: one of K classes for each input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.tasks import classes, metrics
from zoo.tasks.intervals import Interval, wilson
from zoo.tasks.task import Mistake, Prediction, Task, is_at_most


@dataclass(frozen=True, slots=True)
class Classify(Task):
    """Linear head and cross-entropy over K classes.

    `weights` (K,) are class weights of the loss, `prior` (K,) log shares that logit adjustment adds to the outputs.
    """

    labels: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    prior: tuple[float, ...] | None = None
    name: ClassVar[str] = "classify"
    main_metric: ClassVar[str] = "accuracy"
    single_label: ClassVar[bool] = True

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Collect the classes, sorted, from the labels; DataError for a label that is no class."""
        return cls(classes.ordered((label,) for label in labels))

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        return cls(tuple(saved["labels"]))

    def head(self, dim: int) -> nn.Linear:
        """Return a linear layer with torch's default initialisation."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return class indices (N,); raises DataError for a label that the model does not know."""
        return torch.tensor(classes.indices(labels, self.labels), dtype=torch.long)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy in nats, class-balanced if the task is."""
        return classes.cross_entropy(outputs, targets, smoothing, self.weights, self.prior)

    def loss_curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product of the Hessian of the loss with directions (M, K), in closed form."""
        return classes.cross_entropy_curvature(outputs, targets, self.weights, self.prior)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, macro-F1 (mean over classes that occur in outputs or targets) and mean loss in nats."""
        hits, truths, guessed = self._counts(outputs, targets)
        return {
            "accuracy": float(hits.sum() / len(targets)),
            "macro_f1": metrics.macro_f1(hits, truths, guessed),
            "loss": float(F.cross_entropy(outputs, targets)),
        }

    def per_class(self, outputs: Tensor, targets: Tensor) -> dict[Label, dict[str, float]]:
        """Return precision, recall, F1 and support (number of examples) of each class."""
        return metrics.by_label(self.labels, *self._counts(outputs, targets))

    def intervals(self, outputs: Tensor, targets: Tensor) -> dict[str, Interval]:
        """Return Wilson's interval of the accuracy."""
        hits = int((outputs.argmax(1) == targets).sum())
        return {"accuracy": wilson(hits, len(targets))}

    def item_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each right answer, 0 for each wrong one (N,)."""
        return (outputs.argmax(1) == targets).double()

    def mistakes(self, inputs: Sequence[Any], outputs: Tensor, targets: Tensor) -> list[Mistake]:
        """Return the misclassified examples, those whose true class is least likely first."""
        answers, logs = outputs.argmax(1), outputs.log_softmax(1)
        wrong = (answers != targets).nonzero()[:, 0]
        losses = -logs[wrong, targets[wrong]]
        wrong, losses = wrong[order := losses.argsort(descending=True, stable=True)], losses[order]
        shares = logs[wrong, answers[wrong]].exp()
        rows = zip(*(part.tolist() for part in (wrong, targets[wrong], answers[wrong], shares, losses)), strict=True)
        return [Mistake(i, inputs[i], self.labels[t], self.labels[a], p, loss) for i, t, a, p, loss in rows]

    def confusion(self, outputs: Tensor, targets: Tensor) -> list[tuple[Label, Label, int]]:
        """Return (truth, answer, count) of the pairs of classes that occur."""
        return classes.confusion(self.labels, targets, outputs.argmax(1))

    def improves(self, before: Tensor, after: Tensor, targets: Tensor) -> bool:
        """Return whether outputs (N, K) are correct more often than others before, beyond one standard error.

        Of the examples on which exactly one is correct, the surplus has to exceed the root of their number (McNemar
        1947).
        """
        gain = (after.argmax(1) == targets).long() - (before.argmax(1) == targets).long()
        return bool(gain.sum() > gain.abs().sum().sqrt())

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Return softmax probabilities (N, K)."""
        return outputs.softmax(1)

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the `top` likeliest classes of each output, by softmax."""
        probabilities, indices = outputs.softmax(1).topk(min(top, len(self.labels)))
        answers = []
        for row, places in zip(probabilities.tolist(), indices.tolist(), strict=True):
            ranked = tuple((self.labels[i], p) for i, p in zip(places, row, strict=True))
            answers.append(Prediction(ranked[0][0], ranked[0][1], ranked))
        return answers

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the majority-class accuracy."""
        return f"majority class {_majority(labels):.3f}"

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether the accuracy is at most that of predicting the majority class."""
        return is_at_most(found["accuracy"], _majority(labels))

    def balanced(self, how: str, targets: Tensor) -> Self:
        """Return the task with class weights or logit adjustment in its loss; "sampler" changes nothing here."""
        return self.balanced_by_counts(how, torch.bincount(targets, minlength=len(self.labels)), len(targets))

    def balanced_by_counts(self, how: str, counts: Tensor, examples: int) -> Self:
        """Return the task as `balanced` does, from the number of examples of each class (K,)."""
        return replace(self, **classes.balance(how, counts))

    def sampling_weights(self, targets: Tensor) -> Tensor:
        """Return inverse class frequencies (N,): all classes are drawn equally often."""
        return 1 / torch.bincount(targets)[targets].double()

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the labels, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}

    def _counts(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return true positives, support and number of predictions of each class, (K,) each."""
        return metrics.class_counts(outputs.argmax(1), targets, len(self.labels))


def _majority(labels: Sequence[Label]) -> float:
    """Return the share of the most frequent label."""
    return Counter(labels).most_common(1)[0][1] / len(labels)
