"""One file from its source into the store: stream, hash while it arrives, compare, and only then give it its name."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.errors import StoreError
from zoo.plugin import File

Arrived = Callable[[int], None]
"""Called while a file arrives, with how many bytes more are here."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at its source: where, how to stream its bytes, and what the source says of them beforehand.

    `stream` opens the source anew at each call, and raises StoreError for whatever goes wrong there. `git` is the
    SHA-1 that git knows a small file by: of "blob <bytes>", a zero byte and the content.
    """

    path: str
    url: str
    stream: Callable[[], Generator[bytes]]
    size: int | None = None
    sha256: str | None = None
    git: str | None = None
    commit: str | None = None


def fetch(remote: Remote, file: File, name: str, by: str, folder: Path, arrived: Arrived) -> File:
    """Bring a file into <folder>/blobs unless its bytes are there already; returns it with sha256 and size.

    `file` holds what is expected of it and `by` who says so, `name` is the backbone's. Raises StoreError if the
    bytes are not those expected, OSError if the disk does not take them; either way nothing is kept.
    """
    check = _Check(remote, file, name, by)
    check.announced()
    blobs, partial = folder / "blobs", folder / "tmp"
    for each in (blobs, partial):
        each.mkdir(parents=True, exist_ok=True)
    sha256 = file.sha256 or remote.sha256
    if sha256 and (blobs / sha256).is_file() and (blobs / sha256).stat().st_size == check.size:
        return File(file.path, sha256, (blobs / sha256).stat().st_size)
    handle, part = tempfile.mkstemp(suffix=".part", dir=partial)
    try:
        with os.fdopen(handle, "w+b") as out:
            found = _receive(remote, out, check, arrived)
            os.fsync(out.fileno())
        os.chmod(part, 0o444)
        os.replace(part, blobs / found)
    finally:
        Path(part).unlink(missing_ok=True)
    return File(file.path, found, (blobs / found).stat().st_size)


def _receive(remote: Remote, out: IO[bytes], check: _Check, arrived: Arrived) -> str:
    """Write the bytes of a source while hashing them; returns their SHA-256 once everything agrees."""
    digest, done = hashlib.sha256(), 0
    with closing(remote.stream()) as chunks:
        for chunk in chunks:
            done += len(chunk)
            check.not_beyond(done)
            out.write(chunk)
            digest.update(chunk)
            arrived(len(chunk))
    check.received(done, digest.hexdigest())
    if remote.git:
        check.git(_git_hash(out, done))
    return digest.hexdigest()


def _git_hash(out: IO[bytes], size: int) -> str:
    out.flush()
    out.seek(0)
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while chunk := out.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Check:
    """What a file has to be, by the row or lock and by the source, and the errors if it is not."""

    remote: Remote
    file: File
    name: str
    by: str

    @property
    def size(self) -> int | None:
        return self.remote.size if self.file.bytes is None else self.file.bytes

    def announced(self) -> None:
        """Compare what the source says with what is expected: a wrong file need not be fetched to be refused."""
        pairs = (
            ("SHA-256", self.remote.sha256, self.file.sha256, ""),
            ("a size of", self.remote.size, self.file.bytes, " bytes"),
        )
        for fact, found, expected, unit in pairs:
            if None not in (found, expected) and found != expected:
                raise self._error(f"{fact} {found}{unit}", f"{expected}{unit}", self.by)

    def not_beyond(self, done: int) -> None:
        """Stop a body that is longer than it should be, before it fills the disk."""
        if self.size is not None and done > self.size:
            raise self._error(f"more than {self.size:,} bytes", f"{self.size:,} bytes", self._who(self.file.bytes))

    def received(self, done: int, sha256: str) -> None:
        """Compare the size and the SHA-256 of what arrived."""
        if self.size not in (None, done):
            raise self._error(f"{done:,} bytes", f"{self.size:,} bytes", self._who(self.file.bytes))
        expected = self.file.sha256 or self.remote.sha256
        if expected not in (None, sha256):
            raise self._error(f"SHA-256 {sha256}", str(expected), self._who(self.file.sha256))

    def git(self, found: str) -> None:
        """Compare the hash by which git knows what arrived."""
        if found != self.remote.git:
            raise self._error(f"git hash {found}", str(self.remote.git), self._who(None))

    def _who(self, own: object) -> str:
        return "the source itself" if own is None else self.by

    def _error(self, found: str, expected: str, who: str) -> StoreError:
        what = (
            f"{self.name}: {self.remote.path} from {self.remote.url} has {found}; expected by {who}: {expected}. "
            "It was damaged on the way (a proxy, a mirror, a disk) or has changed at the source; nothing of it is kept"
        )
        again = "zoo pull " + self.name
        edit = "" if who == "the source itself" else f"   (if it repeats and you trust the new file: edit {who})"
        return StoreError(what, fix=again + edit)
