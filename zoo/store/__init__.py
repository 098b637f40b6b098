"""From a source to verified local files, each fetched once; the only place that opens a connection.

<home>/blobs/<sha256>   the files, read-only: one copy, whatever the source or name
<home>/tmp/             what is on its way: <sha256>.part, as far as it has come; nothing there is ever used
<home>/lock.toml        what was pulled: name -> source, commit, files with their hashes, when
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import StoreError
from zoo.plugin import Entry, File, TextInput
from zoo.rows import is_inside
from zoo.store import known, lock
from zoo.store.known import using
from zoo.store.places import blob, home, is_here

__all__ = ["Look", "Plan", "home", "is_pulled", "look", "plan", "pull", "pull_all", "pulled", "receipt", "using"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull of an entry is going to do: all its files, and those of them that are not here yet.

    Files have their hash and size as far as the lock, the row or (asked) the source knows them.
    """

    entry: Entry
    known: known.Known | None
    files: tuple[File, ...]
    missing: tuple[File, ...]

    @property
    def by(self) -> str:
        """Who says what the files have to be."""
        return str(self.known.path) if self.known else self.entry.catalogue or "its row"


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
        if each.known and each.known.path == known.own() and (team := known.shared()):
            with disk_errors(each.entry):
                lock.record(team, each.entry.name, each.known.receipt)
    known.remember_shared()
    return {name: {file.path: blob(file) for file in each} for name, each in files.items()}


def plan(entry: Entry) -> Plan:
    """Return what a pull of an entry would do, without a request; StoreError if its row is of no use."""
    if entry.source is None:
        return Plan(entry, None, (), ())
    before = known.find(entry)
    files = _files(entry, before)
    return Plan(entry, before, files, tuple(file for file in files if before is None or not is_here(file)))


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
    before = known.find(entry)
    if before is not None and all(map(is_here, before.receipt.files)):
        return Look({file.path: file for file in before.receipt.files}, entry, before.receipt.commit, here=True)
    from zoo.store import sources

    files, commit = sources.listing(entry)
    return Look({file.path: file for file in files}, entry, commit, here=False)


def pulled(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the bytes of those entries whose every file is here, by name; no request, and nothing is hashed."""
    locked = known.read()
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
    wanted = _paths(entry) if entry.files else list(recorded)
    fits = all(
        path in recorded and listed.get(path) in (None, recorded[path].sha256) and is_here(recorded[path])
        for path in wanted
    )
    return [recorded[path] for path in wanted] if fits else []


def receipt(name: str) -> dict[str, Any] | None:
    """Return what the locks know of a pulled name: source, commit, files (path, sha256, bytes), when; else None."""
    found = known.read().get(name)
    return None if found is None else {**asdict(found.receipt), "files": [asdict(f) for f in found.receipt.files]}


def _paths(entry: Entry) -> list[str]:
    """Return the paths an entry asks for: those it lists; a Hub repository without a list, its usual weight file."""
    if not entry.files and (entry.source or "").startswith("hf://"):
        return ["model.safetensors"]
    return [file.path for file in entry.files]


def _files(entry: Entry, before: known.Known | None) -> tuple[File, ...]:
    """Return the files to have, with the bytes expected: the lock's word, which the row may not contradict."""
    from zoo.store.sources import row_of

    where, paths = row_of(entry), _paths(entry)
    if not paths:
        what = f"{entry.name}: {entry.source} is named as source, but no files of it"
        raise StoreError(what, fix=f'add files = [{{ path = "model.safetensors" }}] to {where}')
    for path in paths:
        if not is_inside(path):
            what = f"{entry.name}: the path {path!r} leaves its source; it has to be relative, with / and without .."
            raise StoreError(what, fix=f"correct files in {where}")
    listed = {file.path: file for file in entry.files}
    recorded = {file.path: file for file in before.receipt.files} if before else {}
    for path in listed.keys() & recorded.keys():
        row, locked = listed[path], recorded[path]
        if row.sha256 not in (None, locked.sha256):
            what = f"{entry.name}: {path} has sha256 {row.sha256} in {where}, but {locked.sha256} was pulled before"
            fix = f"zoo pull {entry.name} --update   (accepts the row; {before and before.path} has the other)"
            raise StoreError(what, fix=fix)
    return tuple(recorded.get(path) or listed.get(path) or File(path) for path in dict.fromkeys(paths))


@contextmanager
def disk_errors(entry: Entry) -> Iterator[None]:
    """Turn a full disk or a folder without permission into a StoreError; sources report their own failures."""
    try:
        yield
    except OSError as error:
        where = error.filename or home()
        what = f"{entry.name}: the store cannot be written: {where}: {error.strerror or error}"
        fix = f"free some space (zoo gc), or use another folder: ZOO_HOME=/another/folder zoo pull {entry.name}"
        raise StoreError(what, fix=fix) from error
