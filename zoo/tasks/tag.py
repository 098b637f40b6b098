"""Tagging: one of K tags for each word of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.tasks import classes, metrics
from zoo.tasks.task import Prediction


@dataclass(frozen=True, slots=True)
class Tag:
    """Give each word one of K tags, by a linear head on its first token and the cross-entropy.

    Tags that mark entities (B-PER, I-PER, O) are measured by whole entities, others by words. `weights` (K,) weigh the
    tags in the loss, `prior` (K,) are added to the outputs in it.
    """

    labels: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    prior: tuple[float, ...] | None = None
    name: str = "tag"
    reads: str = "tokens"

    @property
    def best(self) -> str:
        """entity_f1 where the tags mark entities, else macro_f1."""
        return "entity_f1" if self._marks_entities() else "macro_f1"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Take the tags from those of the examples, "O" first; DataError for what is no list of tags."""
        return cls(tuple(sorted(classes.ordered(_rows(labels)), key=lambda tag: tag != "O")))

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Rebuild the task from what `to_dict` returned."""
        return cls(tuple(saved["labels"]))

    def head(self, dim: int) -> nn.Linear:
        """Make a linear layer with torch's own random weights."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> list[Tensor]:
        """Return tag indices (words,) of each text; raises DataError for a tag that the model does not know."""
        rows = _rows(labels)
        flat = torch.tensor(classes.places([tag for row in rows for tag in row], self.labels), dtype=torch.long)
        return list(flat.split([len(row) for row in rows]))

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of words (M, K) in nats, of balanced tags if the task is."""
        return classes.cross_entropy(outputs, targets, smoothing, self.weights, self.prior)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the outputs as they are."""
        return outputs

    def measure(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
        """Return accuracy over words, F1 over entities (micro) or tags (macro), and the mean loss in nats."""
        rows, truths = torch.cat(list(outputs)), torch.cat(list(targets))
        table = metrics.confusion(rows.argmax(1), truths, len(self.labels))
        found = {"accuracy": float(table.diag().sum() / len(truths))}
        if self._marks_entities():
            scores = metrics.entity_f1([self._tags(part.argmax(1)) for part in outputs], [*map(self._tags, targets)])
            found |= dict(zip(("entity_precision", "entity_recall", "entity_f1"), scores, strict=True))
        else:
            found["macro_f1"] = metrics.macro_f1(table.diag(), table.sum(1), table.sum(0))
        return found | {"loss": float(F.cross_entropy(rows, truths))}

    def decode(self, outputs: Sequence[Tensor], top: int) -> list[Prediction]:
        """Return the likeliest tag of each word."""
        return [Prediction(tuple(self.labels[i] for i in part.argmax(1).tolist())) for part in outputs]

    def baseline(self, labels: Sequence[Label]) -> str:
        """Say how often the commonest tag occurs."""
        counts = Counter(tag for tags in _rows(labels) for tag in tags)
        return f"commonest tag {counts.most_common(1)[0][1] / counts.total():.3f}"

    def balanced(self, how: str, targets: Sequence[Tensor]) -> Self:
        """Return the task with a loss in which rare tags count: how = "weights" or "logits"; RecipeError for others."""
        if how == "sampler":
            raise RecipeError(f'balance="{how}" does not go with tag: texts are drawn whole', fix='balance="weights"')
        return replace(self, **classes.balance(how, torch.cat(list(targets)), len(self.labels)))

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the tags, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}

    def _marks_entities(self) -> bool:
        return metrics.marks_entities([str(tag) for tag in self.labels])

    def _tags(self, indices: Tensor) -> list[str]:
        return [str(self.labels[i]) for i in indices.tolist()]


def check(texts: Sequence[Any], labels: Sequence[Label]) -> None:
    """Raise DataError unless each text is a list of words with as many tags."""
    for index, (words, tags) in enumerate(zip(texts, _rows(labels), strict=True)):
        if not isinstance(words, tuple | list):
            raise DataError(
                f"example {index} is {words!r:.60}, not a list of words", fix='give the words apart: "a text".split()'
            )
        if len(words) != len(tags):
            raise DataError(
                f"example {index} has {len(words)} words and {len(tags)} tags", fix="give one tag for each word"
            )


def _rows(labels: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the tags of each example; DataError for what is no list of them."""
    for index, tags in enumerate(labels):
        if not isinstance(tags, tuple | list):
            raise DataError(
                f"label of example {index} is {tags!r} ({type(tags).__name__}), not a list of tags",
                fix='give one tag for each word, as in ["O", "B-PER", "O"]',
            )
    return list(labels)
