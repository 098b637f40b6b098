"""Pull plans: the files of an entry with their expected hashes, and those missing from the store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zoo.errors import StoreError
from zoo.plugin import Entry, File
from zoo.store import receipts
from zoo.store.paths import home, is_here, is_inside
from zoo.store.source_errors import row_of


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of an entry, and those of them missing from the store.

    Files have hash and size if the lock, the row or (after `transfer.survey`) the source provides them.
    """

    entry: Entry
    known: receipts.Known | None
    files: tuple[File, ...]
    missing: tuple[File, ...]

    @property
    def by(self) -> str:
        """Origin of the expected hashes and sizes: the lock, else the catalogue."""
        return str(self.known.path) if self.known else self.entry.catalogue or "its row"


def plan(entry: Entry) -> Plan:
    """Plan the pull of an entry without network access. Raises StoreError if its row is invalid."""
    if entry.source is None:
        return Plan(entry, None, (), ())
    before = receipts.find(entry)
    files = _files(entry, before)
    return Plan(entry, before, files, tuple(file for file in files if before is None or not is_here(file)))


def paths(entry: Entry) -> list[str]:
    """Return the file paths of an entry; for a Hub source without a list, the default is model.safetensors."""
    if not entry.files and (entry.source or "").startswith("hf://"):
        return ["model.safetensors"]
    return [file.path for file in entry.files]


def _files(entry: Entry, before: receipts.Known | None) -> tuple[File, ...]:
    """Return the files of an entry with the hashes and sizes of the lock, which the row must not contradict."""
    where, wanted = row_of(entry), paths(entry)
    if not wanted:
        what = f"{entry.name}: the row has source {entry.source}, but no files"
        raise StoreError(what, fix=f'add files = [{{ path = "model.safetensors" }}] to {where}')
    for path in wanted:
        if not is_inside(path):
            what = f"{entry.name}: path {path!r} is outside its source; it must be relative, with / and without .."
            raise StoreError(what, fix=f"correct files in {where}")
    listed = {file.path: file for file in entry.files}
    recorded = {file.path: file for file in before.receipt.files} if before else {}
    for path in listed.keys() & recorded.keys():
        row, locked = listed[path], recorded[path]
        if row.sha256 not in (None, locked.sha256):
            what = f"{entry.name}: {path} has sha256 {row.sha256} in {where}, but {locked.sha256} was pulled before"
            fix = f"zoo pull {entry.name} --update   (accepts the row; {before and before.path} records the other)"
            raise StoreError(what, fix=fix)
    return tuple(recorded.get(path) or listed.get(path) or File(path) for path in dict.fromkeys(wanted))


@contextmanager
def disk_errors(entry: Entry) -> Iterator[None]:
    """Convert OSError, such as a full disk or missing permissions, to StoreError."""
    try:
        yield
    except OSError as error:
        where = error.filename or home()
        what = f"{entry.name}: the store cannot be written: {where}: {error.strerror or error}"
        fix = f"free some space (zoo gc), or use another folder: ZOO_HOME=/another/folder zoo pull {entry.name}"
        raise StoreError(what, fix=fix) from error
