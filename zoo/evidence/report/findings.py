"""Finding: one thing that a report says about a model or its data, with its evidence and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from zoo.data.examples import Label


@dataclass(frozen=True, slots=True)
class Item:
    """An example that a finding is about.

    part, index   its part, and its place in Part.whole
    note          what to see, in a few words
    suggested     a label that fits better, None without any
    score         how well it fits, lower is worse: a probability, a similarity; None without any
    """

    part: str
    index: int
    note: str = ""
    suggested: Label = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, how it is known, how sure that is, and what to do.

    kind        machine-readable: label-issues, near-duplicates, overfitting, few-validation-examples, …
    what        one sentence
    evidence    the numbers that it rests on, with an interval or a p-value where it is a claim
    confidence  "certain", "likely" or "possible"
    fix         a command or an edit that works
    items       the examples it is about, the worst first
    """

    kind: str
    what: str
    evidence: str
    confidence: str
    fix: str
    items: tuple[Item, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the items."""
        return {name: value for name, value in asdict(self).items() if name != "items"}
