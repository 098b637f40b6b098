"""Tasks: what the head looks like, what is minimised, what is measured, what an answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zoo.data.examples import Label
from zoo.errors import RecipeError
from zoo.tasks.classify import Classify
from zoo.tasks.task import Prediction, Task

__all__ = ["NAMES", "Classify", "Prediction", "Task", "check_name", "from_dict", "infer"]

_MAKERS: dict[str, Callable[[Sequence[Label]], Task]] = {"classify": Classify.of}
NAMES = tuple(_MAKERS)


def check_name(name: str | None) -> None:
    """Raise RecipeError unless `name` is a task, or None: to be inferred."""
    if name is not None and name not in _MAKERS:
        raise RecipeError(f"task={name!r} is not one of {', '.join(NAMES)}", fix=f'task="{NAMES[0]}"')


def infer(labels: Sequence[Label], name: str | None = None) -> Task:
    """Return the task that the labels call for, or the one named; raises RecipeError for an unknown name."""
    chosen = name or "classify"  # the readers let only texts and whole numbers through
    check_name(chosen)
    return _MAKERS[chosen](labels)


def from_dict(saved: Mapping[str, Any]) -> Task:
    """Rebuild a task from what a saved model holds: its name and its labels."""
    return infer(saved["labels"], saved["name"])
