"""Tasks: what the head looks like, what is minimised, what is measured, what an answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data.examples import Label
from zoo.errors import DataError, RecipeError
from zoo.tasks import tag
from zoo.tasks.classify import Classify
from zoo.tasks.language_model import CausalLM, MaskedLM
from zoo.tasks.multilabel import Multilabel
from zoo.tasks.regress import Regress
from zoo.tasks.tag import Tag
from zoo.tasks.task import Prediction, Task, score

__all__ = [
    "KINDS",
    "LANGUAGE",
    "NAMES",
    "Classify",
    "Prediction",
    "Task",
    "check",
    "check_name",
    "from_dict",
    "infer",
    "make",
    "score",
]

KINDS: dict[str, type[Task]] = {
    "classify": Classify,
    "multilabel": Multilabel,
    "regress": Regress,
    "tag": Tag,
    "causal-lm": CausalLM,
    "masked-lm": MaskedLM,
}
NAMES = tuple(KINDS)
LANGUAGE = ("causal-lm", "masked-lm")
"""The tasks that go on with the backbone's own pre-training: no labels, and no new head."""


def check_name(name: str | None) -> None:
    """Raise RecipeError unless `name` is a task, or None: to be inferred."""
    if name is not None and name not in KINDS:
        raise RecipeError(f"task={name!r} is not one of {', '.join(NAMES)}", fix=f'task="{NAMES[0]}"')


def infer(inputs: Sequence[Any], labels: Sequence[Label], known: Sequence[str]) -> str:
    """Return the name of the task that the labels call for; `known` are the tasks of the backbone's row.

    No labels: language modelling. Numbers with a point: regress. Several labels for each input: tag where the input
    is a list of words, else multilabel. Everything else: classify.
    """
    if all(label is None for label in labels):
        return next((name for name in LANGUAGE if name in known), LANGUAGE[0])
    if any(isinstance(label, tuple) for label in labels):
        return "tag" if all(isinstance(item, list) for item in inputs) else "multilabel"
    return "regress" if any(isinstance(label, float) for label in labels) else "classify"


def check(name: str, inputs: Sequence[Any], labels: Sequence[Label]) -> None:
    """Raise DataError for data that does not suit the task: no labels, or texts whose words and tags do not match."""
    if name not in LANGUAGE and any(label is None for label in labels):
        raise DataError(
            f"the data has no labels, and {name} learns from labels",
            fix="name their column (label=…, --label), put the inputs into a folder per class, or task=masked-lm",
        )
    if name == "tag":
        tag.check(inputs, labels)


def make(name: str, labels: Sequence[Label]) -> Task:
    """Return the task called `name`, learnt from the labels of the training examples."""
    check_name(name)
    return KINDS[name].of(labels)


def from_dict(saved: Mapping[str, Any]) -> Task:
    """Rebuild a task from what a saved model holds."""
    check_name(saved["name"])
    return KINDS[saved["name"]].restore(saved)
