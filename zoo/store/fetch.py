"""Download one file into the store: stream to a partial file, hash, verify, then rename it atomically."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import private, verified
from zoo.store.paths import checked_sha256
from zoo.store.regular_file import BINARY, NOFOLLOW

Arrived = Callable[[int], None]
"""Progress callback, called with the number of bytes received since the last call."""
WAIT = 60.0
"""Seconds to wait for another process that downloads the same file without progress."""
BLOCK = 1 << 20
FLUSH: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
"""Flush the data of a file to disk, without metadata if the system supports it."""
FLUSH_EVERY = 8 << 20
"""Bytes between two flushes during a download."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file at its source: its URL, a function that streams it, and the metadata the source provides.

    `stream(start)` opens a new stream at byte `start` on each call and raises StoreError on failure. `git` is the git
    blob hash of a small file: SHA-1 of "blob <bytes>", a zero byte and the content. `twins` are local files, from
    other caches, that may have the same content. `mode` is the mode of the blob.
    """

    path: str
    url: str
    stream: Callable[[int], Generator[memoryview]]
    size: int | None = None
    sha256: str | None = None
    git: str | None = None
    commit: str | None = None
    twins: tuple[Path, ...] = ()
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class Claim:
    """Expected hash and size of a file of backbone `name`, their origin `by`, and how to `accept` other ones."""

    file: File
    name: str
    by: str
    accept: str


def fetch(remote: Remote, claim: Claim, folder: Path, arrived: Arrived) -> File:
    """Download a file to <folder>/blobs unless it is already there; returns it with sha256 and size.

    Resumes a partial download and waits for another process that downloads the same file. Raises StoreError if the
    size or hash does not match, OSError if the file cannot be written; no blob is created in either case.
    """
    check = _Check(remote, claim)
    check.check_metadata()
    blobs, partial = folder / "blobs", folder / "tmp"
    if found := _find_blob(blobs, check):
        return found
    for each in (blobs, partial):
        each.mkdir(parents=True, exist_ok=True)
    part = partial / f"{check.key}.part"
    with _exclusive(part, check):
        if found := _find_blob(blobs, check):
            return found
        try:
            return _take_cached(part, blobs, check, arrived) or _download(part, blobs, check, arrived)
        finally:
            if not check.resumable or not _size(part):
                part.unlink(missing_ok=True)


def _find_blob(blobs: Path, check: _Check) -> File | None:
    """Return the file if the store has a blob with its hash and size."""
    sha256 = check.sha256
    with suppress(OSError):
        if sha256 and (size := (blobs / sha256).stat().st_size) == (check.size if check.size is not None else size):
            return File(check.remote.path, sha256, size)
    return None


@contextmanager
def _exclusive(part: Path, check: _Check) -> Iterator[None]:
    """Lock a partial file against other processes and threads; the OS releases the lock of a killed process."""
    import filelock

    guard = filelock.FileLock(part.with_suffix(".lock"), is_singleton=False, thread_local=False)
    while True:
        before = _size(part)
        try:
            guard.acquire(timeout=WAIT)
            break
        except filelock.Timeout as error:
            if _size(part) == before:
                name = check.claim.name
                what = f"{name}: another process has locked {check.remote.path} for {WAIT:g} seconds without progress"
                raise StoreError(what, fix=f"end the other zoo process, then: zoo pull {name}") from error
    try:
        yield
    finally:
        guard.release()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _take_cached(part: Path, blobs: Path, check: _Check, arrived: Arrived) -> File | None:
    """Verify a file from another local cache and hard-link it into the store; copy it if others can write to it."""
    mine = part.with_suffix(".cached")
    for twin in check.remote.twins:
        mine.unlink(missing_ok=True)
        try:
            _link_or_copy(twin.resolve(strict=True), mine)
            with mine.open("rb") as file:
                size, found, git = hashed(file)
            check.check_content(size, found)
            check.check_git_hash(git)
            arrived(size)
            return _finish(mine, blobs, check, found)
        except (OSError, _Mismatch):
            continue
        finally:
            mine.unlink(missing_ok=True)
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    with suppress(OSError):  # another file system
        if private.is_private(source.stat()):
            os.link(source, target)
    if not target.exists():
        shutil.copyfile(source, target)


def _finish(part: Path, blobs: Path, check: _Check, sha256: str) -> File:
    """Rename a verified file to its hash, read-only, and remember that it is verified."""
    blob = blobs / checked_sha256(sha256, check.remote.path)
    os.chmod(part, check.remote.mode)
    os.replace(part, blob)
    verified.remember(blob)
    return File(check.remote.path, sha256, _size(blob))


def hashed(source: IO[bytes]) -> tuple[int, str, str]:
    """Return the size of a file in bytes, its SHA-256, and its git blob hash (SHA-1)."""
    size = os.fstat(source.fileno()).st_size
    digest, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    while block := source.read(BLOCK):
        digest.update(block)
        git.update(block)
    return size, digest.hexdigest(), git.hexdigest()


def _download(part: Path, blobs: Path, check: _Check, arrived: Arrived) -> File:
    """Download or resume a partial file and rename it to its hash; on a mismatch, retry once from the beginning."""
    if not check.resumable or not _is_own_part(part):
        part.unlink(missing_ok=True)
    try:
        found = _append(part, check, arrived)
    except _Mismatch:
        part.unlink()
        try:
            found = _append(part, check, lambda count: None)
        except _Mismatch as mismatch:
            part.unlink()
            raise mismatch.error from mismatch
    return _finish(part, blobs, check, found)


def _is_own_part(part: Path) -> bool:
    """Return whether a partial file was written by this user alone: no link, and nothing that others can write."""
    try:
        found = part.lstat()
    except OSError:
        return True
    return private.is_private(found) and stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _open_part(part: Path) -> IO[bytes]:
    """Open a partial file to read and append; never the target of a link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | NOFOLLOW | BINARY
    return open(os.open(part, flags, 0o600), "ab+")


def _append(part: Path, check: _Check, arrived: Arrived) -> str:
    """Download the missing bytes of a partial file while hashing; verify it and return its SHA-256."""
    with _open_part(part) as out, ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as disk:
        done, digest = _hash_existing(out, arrived)
        flush, flushed = disk.submit(FLUSH, out.fileno()), done
        if check.size is None or done < check.size:
            with closing(check.remote.stream(done)) as pieces:
                for piece in pieces:
                    done += len(piece)
                    check.check_limit(done)
                    hashing = hasher.submit(digest.update, piece)  # in parallel with writing: both release the GIL
                    try:
                        out.write(piece)
                        out.flush()
                    finally:
                        hashing.result()
                    if done - flushed >= FLUSH_EVERY and flush.done():  # keeps the final flush short
                        flush, flushed = disk.submit(FLUSH, out.fileno()), done
                    arrived(len(piece))
        check.check_content(done, digest.hexdigest())
        if check.remote.git:
            out.seek(0)
            check.check_git_hash(hashed(out)[2])
        FLUSH(out.fileno())
    return digest.hexdigest()


def _hash_existing(out: IO[bytes], arrived: Arrived) -> tuple[int, hashlib._Hash]:
    """Hash the existing bytes of a partial file; returns their number and the digest."""
    digest, done = hashlib.sha256(), 0
    out.seek(0)
    while block := out.read(BLOCK):
        digest.update(block)
        done += len(block)
    arrived(done)
    return done, digest


class _Mismatch(Exception):
    """The size or hash of a file does not match; `error` is the StoreError for the user."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class _Check:
    """Compare a file with the size and hashes expected by the row or lock and by the source."""

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
        """Whether a hash is known, so that an inconsistent resumed download would be detected."""
        return bool(self.sha256 or self.remote.git)

    @property
    def key(self) -> str:
        """Name of the partial file: the hash of the content if known, else that of the URL."""
        return self.sha256 or self.remote.git or hashlib.sha256(self.remote.url.encode()).hexdigest()

    def check_metadata(self) -> None:
        """Raise StoreError before the download if a hash is no SHA-256, or the source contradicts the row or lock."""
        for sha256 in (self.remote.sha256, self.claim.file.sha256):
            if sha256 is not None:
                checked_sha256(sha256, self.remote.path)
        pairs = (
            ("SHA-256", self.remote.sha256, self.claim.file.sha256, ""),
            ("a size of", self.remote.size, self.claim.file.bytes, " bytes"),
        )
        for fact, found, expected, unit in pairs:
            if None not in (found, expected) and found != expected:
                raise self._error(f"{fact} {found}{unit}", f"{expected}{unit}", self.claim.by)

    def check_limit(self, done: int) -> None:
        """Raise _Mismatch as soon as more bytes arrive than expected, before they fill the disk."""
        if self.size is not None and done > self.size:
            by = self._expected_by(self.claim.file.bytes)
            raise _Mismatch(self._error(f"more than {self.size:,} bytes", f"{self.size:,} bytes", by))

    def check_content(self, done: int, sha256: str) -> None:
        """Raise _Mismatch if the size in bytes or the SHA-256 differs."""
        if self.size not in (None, done):
            by = self._expected_by(self.claim.file.bytes)
            raise _Mismatch(self._error(f"{done:,} bytes", f"{self.size:,} bytes", by))
        if self.sha256 not in (None, sha256):
            by = self._expected_by(self.claim.file.sha256)
            raise _Mismatch(self._error(f"SHA-256 {sha256}", str(self.sha256), by))

    def check_git_hash(self, found: str) -> None:
        """Raise _Mismatch if the git blob hash differs."""
        if self.remote.git not in (None, found):
            raise _Mismatch(self._error(f"git hash {found}", str(self.remote.git), self._expected_by(None)))

    def _expected_by(self, claimed: object) -> str:
        return "the source itself" if claimed is None else self.claim.by

    def _error(self, found: str, expected: str, by: str) -> StoreError:
        what = (
            f"{self.claim.name}: {self.remote.path} from {self.remote.url} has {found}; expected by {by}: {expected}. "
            "The file was corrupted in transit (proxy, mirror, disk) or has changed at the source; it was discarded"
        )
        retry = f"zoo pull {self.claim.name}"
        if by == "the source itself":
            return StoreError(what, fix=retry)
        return StoreError(what, fix=f"{retry}   (if it repeats and you trust the new file: {self.claim.accept})")
