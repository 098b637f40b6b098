"""Store maintenance: verify pulled files, remove names, collect unreferenced files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zoo.console import say
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import file_locks, lock
from zoo.store import receipts as known
from zoo.store.fetch import hashed
from zoo.store.paths import blob, home, pulling

STALE = 24 * 3600.0
"""Seconds after which an unlocked partial download is removed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of verifying a file of a pulled name: "ok", "missing" or "damaged"."""

    name: str
    file: File
    state: str


def verify(names: Sequence[str] = ()) -> list[Seen]:
    """Rehash the files of pulled names (default: all), without network. Raises StoreError for a name not pulled.

    Damaged files are deleted from the store, so that the next pull downloads them again.
    """
    receipts = {name: each.receipt for name, each in known.read().items()}
    for name in names:
        _check_pulled(name, receipts)
    chosen = {name: receipt for name, receipt in receipts.items() if not names or name in names}
    files = {file.sha256: file for receipt in chosen.values() for file in receipt.files}
    with ThreadPoolExecutor(2) as pool:
        states = dict(zip(files, pool.map(_state, files.values()), strict=True))
    return [Seen(name, file, states[file.sha256]) for name, receipt in chosen.items() for file in receipt.files]


def _state(file: File) -> str:
    path = blob(file)
    try:
        with path.open("rb") as content:
            size, sha256, _ = hashed(content)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "damaged"
    if (size, sha256) == (file.bytes, file.sha256):
        return "ok"
    with suppress(OSError):  # a read-only store keeps it
        path.unlink()
    return "damaged"


def remove(names: Sequence[str]) -> int:
    """Remove names from the user's lock and delete the files that no lock references; returns the bytes freed.

    Raises StoreError for a name that is not in the user's lock; nothing is removed then.
    """
    mine = lock.read(known.own())
    for name in names:
        _check_pulled(name, mine)
    candidates = {file for name in names for file in mine[name].files}
    lock.forget(known.own(), names)
    return _remove_unreferenced(map(blob, candidates))


def collect() -> int:
    """Delete files that no lock references and partial downloads older than a day; returns the bytes freed."""
    return _remove_unreferenced(_files_in("blobs")) + sum(map(_remove_stale, _files_in("tmp")))


def _remove_unreferenced(blobs: Iterable[Path]) -> int:
    """Remove blobs that no lock references; none during a pull, which may be about to. Returns the bytes freed."""
    with file_locks.exclusive(pulling()) as alone:
        if not alone:
            say("kept", "a pull is running: files that no backbone uses are removed by the next zoo gc")
            return 0
        referenced = {file.sha256 for receipt in known.everywhere() for file in receipt.files}
        return sum(_remove(path) for path in blobs if path.name not in referenced)


def _files_in(folder: str) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from sorted((home() / folder).iterdir())


def _remove_stale(path: Path) -> int:
    """Remove a stale partial download or its lock file unless a process holds the lock; returns the bytes freed."""
    import filelock

    guard = path.with_suffix(".lock")
    with suppress(filelock.Timeout, FileNotFoundError), filelock.FileLock(guard, timeout=0, is_singleton=False):
        if path.suffix == ".lock":
            if not path.with_suffix(".part").exists():
                path.unlink(missing_ok=True)
            return 0
        if abs(time.time() - path.stat().st_mtime) > STALE:
            return _remove(path)
    return 0


def _remove(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror}", fix=f"chmod -R u+w '{home()}'") from error
    return size


def _check_pulled(name: str, receipts: Mapping[str, lock.Receipt]) -> None:
    if name not in receipts:
        raise StoreError(f"{name} is not pulled", fix="zoo list --pulled   (lists pulled names)")
