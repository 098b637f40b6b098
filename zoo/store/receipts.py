"""Receipts of pulled backbones from the user's lock and the shared zoo.lock, which takes precedence.

A zoo.lock is committed to a project's repository, so that a team and its CI use identical files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from zoo.errors import StoreError
from zoo.plugin import Entry
from zoo.store import file_locks, lock
from zoo.store.paths import home, pulling

SHARED = "zoo.lock"


@dataclass(frozen=True, slots=True)
class _Options:
    lock: Path | None = None
    update: bool = False


DEFAULTS = _Options()
_options: ContextVar[_Options] = ContextVar("_options", default=DEFAULTS)


@dataclass(frozen=True, slots=True)
class Known:
    """A receipt and the path of its lock."""

    receipt: lock.Receipt
    path: Path


@contextmanager
def using(lock: Path | None = None, *, update: bool = False) -> Iterator[None]:
    """Within the block, use `lock` instead of ./zoo.lock; with `update`, ignore receipts and pull current revisions."""
    token = _options.set(_Options(lock, update))
    try:
        yield
    finally:
        _options.reset(token)


def own() -> Path:
    """Return the path of the user's lock."""
    return home() / "lock.toml"


def shared() -> Path | None:
    """Return the path of the shared lock: the one given to `using`, else ./zoo.lock if it exists, else None."""
    if chosen := _options.get().lock:
        return chosen.absolute()
    here = Path(SHARED)
    return here.absolute() if here.is_file() else None


def read() -> Mapping[str, Known]:
    """Return the receipts of all pulled names; the shared lock takes precedence."""
    found: dict[str, Known] = {}
    for path in filter(None, (own(), shared())):
        found.update((name, Known(receipt, path)) for name, receipt in lock.read(path).items())
    return found


def updating() -> bool:
    """Return whether receipts are ignored, to pull current revisions."""
    return _options.get().update


def find(entry: Entry, among: Mapping[str, Known] | None = None) -> Known | None:
    """Return the receipt of an entry, None if not pulled; one in the user's lock with another source is ignored.

    Raises StoreError if the shared lock records another source.
    """
    if entry.source is None or updating():
        return None
    known = (read() if among is None else among).get(entry.name)
    if known is None or known.receipt.source == entry.source:
        return known
    if known.path == own():
        return None
    what = f"{entry.name}: {known.path} records source {known.receipt.source}, but its row has {entry.source}"
    raise StoreError(what, fix=f"zoo pull {entry.name} --update, or correct the row")


def moved(name: str, receipt: lock.Receipt) -> str | None:
    """Describe how a new receipt differs from the recorded one; None if source and files are equal."""
    before = read().get(name)
    if before is None or (before.receipt.source, before.receipt.files) == (receipt.source, receipt.files):
        return None
    old, new = ({file.path: file.sha256 for file in each.files} for each in (before.receipt, receipt))
    count = sum(old.get(path) != sha256 for path, sha256 in new.items())
    commits = [(each.commit or each.source)[:60] for each in (before.receipt, receipt)]
    return f"{commits[0]} -> {commits[1]}: {count} of {len(new)} files changed"


def record(name: str, receipt: lock.Receipt, known: Known | None) -> None:
    """Write a receipt to the shared lock and the user's lock where it differs. Raises OSError.

    A shared lock that differs in the row alone is left as it is: colleagues may use another version.
    """
    team = shared()
    if team is not None and ((theirs := lock.read(team).get(name)) is None or _bare(theirs) != _bare(receipt)):
        lock.record(team, name, receipt)
    mine = lock.read(own()).get(name)
    by_team = known is not None and known.path != own()
    if mine != receipt and not (mine and by_team):
        lock.record(own(), name, receipt)


def _bare(receipt: lock.Receipt) -> lock.Receipt:
    return replace(receipt, row=None)


def remember_shared() -> None:
    """Record the path of the shared lock, so that `zoo gc` and `zoo rm` keep the files it references.

    Called before a pull: afterwards no `zoo gc` is running that does not know the lock.
    """
    path, known = shared(), _projects()
    if path is None or path in _read_projects():
        return
    with file_locks.shared(pulling()), suppress(OSError):  # a read-only store cannot be collected anyway
        known.parent.mkdir(parents=True, exist_ok=True)
        with known.open("ab", buffering=0) as file:
            file.write(f"\n{json.dumps(str(path))}\n".encode())  # one write: other processes append as well


def everywhere() -> Iterator[lock.Receipt]:
    """Yield the receipts of the user's lock and of all shared locks that were used and still exist."""
    for path in lock_files():
        yield from lock.read(path).values()


def lock_files() -> list[Path]:
    """Return the paths of the user's lock and of all shared locks that were used."""
    return list(dict.fromkeys((own(), *_read_projects(), *filter(None, [shared()]))))


def _projects() -> Path:
    return home() / "shared.txt"


def _read_projects() -> list[Path]:
    """Return the recorded paths, one a line, as JSON."""
    try:
        lines = _projects().read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in filter(None, lines):
        with suppress(ValueError, TypeError):  # damaged: the next pull in that folder records it again
            found.append(Path(json.loads(line)))
    return found
