"""Which examples saliency is shown of, and of which output: the worst errors, and the surest right answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.evidence.report.facts import Part
from zoo.tasks import Task
from zoo.tasks.regress import Regress

ERRORS, RIGHT = 6, 3
"""Worst errors, and right answers (of a classifier, each of another class), at most."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A linear combination of the outputs of one example, `weight` (K,): how far it leans `towards` over `against`.

    index   of the example among those of its part
    word    of a tagger, the number of the word whose outputs they are
    wrong   whether the answer is wrong
    """

    index: int
    weight: Tensor
    towards: str
    against: str
    wrong: bool = True
    word: int | None = None


def chosen(task: Task, part: Part) -> list[Contrast]:
    """Return the contrasts of a part: the worst errors first, then right answers; [] for language models."""
    if not task.labelled:
        return []
    unread: Any = [[""] * len(words) for words in part.targets] if task.name == "tag" else range(len(part))
    mistakes = task.mistakes(unread, part.values, part.targets)[:ERRORS]
    errors = [_of_error(task, part, mistake.index) for mistake in mistakes]
    return [*errors, *(_right(task, part) if task.single_label else ())]


def _of_error(task: Task, part: Part, index: int) -> Contrast:
    outputs, target = part.values[index], part.targets[index]
    if task.name == "tag":
        word = int(torch.nn.functional.cross_entropy(outputs, target, reduction="none").argmax())
        return _of_classes(task, index, outputs[word], int(target[word]), word)
    if isinstance(task, Regress):
        errors = outputs - target
        place = int(errors.abs().argmax())
        sign = 1.0 if errors[place] > 0 else -1.0
        of = f" {task.labels[place]}" if len(task.labels) > 1 else ""
        ends = (f"higher{of}", f"lower{of}")
        return Contrast(index, _unit(outputs, place) * sign * task.std[place], *(ends if sign > 0 else ends[::-1]))
    if task.single_label:
        return _of_classes(task, index, outputs, int(target))
    surest = int(torch.where((outputs >= 0) != (target > 0.5), outputs.abs(), -1.0).argmax())  # of the wrong labels
    ends = (str(task.labels[surest]), f"not {task.labels[surest]}")
    guessed = bool(outputs[surest] >= 0)
    return Contrast(index, _unit(outputs, surest) * (1.0 if guessed else -1.0), *(ends if guessed else ends[::-1]))


def _of_classes(task: Task, index: int, outputs: Tensor, truth: int, word: int | None = None) -> Contrast:
    """Contrast the answer with the truth, or a right answer with the next likely class."""
    best, second = outputs.topk(2).indices.tolist()
    other = truth if best != truth else second
    weight = _unit(outputs, best) - _unit(outputs, other)
    return Contrast(index, weight, str(task.labels[best]), str(task.labels[other]), best != truth, word)


def _right(task: Task, part: Part) -> Iterator[Contrast]:
    """Yield the surest right answer of each of the classes with most of them."""
    answers, sure = part.values.argmax(1), part.values.softmax(1).amax(1)
    right = answers == part.targets
    counts = torch.bincount(answers[right], minlength=len(task.labels))
    for label in counts.argsort(descending=True, stable=True)[:RIGHT].tolist():
        if counts[label]:
            index = int(torch.where(right & (answers == label), sure, -1.0).argmax())
            yield _of_classes(task, index, part.values[index], label)


def _unit(outputs: Tensor, place: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(place), len(outputs)).to(outputs)
