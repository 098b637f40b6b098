"""One file from its source into the store: stream, hash while it arrives, compare, and only then give it its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.errors import StoreError
from zoo.plugin import File

Arrived = Callable[[int], None]
"""Called while a file arrives, with how many bytes more are here."""
WAIT = 60.0
"""Seconds that another process may hold a file without a byte of progress."""
BLOCK = 1 << 20
FLUSH: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Put the bytes of a file on the disk; without its dates, where the system can."""
OFTEN = 8 << 20
"""Bytes after which that is done while others arrive."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at its source: where, how to stream its bytes, and what the source says of them beforehand.

    `stream(start)` opens the source anew at each call, and raises StoreError for whatever goes wrong there. `git` is
    the SHA-1 that git knows a small file by: of "blob <bytes>", a zero byte and the content. `twins` are files of this
    machine that may be the same.
    """

    path: str
    url: str
    stream: Callable[[int], Generator[memoryview]]
    size: int | None = None
    sha256: str | None = None
    git: str | None = None
    commit: str | None = None
    twins: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """What a file of the backbone `name` is expected to be, `by` whom, and how the user can `accept` another."""

    file: File
    name: str
    by: str
    accept: str


def fetch(remote: Remote, claim: Claim, folder: Path, arrived: Arrived) -> File:
    """Bring a file into <folder>/blobs unless its bytes are there already; returns it with sha256 and size.

    What a killed process left is gone on with, and another that fetches the same file is waited for. Raises
    StoreError if the bytes are not those expected, OSError if the disk does not take them; either way nothing gets a
    name.
    """
    check = _Check(remote, claim)
    check.announced()
    blobs, partial = folder / "blobs", folder / "tmp"
    if found := _here(blobs, check):
        return found
    for each in (blobs, partial):
        each.mkdir(parents=True, exist_ok=True)
    part = partial / f"{check.key}.part"
    with _alone(part, check):
        if found := _here(blobs, check):
            return found
        try:
            return _linked(blobs, check, arrived) or _fetched(part, blobs, check, arrived)
        finally:
            if not check.resumable or not _length(part):
                part.unlink(missing_ok=True)


def _here(blobs: Path, check: _Check) -> File | None:
    """Return the file if a blob of its hash and size is here."""
    sha256 = check.sha256
    with suppress(OSError):
        if sha256 and (size := (blobs / sha256).stat().st_size) == (check.size if check.size is not None else size):
            return File(check.remote.path, sha256, size)
    return None


@contextmanager
def _alone(part: Path, check: _Check) -> Iterator[None]:
    """Keep other processes and threads from the same file; one that is killed lets go of it."""
    import filelock

    guard = filelock.FileLock(part.with_suffix(".lock"), is_singleton=False, thread_local=False)
    while True:
        before = _length(part)
        try:
            guard.acquire(timeout=WAIT)
            break
        except filelock.Timeout as error:
            if _length(part) == before:
                name = check.claim.name
                what = f"{name}: another process holds {check.remote.path} for {WAIT:g} seconds and does nothing"
                raise StoreError(what, fix=f"end the other zoo, then: zoo pull {name}") from error
    try:
        yield
    finally:
        guard.release()


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _linked(blobs: Path, check: _Check, arrived: Arrived) -> File | None:
    """Give a file that another cache of this machine holds a name in the store, once its hash is seen to be right."""
    for twin in check.remote.twins:
        with suppress(OSError, _Wrong):
            with twin.open("rb") as there:
                size, found, git = hashed(there)
            check.received(size, found)
            check.git(git)
            if not (blobs / found).exists():
                os.link(os.path.realpath(twin), blobs / found)
            arrived(size)
            return File(check.remote.path, found, size)
    return None


def hashed(source: IO[bytes]) -> tuple[int, str, str]:
    """Return the size of a file, its SHA-256, and the SHA-1 that git knows it by."""
    size = os.fstat(source.fileno()).st_size
    digest, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := source.read(BLOCK):
        digest.update(block)
        git.update(block)
    return size, digest.hexdigest(), git.hexdigest()


def _fetched(part: Path, blobs: Path, check: _Check, arrived: Arrived) -> File:
    """Fetch what is missing of a part; bytes that turn out wrong are fetched once more, from the beginning."""
    if not check.resumable:
        part.unlink(missing_ok=True)
    try:
        found = _received(part, check, arrived)
    except _Wrong:
        part.unlink()
        try:
            found = _received(part, check, lambda count: None)
        except _Wrong as error:
            part.unlink()
            raise error.told from error
    os.chmod(part, 0o444)
    os.replace(part, blobs / found)
    return File(check.remote.path, found, _length(blobs / found))


def _received(part: Path, check: _Check, arrived: Arrived) -> str:
    """Append to a part what is missing while hashing it; returns the SHA-256 once everything agrees."""
    with part.open("ab+") as out, ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as disk:
        done, digest = _begun(out, arrived)
        flushed, clean = disk.submit(FLUSH, out.fileno()), done
        if check.size is None or done < check.size:
            with closing(check.remote.stream(done)) as pieces:
                for piece in pieces:
                    done += len(piece)
                    check.not_beyond(done)
                    hashing = hasher.submit(digest.update, piece)  # beside writing: neither needs the interpreter
                    try:
                        out.write(piece)
                        out.flush()
                    finally:
                        hashing.result()
                    if done - clean >= OFTEN and flushed.done():
                        flushed, clean = disk.submit(FLUSH, out.fileno()), done  # little is left to wait for at the end
                    arrived(len(piece))
        check.received(done, digest.hexdigest())
        if check.remote.git:
            out.seek(0)
            check.git(hashed(out)[2])
        FLUSH(out.fileno())
    return digest.hexdigest()


def _begun(out: IO[bytes], arrived: Arrived) -> tuple[int, hashlib._Hash]:
    """Hash what is there of a part already; returns how much that is."""
    digest, done = hashlib.sha256(), 0
    out.seek(0)
    while block := out.read(BLOCK):
        digest.update(block)
        done += len(block)
    arrived(done)
    return done, digest


class _Wrong(Exception):
    """The bytes are not those expected; `told` is what the user is told."""

    def __init__(self, told: StoreError) -> None:
        super().__init__(str(told))
        self.told = told


@dataclass(frozen=True, slots=True)
class _Check:
    """What a file has to be, by the row or lock and by the source, and the errors if it is not."""

    remote: Remote
    claim: Claim

    @property
    def size(self) -> int | None:
        return self.remote.size if self.claim.file.bytes is None else self.claim.file.bytes

    @property
    def sha256(self) -> str | None:
        return self.claim.file.sha256 or self.remote.sha256

    @property
    def resumable(self) -> bool:
        """Whether a hash is going to tell if two halves belong together."""
        return bool(self.sha256 or self.remote.git)

    @property
    def key(self) -> str:
        """The name of what is on its way: the hash, else one of where it comes from."""
        return self.sha256 or self.remote.git or hashlib.sha256(self.remote.url.encode()).hexdigest()

    def announced(self) -> None:
        """Compare what the source says with what is expected: a wrong file need not be fetched to be refused."""
        pairs = (
            ("SHA-256", self.remote.sha256, self.claim.file.sha256, ""),
            ("a size of", self.remote.size, self.claim.file.bytes, " bytes"),
        )
        for fact, found, expected, unit in pairs:
            if None not in (found, expected) and found != expected:
                raise self._error(f"{fact} {found}{unit}", f"{expected}{unit}", self.claim.by)

    def not_beyond(self, done: int) -> None:
        """Stop a body that is longer than it should be, before it fills the disk."""
        if self.size is not None and done > self.size:
            who = self._who(self.claim.file.bytes)
            raise _Wrong(self._error(f"more than {self.size:,} bytes", f"{self.size:,} bytes", who))

    def received(self, done: int, sha256: str) -> None:
        """Compare the size and the SHA-256 of what arrived."""
        if self.size not in (None, done):
            raise _Wrong(self._error(f"{done:,} bytes", f"{self.size:,} bytes", self._who(self.claim.file.bytes)))
        if self.sha256 not in (None, sha256):
            raise _Wrong(self._error(f"SHA-256 {sha256}", str(self.sha256), self._who(self.claim.file.sha256)))

    def git(self, found: str) -> None:
        """Compare the hash by which git knows what arrived."""
        if self.remote.git not in (None, found):
            raise _Wrong(self._error(f"git hash {found}", str(self.remote.git), self._who(None)))

    def _who(self, own: object) -> str:
        return "the source itself" if own is None else self.claim.by

    def _error(self, found: str, expected: str, who: str) -> StoreError:
        what = (
            f"{self.claim.name}: {self.remote.path} from {self.remote.url} has {found}; expected by {who}: {expected}. "
            "It was damaged on the way (a proxy, a mirror, a disk) or has changed at the source; nothing of it is kept"
        )
        again = f"zoo pull {self.claim.name}"
        if who == "the source itself":
            return StoreError(what, fix=again)
        return StoreError(what, fix=f"{again}   (if it repeats and you trust the new file: {self.claim.accept})")
