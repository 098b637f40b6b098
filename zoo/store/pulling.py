"""Pull entries into the store, list the files of a source, and query what has been pulled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from zoo.plugin import Entry, File, TextInput
from zoo.store import file_locks, kept_rows, lock, receipts, verified
from zoo.store.paths import blob, is_here, pulling
from zoo.store.pull_plan import disk_errors, paths, plan
from zoo.weights.guard import connections_allowed


def pull(entry: Entry) -> dict[str, Path]:
    """Return the local files of an entry by their path in the source; missing ones are downloaded and verified.

    Makes no request if the files in the lock are in the store; a missing file is downloaded again at the locked
    commit and hash. Raises StoreError, and then nothing unverified is kept.
    """
    return pull_all([entry])[entry.name]


def pull_all(entries: Iterable[Entry]) -> dict[str, dict[str, Path]]:
    """Return the local files of several entries by name; missing files are downloaded concurrently.

    Raises StoreError if one entry fails; the others are pulled nevertheless. No file is removed meanwhile.
    """
    receipts.remember_shared()
    with file_locks.shared(pulling()):
        return _pull_all([*entries])


def _pull_all(entries: Sequence[Entry]) -> dict[str, dict[str, Path]]:
    plans = [plan(entry) for entry in entries]
    files = {each.entry.name: each.files for each in plans}
    if any(each.missing for each in plans):
        from zoo.store import transfer

        files |= transfer.fetch_all([each for each in plans if each.missing])
    for each in plans:
        if each.known is None or each.missing:
            continue
        recorded = kept_rows.keep(each.entry, each.known.receipt)
        if each.known.path == receipts.own() and (team := receipts.shared()):
            with disk_errors(each.entry):
                lock.record(team, each.entry.name, recorded)
    return {name: {file.path: blob(file) for file in each} for name, each in files.items()}


@dataclass(frozen=True, slots=True)
class Look:
    """File listing of a source at one commit (a zoo.plugin.Repository); small files can be fetched.

    No file is removed from the store while it exists.
    """

    files: Mapping[str, File]
    entry: Entry
    commit: str | None
    here: bool
    lock: IO[bytes] | None

    @connections_allowed()
    def fetch(self, *paths: str) -> dict[str, Path]:
        """Download the given files and return their verified local copies by path. Raises StoreError."""
        found = [self.files[path] for path in paths]
        if not self.here:
            from zoo.store import transfer

            found = transfer.fetch_some(self.entry, found, self.commit)
        local = {file.path: blob(file) for file in found}
        verified.check(self.entry.name, local)
        return local


@connections_allowed()
def look(name: str, source: str) -> Look:
    """List the files of a source for a backbone called `name`. Raises StoreError if it cannot be listed.

    If `name` was pulled from that source, the files in the lock are returned without a request.
    """
    entry = Entry(name, name.partition("/")[0], "text", TextInput((), 1), source=source)
    held = file_locks.hold(pulling())
    before = receipts.find(entry)
    if before is not None and all(map(is_here, before.receipt.files)):
        files, commit, here = before.receipt.files, before.receipt.commit, True
    else:
        from zoo.store import sources

        (files, commit), here = sources.listing(entry), False
    return Look({file.path: file for file in files}, entry, commit, here, held)


def pulled(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the total size in bytes of each fully pulled entry by name, without requests or hashing."""
    locked = receipts.read()
    here = ((entry, _pulled_files(entry, locked[entry.name].receipt)) for entry in entries if entry.name in locked)
    return {entry.name: sum(file.bytes or 0 for file in files) for entry, files in here if files}


def load(entry: Entry) -> dict[str, Path]:
    """Return the local files of an entry like `pull`, with the hashes of all files verified. Raises StoreError."""
    files = pull(entry)
    verified.check(entry.name, files)
    return files


def is_pulled(entry: Entry) -> bool:
    """Return whether all files of an entry are in the store; for many entries, `pulled` reads the locks once."""
    return entry.name in pulled([entry])


def _pulled_files(entry: Entry, receipt: lock.Receipt) -> list[File]:
    """Return the files of an entry if all of them are in the store and match the row, else []."""
    if entry.source != receipt.source:
        return []
    recorded = {file.path: file for file in receipt.files}
    listed = {file.path: file.sha256 for file in entry.files}
    wanted = paths(entry) if entry.files else list(recorded)
    complete = all(
        path in recorded and listed.get(path) in (None, recorded[path].sha256) and is_here(recorded[path])
        for path in wanted
    )
    return [recorded[path] for path in wanted] if complete else []


def receipt(name: str) -> dict[str, Any] | None:
    """Return the receipt of a name as a dict: source, commit, files (path, sha256, bytes), when; None if not pulled."""
    found = receipts.read().get(name)
    if found is None:
        return None
    facts = {key: value for key, value in asdict(found.receipt).items() if key != "row"}
    return {**facts, "files": [asdict(file) for file in found.receipt.files]}
