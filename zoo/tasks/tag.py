"""Tagging: one of K tags for each word of a text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.datasets import Dataset, Inputs, TaggedTexts
from zoo.data.examples import Label
from zoo.data.texts import Texts
from zoo.errors import DataError, RecipeError
from zoo.plugin import Tokenizer
from zoo.tasks import classes, metrics
from zoo.tasks.intervals import Interval, bootstrap
from zoo.tasks.task import Mistake, Prediction, Task, is_at_most

WORDS = re.compile(r"\w+|[^\w\s]")
"""Words of an untokenised text: runs of letters and digits, and each punctuation mark."""


@dataclass(frozen=True, slots=True)
class Tag(Task):
    """Token classification: linear head on the first token of each word, cross-entropy over K tags.

    Entity tags (B-PER, I-PER, O) are measured by whole entities, others by words. `weights` (K,) are class weights of
    the loss, `prior` (K,) log shares that logit adjustment adds to the outputs.
    """

    labels: tuple[Any, ...]
    weights: tuple[float, ...] | None = None
    prior: tuple[float, ...] | None = None
    name: ClassVar[str] = "tag"
    reads: ClassVar[str] = "tokens"
    item_metric: ClassVar[str] = "text_accuracy"

    @property
    def main_metric(self) -> str:
        """entity_f1 where the tags mark entities, else macro_f1."""
        return "entity_f1" if self._marks_entities() else "macro_f1"

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Collect the tags, "O" first; DataError for a label that is not a list of tags."""
        return cls(tuple(sorted(classes.ordered(_rows(labels)), key=lambda tag: tag != "O")))

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        return cls(tuple(saved["labels"]))

    @classmethod
    def check(cls, inputs: Sequence[Any], labels: Sequence[Label]) -> None:
        """Raise DataError unless each text is a list of words with as many tags."""
        super(Tag, cls).check(inputs, labels)
        for index, (words, tags) in enumerate(zip(inputs, _rows(labels), strict=True)):
            if not isinstance(words, tuple | list):
                raise DataError(
                    f"example {index} is {words!r:.60}, not a list of words",
                    fix='give the words apart: "a text".split()',
                )
            if len(words) != len(tags):
                raise DataError(
                    f"example {index} has {len(words)} words and {len(tags)} tags", fix="give one tag for each word"
                )

    @classmethod
    def parse(cls, inputs: Sequence[Any]) -> Sequence[Any]:
        """Split texts into words and punctuation; lists of words stay as they are."""
        return [WORDS.findall(item) if isinstance(item, str) else item for item in inputs]

    def dataset(self, inputs: Inputs, labels: Sequence[Label] | None, tokenizer: Tokenizer | None) -> Dataset:
        """Return texts with a target for each word."""
        assert isinstance(inputs, Texts)
        return TaggedTexts(inputs, None if labels is None else self.targets(labels))

    def head(self, dim: int) -> nn.Linear:
        """Return a linear layer with torch's default initialisation."""
        return nn.Linear(dim, len(self.labels))

    def targets(self, labels: Sequence[Label]) -> list[Tensor]:
        """Return tag indices (words,) of each text; raises DataError for a tag that the model does not know."""
        rows = _rows(labels)
        flat = torch.tensor(classes.indices([tag for row in rows for tag in row], self.labels), dtype=torch.long)
        return list(flat.split([len(row) for row in rows]))

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of words (M, K) in nats, class-balanced if the task is."""
        return classes.cross_entropy(outputs, targets, smoothing, self.weights, self.prior)

    def loss_curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product of the Hessian of the loss with directions (M, K), in closed form."""
        return classes.cross_entropy_curvature(outputs, targets, self.weights, self.prior)

    def measure(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, float]:
        """Return accuracy over words, F1 over entities (micro) or tags (macro), and the mean loss in nats."""
        rows, truths = torch.cat(list(outputs)), torch.cat(list(targets))
        hits, support, guessed = metrics.class_counts(rows.argmax(1), truths, len(self.labels))
        found = {"accuracy": float(hits.sum() / len(truths))}
        if self._marks_entities():
            scores = metrics.entity_f1([self._tags(part.argmax(1)) for part in outputs], [*map(self._tags, targets)])
            found |= dict(zip(("entity_precision", "entity_recall", "entity_f1"), scores, strict=True))
        else:
            found["macro_f1"] = metrics.macro_f1(hits, support, guessed)
        return found | {"loss": float(F.cross_entropy(rows, truths))}

    def per_class(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[Label, dict[str, float]]:
        """Return precision, recall, F1 and support of each kind of entity, or of each tag where there are none."""
        if not self._marks_entities():
            rows, truths = torch.cat(list(outputs)), torch.cat(list(targets))
            return metrics.by_label(self.labels, *metrics.class_counts(rows.argmax(1), truths, len(self.labels)))
        counts: Counter[tuple[str, str]] = Counter()
        for found in self._entity_counts(outputs, targets):
            counts.update(found)
        kinds = sorted({str(tag).partition("-")[2] for tag in self.labels if tag != "O"})
        columns = (
            torch.tensor([counts[kind, name] for kind in kinds]).double() for name in ("hits", "truths", "guessed")
        )
        return metrics.by_label([kind or "entity" for kind in kinds], *columns)

    def intervals(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Interval]:
        """Return bootstrap intervals over texts, as words of one text depend on each other."""
        hits = [(part.argmax(1) == truth).sum() for part, truth in zip(outputs, targets, strict=True)]
        words = torch.stack([torch.stack(hits), torch.tensor([len(truth) for truth in targets])], 1).double()
        counts = self._text_counts(outputs, targets)  # (N, 3 * K)

        def score(weights: Tensor) -> dict[str, Tensor]:
            right, length = (weights @ words).unbind(1)
            found, there, guessed = (weights @ counts).chunk(3, 1)  # (R, K) each
            if self._marks_entities():
                f1 = metrics.f1(found.sum(1), there.sum(1), guessed.sum(1))
            else:
                f1 = metrics.f1(found, there, guessed).sum(1) / (there + guessed > 0).sum(1).clamp(min=1)
            return {"accuracy": right / length.clamp(min=1), self.main_metric: f1}

        return bootstrap(score, len(words), 1 + counts.shape[1])

    def item_scores(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the share of right words of each text (N,)."""
        pairs = zip(outputs, targets, strict=True)
        return torch.stack([(rows.argmax(1) == truths).double().mean() for rows, truths in pairs])

    def mistakes(self, inputs: Sequence[Any], outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Mistake]:
        """Return the texts with a wrong tag, highest loss of a word first; truth and answer are its wrong words."""
        found = []
        for index, (rows, truths) in enumerate(zip(outputs, targets, strict=True)):
            logs, answers = rows.log_softmax(1), rows.argmax(1)
            wrong = (answers != truths).nonzero()[:, 0]
            if len(wrong):
                words = [(inputs[index][i], truths[i], answers[i]) for i in wrong.tolist()]
                truth = tuple(f"{word}/{self.labels[there]}" for word, there, _ in words)
                answer = tuple(f"{word}/{self.labels[guess]}" for word, _, guess in words)
                sure = float(logs[wrong, answers[wrong]].max().exp())
                found.append(
                    Mistake(index, inputs[index], truth, answer, sure, float(-logs[wrong, truths[wrong]].min()))
                )
        return sorted(found, key=lambda mistake: -mistake.loss)

    def confusion(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[tuple[Label, Label, int]]:
        """Return (truth, answer, count) of the pairs of tags that occur, over words."""
        return classes.confusion(self.labels, torch.cat(list(targets)), torch.cat(list(outputs)).argmax(1))

    def probabilities(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return softmax probabilities of the words of each text, (words, K)."""
        return [rows.softmax(1) for rows in outputs]

    def decode(self, outputs: Sequence[Tensor], top: int) -> list[Prediction]:
        """Return the likeliest tag of each word."""
        return [Prediction(tuple(self.labels[i] for i in part.argmax(1).tolist())) for part in outputs]

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the share of the most frequent tag."""
        return f"commonest tag {_majority(labels):.3f}"

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether the accuracy over words is at most that of predicting the most frequent tag."""
        return is_at_most(found["accuracy"], _majority(labels))

    def balanced(self, how: str, targets: Sequence[Tensor]) -> Self:
        """Return the task with class weights or logit adjustment in its loss; RecipeError for "sampler"."""
        counts = torch.bincount(torch.cat(list(targets)), minlength=len(self.labels))
        return self.balanced_by_counts(how, counts, len(targets))

    def balanced_by_counts(self, how: str, counts: Tensor, examples: int) -> Self:
        """Return the task as `balanced` does, from the number of words with each tag (K,)."""
        if how == "sampler":
            raise RecipeError(
                f'class_balance="{how}" is not available for tag: texts are drawn whole', fix='class_balance="weights"'
            )
        return replace(self, **classes.balance(how, counts))

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the tags, in the order of the head's outputs."""
        return {"name": self.name, "labels": list(self.labels)}

    def _marks_entities(self) -> bool:
        return metrics.marks_entities([str(tag) for tag in self.labels])

    def _entity_counts(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Counter[tuple[str, str]]]:
        return metrics.entity_counts([self._tags(part.argmax(1)) for part in outputs], [*map(self._tags, targets)])

    def _text_counts(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return hits, truths and guesses of each text: of entities of any kind (N, 3), or of each tag (N, 3 * K)."""
        if self._marks_entities():
            names = ("hits", "truths", "guessed")
            rows = [
                [sum(count for (_, of), count in found.items() if of == name) for name in names]
                for found in self._entity_counts(outputs, targets)
            ]
            return torch.tensor(rows).double()
        pairs = zip(outputs, targets, strict=True)
        return torch.stack([torch.cat(metrics.class_counts(a.argmax(1), b, len(self.labels))) for a, b in pairs])

    def _tags(self, indices: Tensor) -> list[str]:
        return [str(self.labels[i]) for i in indices.tolist()]


def _rows(labels: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the tags of each example; DataError for what is no list of them."""
    for index, tags in enumerate(labels):
        if not isinstance(tags, tuple | list):
            raise DataError(
                f"label of example {index} is {tags!r} ({type(tags).__name__}), not a list of tags",
                fix='give one tag for each word, as in ["O", "B-PER", "O"]',
            )
    return list(labels)


def _majority(labels: Sequence[Label]) -> float:
    """Return the share of the most frequent tag."""
    counts = Counter(tag for tags in _rows(labels) for tag in tags)
    return counts.most_common(1)[0][1] / counts.total()
