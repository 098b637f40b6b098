"""Measurement: a model measured on labelled data, with its mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from zoo.data import prepare
from zoo.data.examples import Columns, Examples, Label
from zoo.data.reading import read_one
from zoo.finetune import inference, setup
from zoo.finetune.inference import BATCH_SIZE, Outputs
from zoo.finetune.recipe import Recipe
from zoo.model import answers
from zoo.tasks import Mistake, Task
from zoo.tasks.intervals import Interval


class MeasureOptions(TypedDict, total=False):
    """How labelled data is read: examples of a batch, and the columns of a table (`input`, `label`)."""

    batch_size: int
    input: str | Sequence[str] | None
    label: str | None


@dataclass(frozen=True, slots=True)
class Measurement:
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


def measure(model: answers.Predictor, data: object, options: MeasureOptions) -> Measurement:
    """Measure a model on labelled data. Raises DataError for data it cannot read, or labels it does not know."""
    label = options.get("label")
    known = model.summary.columns if model.summary else Columns()
    asked = Columns.of(options.get("input"), label)
    network, task = answers.network(model)
    columns = Columns(asked.input or known.input, known.label if label is None else asked.label, task=task.name)
    examples = read_one(data, modality=model.entry.modality, columns=columns)
    if task.labelled:
        task.check(examples.inputs, examples.labels)
        task.targets(examples.labels)  # raise for an unknown label before decoding, which takes long
    how = setup.preprocessing(model.backbone, model.recipe or Recipe(), blocks=not task.labelled)
    prepared = prepare.prepare_for_evaluation(examples, how)
    rows = task.dataset(prepared.inputs, prepared.examples.labels, model.backbone.tokenizer)
    batch_size = options.get("batch_size", BATCH_SIZE)
    found = inference.measure(network, task, rows, precision=answers.precision(model), batch_size=batch_size)
    return Measurement(task, prepared.examples, found.outputs, found.metrics)
