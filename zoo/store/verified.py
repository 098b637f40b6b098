"""Verify blobs when they are loaded: each is hashed once, and again whenever its file has changed.

<home>/verified-<user>/<sha256>   device, inode, size and times of a blob whose hash was verified

Only the user can write there. Where that is impossible, as in a read-only store, each process hashes once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from zoo.errors import StoreError
from zoo.store import private

_verified: dict[Path, str] = {}
"""Stamps of the blobs that this process has verified."""


def check(name: str, files: Mapping[str, Path]) -> None:
    """Verify the blobs of backbone `name`. Raises StoreError for one that is missing, or not what its hash says.

    A damaged blob is deleted from the store, so that the next pull downloads it again.
    """
    unknown = {blob: path for path, blob in files.items() if not is_known(blob)}
    if not unknown:
        return
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and seldom needed

    with ThreadPoolExecutor(2) as pool:
        hashes = dict(zip(unknown, pool.map(_hash, unknown), strict=True))
    for blob, found in hashes.items():
        if found == blob.name:
            continue
        state = "is missing" if found is None else f"was changed after its download: its SHA-256 is {found}"
        with suppress(OSError):  # a read-only store keeps it
            blob.unlink()
        fix = f"zoo pull {name}"
        if blob.exists():
            fix = f"ZOO_HOME=/another/folder zoo pull {name}   (this store is read-only: its owner has to pull again)"
        raise StoreError(f"{name}: {unknown[blob]} in the store, {blob}, {state}", fix=fix)


def verify(blob: Path) -> bool:
    """Hash a blob and remember the result; False if it is missing or damaged."""
    found = _hash(blob)
    if found != blob.name:
        _forget(blob)
    return found == blob.name


def is_known(blob: Path) -> bool:
    """Return whether the hash of a blob was verified and its file has not changed since."""
    try:
        stamp = _stamp(blob)
        if _verified.get(blob) != stamp:
            record = _record(blob)
            if record is None or record.read_text("ascii") != stamp:
                return False
            _verified[blob] = stamp
    except (OSError, ValueError):
        return False
    return True


def remember(blob: Path, stamp: str | None = None) -> None:
    """Record that the hash of a blob was verified, when it had this stamp (default: its present one)."""
    with suppress(OSError):
        _verified[blob] = stamp = stamp or _stamp(blob)
        if record := _record(blob):
            part = record.with_name(f"{record.name}.{os.getpid()}.part")
            part.write_text(stamp, "ascii")
            part.replace(record)


def _forget(blob: Path) -> None:
    _verified.pop(blob, None)
    with suppress(OSError):
        if record := _record(blob):
            record.unlink()


def folder(home: Path) -> Path:
    """Return the folder of this user's records in a store."""
    return home / f"verified-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}"


def _record(blob: Path) -> Path | None:
    """Return the path of a blob's record; None if others can write there."""
    records = folder(blob.parents[1])
    return records / blob.name if private.make_folder(records) else None


def _stamp(blob: Path) -> str:
    """Return what changes with a file's content: a restored mtime still changes the ctime."""
    found = blob.stat()
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _hash(blob: Path) -> str | None:
    """Return the SHA-256 of a blob, None if it is missing; remembers one that is right."""
    import hashlib  # loads OpenSSL

    try:
        stamp = _stamp(blob)  # before hashing: a change in between is noticed the next time
        with blob.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    if found == blob.name:
        remember(blob, stamp)
    return found
