"""Errors about the source of a catalogue row."""

from __future__ import annotations

from zoo.errors import StoreError
from zoo.plugin import Entry


def row_of(entry: Entry) -> str:
    """Return how messages call the row of an entry."""
    return f"the row of {entry.name}" + (f" in {entry.catalogue}" if entry.catalogue else "")


def bad_source(entry: Entry, rule: str) -> StoreError:
    """Return the error about a source that cannot be understood, or is not there."""
    return StoreError(f"{entry.name}: source {entry.source!r}: {rule}", fix=f"correct source in {row_of(entry)}")
