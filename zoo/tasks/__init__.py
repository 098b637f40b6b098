"""Tasks: head, targets, loss, metrics and decoding of classification, regression, tagging and language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data.examples import Label
from zoo.errors import RecipeError
from zoo.tasks import classes
from zoo.tasks.classify import Classify
from zoo.tasks.language_model import CausalLM, MaskedLM
from zoo.tasks.multilabel import Multilabel
from zoo.tasks.regress import Regress
from zoo.tasks.tag import Tag
from zoo.tasks.task import Mistake, Prediction, Task, score

__all__ = [
    "KINDS",
    "NAMES",
    "Classify",
    "Mistake",
    "Prediction",
    "Task",
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


def check_name(name: str | None) -> None:
    """Raise RecipeError unless `name` is a task, or None (inferred from the labels)."""
    if name is not None and name not in KINDS:
        raise RecipeError(f"task={name!r} is not one of {', '.join(NAMES)}", fix=f'task="{NAMES[0]}"')


def infer(inputs: Sequence[Any], labels: Sequence[Label], known: Sequence[str]) -> str:
    """Infer the task from the labels; `known` are the tasks of the backbone's row.

    No labels: language modelling. Floats, one or several, and numbers by name: regress. Several labels for each input:
    tag where the input is a list of words, else multilabel. Everything else: classify.
    """
    if all(label is None for label in labels):
        unlabelled = [name for name, kind in KINDS.items() if not kind.labelled]
        return next((name for name in unlabelled if name in known), unlabelled[0])
    several = [label for label in labels if isinstance(label, tuple)]
    if any(isinstance(label, dict | float) for label in labels) or any(map(_are_numbers, several)):
        return "regress"
    if several:
        return "tag" if all(isinstance(item, list) for item in inputs) else "multilabel"
    return "classify"


def _are_numbers(label: tuple[Label, ...]) -> bool:
    return any(isinstance(value, float) for value in label)


def make(name: str, labels: Sequence[Label]) -> Task:
    """Create the task called `name` from the labels of the training examples."""
    check_name(name)
    return KINDS[name].of(labels)


def from_dict(saved: Mapping[str, Any]) -> Task:
    """Create a task from the manifest of a saved model. Raises ValueError for labels that are no distinct classes."""
    check_name(saved["name"])
    kind, labels = KINDS[saved["name"]], saved["labels"]
    classes.check(labels)
    if bool(labels) != kind.labelled:
        raise ValueError(f"{len(labels)} labels of the task {kind.name}")
    return kind.restore(saved)
