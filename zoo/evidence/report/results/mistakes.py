"""The mistakes that a report shows: the worst of each kind first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from zoo.evidence.report.facts import Part
from zoo.tasks import Mistake, Task

MAX_MISTAKES, MAX_ERRORS = 120, 24
"""Most mistakes that are shown; of numbers, nearly all of which are a little wrong, largest errors."""
ROUNDING = 1e-5
"""Standard deviations of training to which numbers are rounded: they were standardised in float32."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text with its true tag and the answer."""

    text: str
    truth: str
    answer: str

    @property
    def wrong(self) -> bool:
        """Whether the answer is not the truth."""
        return self.truth != self.answer


@dataclass(frozen=True, slots=True)
class ShownMistake:
    """A mistake, with all words of a text where they have tags; `index` is that in the part's examples."""

    mistake: Mistake
    words: tuple[Word, ...] = ()

    @property
    def index(self) -> int:
        """Index in Part.examples."""
        return self.mistake.index


@dataclass(frozen=True, slots=True)
class Mistakes:
    """The mistakes that are shown, highest loss first, of `count` in all."""

    shown: tuple[ShownMistake, ...]
    count: int


def mistakes(task: Task, part: Part) -> Mistakes | None:
    """Return at most MAX_MISTAKES mistakes, the worst of each confused pair among them; None for language models."""
    if not task.labelled:
        return None
    found = task.mistakes(part.examples.inputs, part.values, part.targets)
    if task.name == "regress":
        chosen = [_rounded(task, mistake) for mistake in found[:MAX_ERRORS]]
    else:
        chosen = _of_every_kind(found) if task.name == "classify" else found[:MAX_MISTAKES]
    return Mistakes(tuple(ShownMistake(each, _words(task, part, each)) for each in chosen), len(found))


def _rounded(task: Task, mistake: Mistake) -> Mistake:
    """Return a mistake whose numbers have no rounding errors: 0 for -3.8e-08."""
    units = [ROUNDING * std for std in task.to_dict()["std"]]

    def rounded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(round(each / unit) * unit for each, unit in zip(value, units, strict=True))
        return round(value / units[0]) * units[0]

    return replace(mistake, truth=rounded(mistake.truth), answer=rounded(mistake.answer))


def _of_every_kind(found: Sequence[Mistake]) -> list[Mistake]:
    """Return mistakes, one of each confused pair of classes after the other, in the order they had."""
    kinds: dict[tuple[Any, Any], list[int]] = defaultdict(list)
    for place, mistake in enumerate(found):
        kinds[mistake.truth, mistake.answer].append(place)
    ranked = sorted((rank, place) for places in kinds.values() for rank, place in enumerate(places))
    return [found[place] for place in sorted(place for _, place in ranked[:MAX_MISTAKES])]


def _words(task: Task, part: Part, mistake: Mistake) -> tuple[Word, ...]:
    if task.name != "tag":
        return ()
    rows = part.values[mistake.index].argmax(1).tolist(), part.targets[mistake.index].tolist()
    names = [str(label) for label in task.labels]
    return tuple(
        Word(str(word), names[truth], names[answer])
        for word, answer, truth in zip(mistake.input, *rows, strict=False)  # words that were cut off have no answer
    )
