"""From a source to verified local files, each fetched once; the only place that opens a connection.

<home>/blobs/<sha256>   the files, read-only: one copy, whatever the source or name
<home>/tmp/             what is on its way; nothing there is ever used
<home>/lock.toml        what was pulled: name -> source, commit, files with their hashes, when
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.console import MEGABYTES, Bar
from zoo.errors import StoreError
from zoo.plugin import Entry, File, TextInput
from zoo.rows import is_inside
from zoo.store import lock

__all__ = ["Look", "home", "is_pulled", "look", "pull", "pulled", "receipt"]


def home() -> Path:
    """Return the store's folder: $ZOO_HOME, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo."""
    environ = os.environ
    folder = environ.get("ZOO_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "zoo")
    return Path(os.path.expanduser(folder)).absolute()


def pull(entry: Entry) -> dict[str, Path]:
    """Return the files of an entry by their path in the source, fetched and verified where they are not here yet.

    What the lock knows is answered without a request; a file that has gone is fetched again as the lock has it.
    Raises StoreError, and then nothing unverified is kept.
    """
    if entry.source is None:
        return {}
    known = _known(entry)
    files = _files(entry, known)
    missing = [file for file in files if known is None or not _is_here(file)]
    if missing:
        with _disk_errors(entry):
            files = _fetch(entry, known, files, missing)
    return {file.path: _blob(file) for file in files}


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
            return {path: _blob(self.files[path]) for path in paths}
        from zoo.store import fetch, sources

        with _disk_errors(self.entry):
            remotes = sources.locate(self.entry, paths, self.commit)
            pairs = ((remote, self.files[remote.path]) for remote in remotes)
            fetched = [
                fetch.fetch(remote, file, self.entry.name, "the listing", home(), _unseen) for remote, file in pairs
            ]
        return {file.path: _blob(file) for file in fetched}


def _unseen(arrived: int) -> None:
    """Small files show no progress."""


def look(name: str, source: str) -> Look:
    """Look at what a source holds, under the name that it is going to be pulled by; StoreError if it cannot be seen.

    What was pulled by that name is known without a request.
    """
    entry = Entry(name, name.partition("/")[0], "text", TextInput((), 1), source=source)
    known = _known(entry)
    if known is not None and all(map(_is_here, known.files)):
        return Look({file.path: file for file in known.files}, entry, known.commit, here=True)
    from zoo.store import sources

    files, commit = sources.listing(entry)
    return Look({file.path: file for file in files}, entry, commit, here=False)


def pulled(entries: Iterable[Entry]) -> set[str]:
    """Return the names of those entries whose every file is here, without a request and without hashing anything."""
    locked = lock.read(_lock_path())
    return {entry.name for entry in entries if entry.name in locked and _all_here(entry, locked[entry.name])}


def is_pulled(entry: Entry) -> bool:
    """Tell whether every file of an entry is here; for many of them at once, `pulled` reads the lock once."""
    return entry.name in pulled([entry])


def _all_here(entry: Entry, known: lock.Receipt) -> bool:
    if entry.source != known.source:
        return False
    if not entry.files:
        return all(map(_is_here, known.files))
    recorded = {file.path: file for file in known.files}
    listed = {file.path: file.sha256 for file in entry.files}
    return all(
        path in recorded and listed.get(path) in (None, recorded[path].sha256) and _is_here(recorded[path])
        for path in _paths(entry)
    )


def receipt(name: str) -> dict[str, Any] | None:
    """Return what the lock knows of a pulled name: source, commit, files (path, sha256, bytes), when; else None."""
    known = lock.read(_lock_path()).get(name)
    return None if known is None else {**asdict(known), "files": [asdict(file) for file in known.files]}


def _lock_path() -> Path:
    return home() / "lock.toml"


def _blob(file: File) -> Path:
    return home() / "blobs" / str(file.sha256)


def _is_here(file: File) -> bool:
    """Tell whether the blob of a file is here, in its full size: the hash was checked before it got its name."""
    try:
        return file.sha256 is not None and _blob(file).stat().st_size == file.bytes
    except OSError:
        return False


def _known(entry: Entry) -> lock.Receipt | None:
    """Return the lock's row of an entry; the same name from another source is another thing."""
    if entry.source is None:
        return None
    known = lock.read(_lock_path()).get(entry.name)
    return known if known and known.source == entry.source else None


def _paths(entry: Entry) -> list[str]:
    """Return the paths an entry asks for: those it lists; a Hub repository without a list, its usual weight file."""
    if not entry.files and (entry.source or "").startswith("hf://"):
        return ["model.safetensors"]
    return [file.path for file in entry.files]


def _files(entry: Entry, known: lock.Receipt | None) -> tuple[File, ...]:
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
    recorded = {file.path: file for file in known.files} if known else {}
    for path in listed.keys() & recorded.keys():
        row, locked = listed[path], recorded[path]
        if row.sha256 not in (None, locked.sha256):
            what = f"{entry.name}: {path} has sha256 {row.sha256} in {where}, but {locked.sha256} was pulled before"
            fix = f'delete the table ["{entry.name}"] in {_lock_path()} to accept the row, or correct the row'
            raise StoreError(what, fix=fix)
    return tuple(recorded.get(path) or listed.get(path) or File(path) for path in dict.fromkeys(paths))


def _fetch(entry: Entry, known: lock.Receipt | None, files: tuple[File, ...], missing: list[File]) -> tuple[File, ...]:
    """Fetch the missing files, all of one commit, then record them; returns all files with their hashes."""
    from datetime import UTC, datetime

    from zoo.store import fetch, sources

    remotes = sources.locate(entry, [file.path for file in missing], known.commit if known else None)
    by = str(_lock_path()) if known else entry.catalogue or "its row"
    pairs = zip(remotes, missing, strict=True)
    with Bar("pull", sum(remote.size or 0 for remote in remotes), MEGABYTES) as bar:
        fetched = {file.path: fetch.fetch(remote, file, entry.name, by, home(), bar.advance) for remote, file in pairs}
    files = tuple(fetched.get(file.path, file) for file in files)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    lock.record(_lock_path(), entry.name, lock.Receipt(str(entry.source), remotes[0].commit, files, when))
    return files


@contextmanager
def _disk_errors(entry: Entry) -> Iterator[None]:
    """Turn a full disk or a folder without permission into a StoreError; sources report their own failures."""
    try:
        yield
    except OSError as error:
        where = error.filename or home()
        what = f"{entry.name}: the store cannot be written: {where}: {error.strerror or error}"
        fix = f"free some space, or use another folder: ZOO_HOME=/another/folder zoo pull {entry.name}"
        raise StoreError(what, fix=fix) from error
