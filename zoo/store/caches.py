"""Caches in <home>/cache: one size limit for all; the least recently used entries go first, those in use stay.

<home>/cache/<cache>/<entry>        a file or a folder; its mtime is the time of its last use
<home>/cache/<cache>/<entry>.part   one that is being written, or was when its process was killed

An entry is in use while a process holds a shared lock: on the file itself, or on IN_USE in a folder.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.errors import StoreError
from zoo.store import file_locks
from zoo.store.paths import home

VARIABLE = "ZOO_CACHE_GB"
"""Environment variable with the size limit in GB (1e9 bytes); 0 keeps nothing."""
SHARE = 0.25
"""Default limit, as a share of the disk space that is free or taken by the caches."""
IN_USE = ".in-use"
PART = ".part"
_held: dict[Path, IO[bytes]] = {}


@dataclass(frozen=True, slots=True)
class Cached:
    """An entry of a cache: its size in bytes, and the time of its last use in nanoseconds."""

    path: Path
    bytes: int
    used: int


def folder(cache: str) -> Path:
    """Return the folder of a cache. Raises StoreError if ZOO_CACHE_GB is invalid."""
    _given_limit()
    return home() / "cache" / cache


def entries() -> list[Cached]:
    """Return the entries of all caches: parts first, then the least recently used."""
    found = [each for cache in _scan(home() / "cache") if cache.is_dir() for each in map(_look, _scan(cache.path))]
    return sorted(filter(None, found), key=lambda each: (each.path.suffix != PART, each.used, each.path))


def limit(size: int) -> int:
    """Return the size limit of all caches in bytes, given their current size. Raises StoreError."""
    given = _given_limit()
    if given is not None:
        return given
    existing = next(path for path in (home() / "cache", home(), *home().parents) if path.exists())
    return int(SHARE * (shutil.disk_usage(existing).free + size))


def make_room(needed: int, part: Path | None = None) -> bool:
    """Delete entries until `needed` bytes more are within the limit; False if that is impossible.

    `part` is the caller's own, in `needed` already. Parts of killed processes are deleted in any case. Raises
    StoreError if ZOO_CACHE_GB is invalid.
    """
    found = entries()
    most = limit(sum(each.bytes for each in found))
    others = [each for each in found if each.path != part]
    size = sum(each.bytes for each in others)
    for entry in others:
        if entry.path.suffix != PART and (needed > most or size + needed <= most):
            break
        size -= _delete(entry)
    return size + needed <= most


def clear_parts() -> int:
    """Delete what killed processes left half-written; returns the bytes freed."""
    return sum(_delete(entry) for entry in entries() if entry.path.suffix == PART)


def clear() -> int:
    """Delete all entries that are not in use; returns the bytes freed."""
    return sum(map(_delete, entries()))


def new_part(path: Path) -> Path:
    """Return an unused path for writing the entry `path`, to be renamed when complete."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")


def hold(entry: Path) -> None:
    """Create a folder as an entry if needed, and keep it in use until the process ends; no lock if it is read-only."""
    with suppress(OSError):
        while entry not in _held:
            entry.mkdir(parents=True, exist_ok=True)
            file = (entry / IN_USE).open("a+b")
            file_locks.share(file.fileno(), wait=True)
            if (entry / IN_USE).exists():
                _held[entry] = file
            else:  # deleted before it was locked
                file.close()
        os.utime(entry)


def _given_limit() -> int | None:
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise StoreError(f"{VARIABLE}={text} is not a size in GB", fix=f"export {VARIABLE}=20, or unset {VARIABLE}")
    return round(gigabytes * 1e9)


def _scan(path: Path | str) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(path) as found:
        yield from found


def _look(entry: os.DirEntry[str]) -> Cached | None:
    try:
        stat = entry.stat(follow_symlinks=False)
        size = _size(entry.path) if entry.is_dir(follow_symlinks=False) else stat.st_size
    except OSError:  # deleted by another process
        return None
    return Cached(Path(entry.path), size, stat.st_mtime_ns)


def _size(path: str) -> int:
    """Return the size of the files in a folder, in bytes."""
    return sum(
        _size(each.path) if each.is_dir(follow_symlinks=False) else each.stat(follow_symlinks=False).st_size
        for each in _scan(path)
    )


def _delete(entry: Cached) -> int:
    """Delete an entry unless it is in use or read-only; returns the bytes freed."""
    is_folder = entry.path.is_dir() and not entry.path.is_symlink()
    try:
        with (entry.path / IN_USE).open("a+b") if is_folder else entry.path.open("r+b") as file:
            if not file_locks.exclude(file.fileno()):
                return 0
            if not is_folder:
                entry.path.unlink()
            else:
                part = new_part(entry.path)
                shutil.rmtree(entry.path.rename(part))
    except FileNotFoundError:  # another process deleted it
        return entry.bytes
    except OSError:
        return 0
    return entry.bytes
