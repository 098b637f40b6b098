"""Classification: one of K classes for each input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import DataError
from zoo.tasks.task import Prediction


@dataclass(frozen=True, slots=True)
class Classify:
    """Tell K classes apart by a linear head and the cross-entropy."""

    labels: tuple[Label, ...]
    name: str = "classify"
    best: str = "accuracy"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Classify:
        """Take the classes, in order, from the labels of the examples."""
        return cls(tuple(sorted(set(labels), key=lambda label: (isinstance(label, str), label))))

    def head(self, dim: int) -> nn.Linear:
        """Make a linear layer with torch's own random weights."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> Tensor:
        """Return class indices (N,); raises DataError for a label that the model does not know."""
        index = {label: i for i, label in enumerate(self.labels)}
        unknown = sorted({str(label) for label in labels if label not in index})
        if unknown:
            known = ", ".join(map(str, self.labels[:10])) + ("…" if len(self.labels) > 10 else "")
            raise DataError(
                f"the data has labels that this model does not know: {', '.join(unknown[:5])}; it knows {known}",
                fix="rename the labels to the model's, or fine-tune again on data with all of them",
            )
        return torch.tensor([index[label] for label in labels], dtype=torch.long)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return accuracy, macro-F1 (mean over the classes that occur in outputs or targets) and mean loss in nats."""
        classes = len(self.labels)
        guesses = outputs.argmax(1)
        # rows: truth, columns: guess -> (K, K)
        confusion = torch.bincount(targets * classes + guesses, minlength=classes**2).view(classes, classes).double()
        hits, truths, guessed = confusion.diag(), confusion.sum(1), confusion.sum(0)
        occurs = truths + guessed > 0
        f1 = 2 * hits[occurs] / (truths + guessed)[occurs]
        return {
            "accuracy": float(hits.sum() / len(targets)),
            "macro_f1": float(f1.mean()),
            "loss": float(F.cross_entropy(outputs, targets)),
        }

    def decode(self, outputs: Tensor, top: int) -> list[Prediction]:
        """Return the `top` likeliest classes of each output, by softmax."""
        probabilities, classes = outputs.softmax(1).topk(min(top, len(self.labels)))
        answers = []
        for row, indices in zip(probabilities.tolist(), classes.tolist(), strict=True):
            ranked = tuple((self.labels[i], p) for i, p in zip(indices, row, strict=True))
            answers.append(Prediction(ranked[0][0], ranked[0][1], ranked))
        return answers

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say how often the commonest class occurs."""
        share = Counter(labels).most_common(1)[0][1] / len(labels)
        return f"majority class {share:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the labels, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}
