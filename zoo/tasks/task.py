"""Task: the interface of all tasks, and Prediction, what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from zoo.data.datasets import Dataset, Inputs, LabelledDataset
from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.plugin import Tokenizer
from zoo.tasks.intervals import Interval

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mae", "rmse"})
TOLERANCE = 1e-4
"""Rounding error of a metric."""


def is_at_most(score: float, baseline: float) -> bool:
    """Return whether a score is no better than a baseline, up to rounding; a perfect one always is better."""
    return score <= min(baseline + TOLERANCE, 1 - TOLERANCE)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for one input.

    label        a class, a tuple of labels (multilabel), a number, or several in the order of task.labels (regress), a
                 tag per word (tag) or a text (language models)
    probability  of the label, where the task has one
    top          the likeliest labels with their probabilities, as many as were asked for
    """

    label: Any
    probability: float | None = None
    top: tuple[tuple[Any, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Mistake:
    """An example that a model gets wrong.

    index        of the example in the data
    input        as it was given: a path, an image or a text; of a folder of texts the path
    truth        its label; of a tagger the wrong words, each as word/tag
    answer       the prediction, in the same form
    probability  of the answer; of several labels or words the highest one of a wrong decision; None for numbers
    loss         how wrong: cross-entropy in nats, for a number the absolute error, for several its mean in standard
                 deviations of the training labels
    """

    index: int
    input: Any
    truth: Any
    answer: Any
    probability: float | None
    loss: float


class Task(Protocol):
    """Head, targets, loss, metrics and decoding of a task; immutable.

    A task that reads "pooled" features has one row of outputs for each example, (N, K). One that reads "tokens" has
    one for each selected token, (M, K); `measure` and `decode` then take a list with one tensor for each example.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "pooled"
    """Features the head reads: "pooled" or "tokens"."""
    labelled: ClassVar[bool] = True
    """Whether examples have labels; False: self-supervised, with the head of the pre-training."""
    single_label: ClassVar[bool] = False
    """Whether each example has exactly one label: splits are stratified, outputs calibrated, heads transferred."""
    autoregressive: ClassVar[bool] = False
    """Whether the model continues texts."""
    item_metric: ClassVar[str] = "accuracy"
    """The score of one example, whose mean compares models in paired tests."""
    labels: tuple[Any, ...]
    """What the head's K outputs stand for, in their order."""

    @property
    def main_metric(self) -> str:
        """The metric that compares models."""
        ...

    @classmethod
    def of(cls, labels: Sequence[Label]) -> Self:
        """Create the task from the labels of the training examples; DataError where they do not fit."""
        ...

    @classmethod
    def restore(cls, saved: Mapping[str, Any]) -> Self:
        """Create the task from the result of `to_dict`."""
        ...

    @classmethod
    def check(cls, inputs: Sequence[Any], labels: Sequence[Label]) -> None:
        """Raise DataError for examples that the task cannot learn from, such as ones without labels."""
        if cls.labelled and any(label is None for label in labels):
            raise DataError(
                f"the data has no labels, and {cls.name} learns from labels",
                fix="name their column (label=…, --label), put the inputs into a folder per class, or task=masked-lm",
            )

    @classmethod
    def parse(cls, inputs: Sequence[Any]) -> Sequence[Any]:
        """Return inputs of `predict` in the form that the task reads."""
        return inputs

    def dataset(self, inputs: Inputs, labels: Sequence[Label] | None, tokenizer: Tokenizer | None) -> Dataset:
        """Return prepared inputs with the targets of their labels; None: without targets, for prediction."""
        return LabelledDataset(inputs, None if labels is None else self.targets(labels))

    def head(self, dim: int) -> nn.Module:
        """Return a new head with random weights: features (M, D) -> outputs (M, K)."""
        ...

    def targets(self, labels: Sequence[Label]) -> Any:
        """Encode labels for the loss: a tensor (N, …), or a list with one tensor (words,) for each example."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of outputs (M, K) against targets (M, …), a scalar."""
        ...

    def loss_curvature(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product of the Hessian of the loss with directions (M, K), as a function of them.

        By differentiating twice, which a task with a closed form overrides.
        """
        with torch.enable_grad():
            point = outputs.detach().requires_grad_()
            (slopes,) = torch.autograd.grad(self.loss(point, targets), point, create_graph=True)

        def product(directions: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(slopes, point, directions, retain_graph=True)
            return found

        return product

    def statistics(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what `measure` needs of a batch of outputs (M, K): the outputs, or less."""
        return outputs

    def measure(self, outputs: Any, targets: Any) -> dict[str, float]:
        """Return the metrics of the statistics of all batches against all targets."""
        ...

    def per_class(self, outputs: Any, targets: Any) -> dict[Label, dict[str, float]]:
        """Return the scores of each class, label or kind of entity, or of each of several numbers; {} for other tasks.

        Those of a class are precision, recall, F1 and support.
        """
        return {}

    def intervals(self, outputs: Any, targets: Any) -> dict[str, Interval]:
        """Return the 95 % confidence interval of the main metric, and of the accuracy where there is one."""
        return {}

    def item_scores(self, outputs: Any, targets: Any) -> Tensor:
        """Return `item_metric` of each example (N,), for paired tests; RecipeError for a task without labels."""
        raise RecipeError(
            f"{self.name} has no labels, and models are compared by how well they predict labels",
            fix="compare perplexities on the same texts: zoo evaluate MODEL DATA",
        )

    def mistakes(self, inputs: Sequence[Any], outputs: Any, targets: Any) -> list[Mistake]:
        """Return the examples that are wrong, highest loss first; RecipeError for a task without labels."""
        raise RecipeError(
            f"{self.name} has no labels, so no example is wrong", fix="model.evaluate(texts)   (perplexity and loss)"
        )

    def confusion(self, outputs: Any, targets: Any) -> list[tuple[Label, Label, int]]:
        """Return (truth, answer, count) of the pairs that occur; RecipeError for a task without classes."""
        raise RecipeError(
            f"a confusion matrix needs one class for each example, and this is a {self.name} model",
            fix="leave out --confusion" + (", and list the worst with --errors errors.csv" if self.labelled else ""),
        )

    def improves(self, before: Tensor, after: Tensor, targets: Any) -> bool:
        """Return whether better validation outputs are better beyond chance, where the task has a test for it."""
        return True

    def probabilities(self, outputs: Any) -> Any:
        """Return the probabilities of all labels; RecipeError for a task without any."""
        raise RecipeError(
            f"{self.name} predicts no probabilities", fix="model.predict(inputs), or model.logits(inputs)"
        )

    def decode(self, outputs: Any, top: int) -> list[Prediction]:
        """Return one prediction for each example."""
        ...

    def baseline(self, labels: Sequence[Label]) -> str:
        """Describe the score of a model that ignores its inputs, in a few words."""
        ...

    def is_no_better_than_baseline(self, found: Mapping[str, float], labels: Sequence[Label]) -> bool:
        """Return whether metrics are no better than those of a model that ignores its inputs."""
        return False

    def balanced(self, how: str, targets: Any) -> Self:
        """Return the task with a class-balanced loss (Recipe.class_balance); RecipeError where it has none."""
        ...

    def balanced_by_counts(self, how: str, counts: Tensor, examples: int) -> Self:
        """Return the task as `balanced` does, from the number of examples, or words, with each label (K,)."""
        return self.balanced(how, None)  # a task without classes

    def sampling_weights(self, targets: Any) -> Tensor | None:
        """Return weights (N,) that draw all classes equally often; None for tasks that cannot be balanced this way."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return what a saved model stores: `name`, `labels` and what else `restore` needs."""
        ...


def score(task: Task, metrics: Mapping[str, float]) -> float:
    """Return the main metric, negated where lower is better."""
    value = metrics[task.main_metric]
    return -value if task.main_metric in LOWER_IS_BETTER else value
