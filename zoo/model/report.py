"""Report: a model measured on labelled data, with its mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from zoo.data.examples import Examples, Label
from zoo.finetune.inference import Outputs
from zoo.tasks import Mistake, Task
from zoo.tasks.intervals import Interval


class ReportOptions(TypedDict, total=False):
    """How labelled data is read: examples of a batch, and the columns of a table (`input`, `label`)."""

    batch_size: int
    input: str | Sequence[str] | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """The metrics of a model on labelled data, and the outputs they were computed from."""

    task: Task
    examples: Examples
    outputs: Outputs
    metrics: dict[str, float]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    @property
    def per_class(self) -> dict[Label, dict[str, float]]:
        """Scores of each class, label or kind of entity, or of each of several numbers; {} for other tasks."""
        return self.task.per_class(self.outputs.values, self.outputs.targets)

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % confidence interval (low, high) by metric: Wilson's for the accuracy of classes, else the bootstrap."""
        return self.task.intervals(self.outputs.values, self.outputs.targets)

    @property
    def baseline(self) -> str:
        """The score of a model that ignores its inputs, as text: the majority class, the mean of training."""
        return self.task.baseline(self.examples.labels)

    @property
    def is_no_better_than_baseline(self) -> bool:
        """Whether a model that ignores its inputs does as well; False if all labels are the same."""
        several = len(set(map(str, self.examples.labels))) > 1
        return several and self.task.is_no_better_than_baseline(self.metrics, self.examples.labels)

    @property
    def errors(self) -> list[Mistake]:
        """The wrong examples, highest loss first; RecipeError for a language model."""
        inputs: Sequence[Any] = self.examples.files or self.examples.inputs
        return self.task.mistakes(inputs, self.outputs.values, self.outputs.targets)

    @property
    def confusion(self) -> list[tuple[Label, Label, int]]:
        """(truth, answer, count) of the pairs that occur; RecipeError for tasks other than classify and tag."""
        return self.task.confusion(self.outputs.values, self.outputs.targets)
