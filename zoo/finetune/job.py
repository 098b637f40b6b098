"""What is to be learnt: task, sets, recipe, and the head to start from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.datasets import Causal, Inputs, Labelled, Masked, Set, Tagged
from zoo.data.examples import Label
from zoo.data.texts import Texts
from zoo.errors import RecipeError
from zoo.finetune.recipe import Recipe
from zoo.plugin import Classifier, Tokenizer
from zoo.tasks import LANGUAGE, Task
from zoo.tasks.label_match import match


@dataclass(frozen=True, slots=True)
class Job:
    """A task whose loss makes up for rare classes, data to train on and to choose by, and the settled recipe.

    `warm` is a head that knows the labels already, `draws` (N,) the examples' chances of being drawn (None: equal).
    `stages` are the backbone's, `called` names a training example. With `cautious` a tuned
    network has to be better than the probe beyond chance to be kept. `micro` examples go through the network at once.
    """

    task: Task
    train: Set
    valid: Set | None
    recipe: Recipe
    warm: nn.Linear | None = None
    draws: Tensor | None = None
    stages: tuple[tuple[str, ...], ...] = ()
    called: Callable[[int], str] = "example {}".format
    cautious: bool = False
    micro: int | None = None

    def frozen(self) -> frozenset[str]:
        """Return the names of the parts that do not train."""
        return frozenset(name for stage in self.stages[: self.recipe.freeze] for name in stage)

    def names(self, indices: Sequence[int]) -> str:
        """Name some of the training examples."""
        names = [self.called(i) for i in indices]
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def balanced(job: Job) -> Job:
    """Apply the recipe's way of making up for rare classes; the probe weighs what a sampler would draw."""
    how, task, targets = job.recipe.balance, job.task, job.train.targets
    if how == "none":
        return job
    draws = getattr(task, "sampling_weights", None)
    if how == "sampler" and job.recipe.strategy != "probe" and draws is not None:
        return replace(job, draws=draws(targets))
    return replace(job, task=task.balanced("weights" if how == "sampler" and draws is not None else how, targets))


def labelled(task: Task, inputs: Inputs, labels: Sequence[Label] | None, tokenizer: Tokenizer | None) -> Set:
    """Return prepared inputs with the targets that a task makes of their labels; without labels, for prediction."""
    if task.name in LANGUAGE:
        return language(task.name, inputs, tokenizer)
    targets: Any = None if labels is None else task.targets(labels)
    if task.reads == "tokens":
        assert isinstance(inputs, Texts)
        return Tagged(inputs, targets)
    return Labelled(inputs, targets)


def language(name: str, inputs: Inputs, tokenizer: Tokenizer | None) -> Set:
    """Return blocks of text whose tokens are to be guessed; RecipeError if the tokenizer cannot hide them."""
    assert isinstance(inputs, Texts)
    assert tokenizer is not None
    if name == "causal-lm":
        return Causal(inputs)
    if tokenizer.mask is None:
        raise RecipeError("this backbone's tokenizer has no token that hides another", fix='task="causal-lm"')
    special = frozenset(i for i, token in tokenizer.fast.get_added_tokens_decoder().items() if token.special)
    return Masked(inputs, tokenizer.mask, tokenizer.fast.get_vocab_size(with_added_tokens=False), special)


def warm_head(task: Task, known: Classifier | None) -> nn.Linear | None:
    """Return a head of the pretrained classifier's own rows for these labels, or None if it does not know them all."""
    if known is None or task.name != "classify":
        return None
    rows = match(task.labels, known.labels)
    if rows is None:
        return None
    head: nn.Linear = nn.utils.skip_init(nn.Linear, known.weight.shape[1], len(rows))
    with torch.no_grad():
        head.weight.copy_(known.weight[rows])  # (K, D)
        head.bias.copy_(known.bias[rows])
    return head
