"""Store maintenance: verify pulled files, remove names, collect unreferenced files."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.console import say
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import caches, file_locks, lock, model_folders, verified
from zoo.store import receipts as known
from zoo.store.paths import blob, home, is_here, pulling

STALE = 24 * 3600.0
"""Seconds after which an unlocked partial download is removed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Result of verifying a file of a pulled name: "ok", "missing", "damaged", or "size": the lock has another one."""

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
    seen = [Seen(name, file, states[file.sha256]) for name, receipt in chosen.items() for file in receipt.files]
    return [replace(each, state="size") if each.state == "ok" and not is_here(each.file) else each for each in seen]


def _state(file: File) -> str:
    path = blob(file)
    if verified.verify(path):
        return "ok"
    if not path.exists():
        return "missing"
    with suppress(OSError):  # a read-only store keeps it
        path.unlink()
    return "damaged"


def remove(names: Sequence[str]) -> int:
    """Remove names from the user's lock and delete the files that no lock references; returns the bytes freed.

    Raises StoreError for a name that is not in the user's lock; nothing is removed then.
    """
    mine = lock.read(known.own())
    for name in names:
        if name not in mine and (other := known.read().get(name)):
            what = f"{name} is recorded in {other.path} alone, for everyone who works there"
            raise StoreError(what, fix=f"delete the table of {name} from '{other.path}', then: zoo gc")
        _check_pulled(name, mine)
    with _writing():
        lock.forget(known.own(), names)
    for path in known.lock_files():
        if kept := [name for name in lock.read(path) if name in names]:
            say("kept", f"the files that {path} records for {', '.join(kept)}")
    return _remove_unreferenced([blob(file) for name in names for file in mine[name].files])


def collect() -> int:
    """Delete files that no lock references, and what killed processes left; returns the bytes freed."""
    freed = _remove_unreferenced(_files_in("blobs")) + sum(map(_remove_stale, _files_in("tmp")))
    beside = (part for path in known.lock_files() for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"))
    for record in _files_in(verified.folder(home()).name):
        if not (home() / "blobs" / record.name).exists():
            _remove(record)
    with _writing():
        freed += sum(model_folders.remove(part) for part in model_folders.parts() if _is_stale(part))
    return freed + sum(_remove(part) for part in beside if _is_stale(part)) + caches.clear_parts()


def _remove_unreferenced(blobs: Iterable[Path]) -> int:
    """Remove blobs and folders of saved models that no lock references; returns the bytes freed.

    None are removed during a pull, which may be about to reference them.
    """
    with file_locks.exclusive(pulling()) as alone:
        if not alone:
            say("kept", "a pull is running: files that no backbone uses are removed by the next zoo gc")
            return 0
        receipts = list(known.everywhere())
        referenced = {file.sha256 for receipt in receipts for file in receipt.files}
        with _writing():
            freed = sum(map(model_folders.remove, model_folders.unreferenced(receipts)))
        return freed + sum(_remove(path) for path in dict.fromkeys(blobs) if path.name not in referenced)


@contextmanager
def _writing() -> Iterator[None]:
    """Convert OSError, as in a read-only store, to StoreError."""
    try:
        yield
    except OSError as error:
        what = f"the store {home()} cannot be changed: {error.strerror or error}"
        raise StoreError(what, fix=f"chmod -R u+w '{home()}', or leave it to the owner of that folder") from error


def _files_in(folder: str) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted((home() / folder).iterdir())


def _remove_stale(path: Path) -> int:
    """Remove a stale partial download or its lock file unless a process holds the lock; returns the bytes freed."""
    import filelock

    guard = filelock.FileLock(path.with_suffix(".lock"), timeout=0, is_singleton=False)
    with _writing(), suppress(filelock.Timeout, FileNotFoundError), guard:
        if path.suffix == ".lock":
            if not path.with_suffix(".part").exists():
                path.unlink(missing_ok=True)
            return 0
        if _is_stale(path):
            return _remove(path)
    return 0


def _is_stale(path: Path) -> bool:
    with suppress(FileNotFoundError):  # renamed meanwhile by the process that wrote it
        return abs(time.time() - path.lstat().st_mtime) > STALE
    return False


def _remove(path: Path) -> int:
    with _writing(), suppress(FileNotFoundError):
        size = path.lstat().st_size
        path.unlink()
        return size
    return 0


def _check_pulled(name: str, receipts: Mapping[str, lock.Receipt]) -> None:
    if name not in receipts:
        raise StoreError(f"{name} is not pulled", fix="zoo list --pulled   (lists pulled names)")
