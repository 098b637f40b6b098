"""Rows that plugins resolved, kept in the receipts of their backbones: later calls need not import the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from zoo.errors import StoreError
from zoo.plugin import Entry, File
from zoo.store import lock, receipts

ORIGIN = ("resolved_by", "commit")
"""Keys of a kept row beside its fields: distribution and version of the plugin, and the commit it was resolved from."""


def row(entry: Entry, commit: str | None, files: tuple[File, ...]) -> Mapping[str, Any] | None:
    """Return the row to keep in a receipt of `commit` and `files`; None if it is a catalogue row or of other files."""
    same = [file.path for file in files] == [file.path for file in entry.files]
    return entry.resolved if same and lock.is_valid_row(entry.resolved, commit) else None


def find(name: str, source: str, resolver: str) -> lock.Receipt | None:
    """Return the receipt of a name with its row; None unless `resolver` resolved it from this source.

    The row is read from the lock that takes precedence, else from the user's lock if that has the same files.
    """
    known = None if receipts.updating() else receipts.read().get(name)
    if known is None or known.receipt.source != source:
        return None
    for receipt in (known.receipt, lock.read(receipts.own()).get(name)):
        if receipt and receipt.row and receipt.row["resolved_by"] == resolver and _is_same(receipt, known.receipt):
            return receipt
    return None


def keep(entry: Entry, receipt: lock.Receipt) -> lock.Receipt:
    """Return the receipt of a pulled entry with its row, after adding that to the user's lock."""
    kept = row(entry, receipt.commit, receipt.files)
    if kept is None or kept == receipt.row:
        return receipt
    mine = lock.read(receipts.own()).get(entry.name)
    if mine and mine.row != kept and _is_same(mine, receipt):
        with suppress(OSError, StoreError):  # without it the next call resolves again
            lock.record(receipts.own(), entry.name, replace(mine, row=kept))
    return replace(receipt, row=kept)


def _is_same(a: lock.Receipt, b: lock.Receipt) -> bool:
    return (a.source, a.commit, a.files) == (b.source, b.commit, b.files)
