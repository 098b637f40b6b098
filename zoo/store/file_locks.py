"""Advisory file locks, shared or exclusive; the OS releases those of a killed process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO


def share(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file against `exclude`, until it and all its duplicates are closed; False if it is excluded.

    A file system without locks returns True: its files are used nevertheless.
    """
    return _lock(descriptor, "LOCK_SH", wait=wait, unsupported=True)


def exclude(descriptor: int, *, unsupported: bool = False) -> bool:
    """Lock an open file exclusively without waiting; False if it is locked, `unsupported` on a file system without.

    On NFS the file must be open for writing.
    """
    return _lock(descriptor, "LOCK_EX", wait=False, unsupported=unsupported)


def _lock(descriptor: int, kind: str, *, wait: bool, unsupported: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, which refuses to delete an open file anyway
        return True
    try:
        fcntl.flock(descriptor, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return unsupported
    return True


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Hold a shared lock on a file within the block, created if needed; no lock in a read-only folder."""
    with _opened(path) as file:
        if file is not None:
            share(file.fileno(), wait=True)
        yield


def hold(path: Path) -> IO[bytes] | None:
    """Return a file with a shared lock, held until it is garbage; None in a read-only folder."""
    file = _open(path)
    if file is not None:
        share(file.fileno(), wait=True)
    return file


@contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Try to hold an exclusive lock on a file within the block; yields whether nothing else holds one."""
    with _opened(path) as file:
        yield file is None or exclude(file.fileno())


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes] | None]:
    file = _open(path)
    with file or nullcontext():
        yield file


def _open(path: Path) -> IO[bytes] | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
    except OSError:
        return None
