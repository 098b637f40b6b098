"""Pull entries into the store, look at a source, and tell what is already here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.plugin import Entry, File, TextInput
from zoo.store import lock, receipts
from zoo.store.paths import blob, is_here
from zoo.store.pull_plan import disk_errors, paths, plan


def pull(entry: Entry) -> dict[str, Path]:
    """Return the files of an entry by their path in the source, fetched and verified where they are not here yet.

    What a lock knows is answered without a request; a file that has gone is fetched again as the lock has it.
    Raises StoreError, and then nothing unverified is kept.
    """
    return pull_all([entry])[entry.name]


def pull_all(entries: Iterable[Entry]) -> dict[str, dict[str, Path]]:
    """Return the files of several entries by name; what is missing of them is fetched at once.

    Raises StoreError if one cannot be had; those that can are here then.
    """
    plans = [plan(entry) for entry in entries]
    files = {each.entry.name: each.files for each in plans}
    if any(each.missing for each in plans):
        from zoo.store import transfer

        files |= transfer.fetch_all([each for each in plans if each.missing])
    for each in plans:
        if each.known and each.known.path == receipts.own() and (team := receipts.shared()):
            with disk_errors(each.entry):
                lock.record(team, each.entry.name, each.known.receipt)
    receipts.remember_shared()
    return {name: {file.path: blob(file) for file in each} for name, each in files.items()}


@dataclass(frozen=True, slots=True)
class Look:
    """What a source holds (a zoo.plugin.Repository), all of one commit; small files of it can be fetched."""

    files: Mapping[str, File]
    entry: Entry
    commit: str | None
    here: bool

    def fetch(self, *paths: str) -> dict[str, Path]:
        """Return verified local copies of some of the files, by path; StoreError if one cannot be had."""
        if self.here:
            return {path: blob(self.files[path]) for path in paths}
        from zoo.store import transfer

        found = transfer.fetch_some(self.entry, [self.files[path] for path in paths], self.commit)
        return {file.path: blob(file) for file in found}


def look(name: str, source: str) -> Look:
    """Look at what a source holds, under the name that it is going to be pulled by; StoreError if it cannot be seen.

    What was pulled by that name is known without a request.
    """
    entry = Entry(name, name.partition("/")[0], "text", TextInput((), 1), source=source)
    before = receipts.find(entry)
    if before is not None and all(map(is_here, before.receipt.files)):
        return Look({file.path: file for file in before.receipt.files}, entry, before.receipt.commit, here=True)
    from zoo.store import sources

    files, commit = sources.listing(entry)
    return Look({file.path: file for file in files}, entry, commit, here=False)


def pulled(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the bytes of those entries whose every file is here, by name; no request, and nothing is hashed."""
    locked = receipts.read()
    here = ((entry, _all_here(entry, locked[entry.name].receipt)) for entry in entries if entry.name in locked)
    return {entry.name: sum(file.bytes or 0 for file in files) for entry, files in here if files}


def is_pulled(entry: Entry) -> bool:
    """Tell whether every file of an entry is here; for many of them at once, `pulled` reads the locks once."""
    return entry.name in pulled([entry])


def _all_here(entry: Entry, receipt: lock.Receipt) -> list[File]:
    """Return the files of an entry if all of them are here, else none."""
    if entry.source != receipt.source:
        return []
    recorded = {file.path: file for file in receipt.files}
    listed = {file.path: file.sha256 for file in entry.files}
    wanted = paths(entry) if entry.files else list(recorded)
    fits = all(
        path in recorded and listed.get(path) in (None, recorded[path].sha256) and is_here(recorded[path])
        for path in wanted
    )
    return [recorded[path] for path in wanted] if fits else []


def receipt(name: str) -> dict[str, Any] | None:
    """Return what the locks know of a pulled name: source, commit, files (path, sha256, bytes), when; else None."""
    found = receipts.read().get(name)
    return None if found is None else {**asdict(found.receipt), "files": [asdict(f) for f in found.receipt.files]}
