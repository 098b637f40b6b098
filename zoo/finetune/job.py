"""Job: what a training run works on, from the request to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from zoo.data.datasets import Dataset
from zoo.data.examples import Label
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.summary import DataSummary
from zoo.finetune.callbacks import Isolated
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.recipe import Recipe
from zoo.tasks import Task

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Job:
    """Task, data and hyperparameters of a training run.

    recipe            as requested; hp: the same, resolved
    summary           what is recorded about the data
    head              a head that knows the task already (pretrained, or a probe's), to start from
    sampling_weights  (N,) weights by which training examples are drawn; None: uniformly
    describe          returns the name of a training example, for errors
    valid_labels      labels of the validation examples, for the baseline
    callbacks         who is told of steps and evaluations
    groups            (N,) numbers of the groups of training examples, which no split divides; None: no groups
    """

    task: Task
    train: Dataset
    valid: Dataset | None
    recipe: Recipe
    hp: Hyperparameters
    summary: DataSummary
    head: nn.Module | None = None
    sampling_weights: Tensor | None = None
    describe: Callable[[int], str] = "example {}".format
    valid_labels: Sequence[Label] = ()
    callbacks: Sequence[Isolated] = ()
    groups: Tensor | None = None

    @property
    def examples(self) -> int:
        """Number of training examples; 0 for a stream of unknown length."""
        return (self.train.examples or 0) if isinstance(self.train, StreamedDataset) else len(self.train)

    @property
    def has_probe(self) -> bool:
        """Whether the run starts with a linear probe."""
        return self.hp.has_probe and self.task.labelled

    def names(self, indices: Sequence[int]) -> str:
        """Return the names of some training examples."""
        names = [self.describe(i) for i in indices]
        return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def balance_classes(job: Job) -> Job:
    """Apply the recipe's class_balance; a probe draws no batches, so it weights the loss where a sampler would draw."""
    how, task, targets = job.hp.class_balance, job.task, job.train.targets
    if how == "none":
        return job
    weights = task.sampling_weights(targets) if how == "sampler" else None
    if weights is not None and job.hp.strategy != "probe":
        return replace(job, sampling_weights=weights)
    return replace(job, task=task.balanced("weights" if weights is not None else how, targets))
