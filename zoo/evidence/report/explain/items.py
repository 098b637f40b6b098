"""Examples that an explanation refers to, and their labels as texts."""

from __future__ import annotations

from zoo.evidence.report.explain.explanation import Item
from zoo.evidence.report.facts import Part


def item(part: Part, row: int, answer: object = "") -> Item:
    """Return one of the examples of a part that were run; `row` is its place among them."""
    index = part.chosen[row]
    return Item(part.name, index, as_text(part.whole.examples.labels[index]), as_text(answer))


def as_text(label: object) -> str:
    """Return a label as text: several joined by commas, numbers with four digits."""
    if isinstance(label, tuple | list):
        return ", ".join(map(as_text, label))
    if isinstance(label, dict):
        return ", ".join(f"{name} {as_text(value)}" for name, value in label.items())
    return f"{label:.4g}" if isinstance(label, float) else "" if label is None else str(label)
