"""Error messages about the source of a catalogue row."""

from __future__ import annotations

from zoo.errors import StoreError
from zoo.plugin import Entry


def row_of(entry: Entry) -> str:
    """Return a description of an entry's row for error messages."""
    return f"the row of {entry.name}" + (f" in {entry.catalogue}" if entry.catalogue else "")


def bad_source(entry: Entry, rule: str) -> StoreError:
    """Return the error for a source that is invalid or does not exist."""
    return StoreError(f"{entry.name}: source {entry.source!r}: {rule}", fix=f"correct source in {row_of(entry)}")
