"""What was pulled before, by the locks: that of the working folder (zoo.lock) counts more than the user's.

A zoo.lock goes into a project's repository, so that a team and its CI have the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import StoreError
from zoo.plugin import Entry
from zoo.store import lock
from zoo.store.paths import home

SHARED = "zoo.lock"


@dataclass(frozen=True, slots=True)
class _Asked:
    lock: Path | None = None
    update: bool = False


NOTHING = _Asked()
_asked: ContextVar[_Asked] = ContextVar("_asked", default=NOTHING)


@dataclass(frozen=True, slots=True)
class Known:
    """A receipt, and the lock that it is in."""

    receipt: lock.Receipt
    path: Path


@contextmanager
def using(lock: Path | None = None, *, update: bool = False) -> Iterator[None]:
    """Inside the block, use this lock in place of ./zoo.lock, and (update) take what the sources have now."""
    token = _asked.set(_Asked(lock, update))
    try:
        yield
    finally:
        _asked.reset(token)


def own() -> Path:
    """Return the lock of the user."""
    return home() / "lock.toml"


def shared() -> Path | None:
    """Return the lock that a team shares: the one that was asked for, else ./zoo.lock if there is one."""
    if asked := _asked.get().lock:
        return asked.absolute()
    here = Path(SHARED)
    return here.absolute() if here.is_file() else None


def read() -> Mapping[str, Known]:
    """Return what is known of every pulled name."""
    found: dict[str, Known] = {}
    for path in filter(None, (own(), shared())):
        found.update((name, Known(receipt, path)) for name, receipt in lock.read(path).items())
    return found


def find(entry: Entry, among: Mapping[str, Known] | None = None) -> Known | None:
    """Return what is known of an entry; in the user's lock, the same name from another source is another thing."""
    if entry.source is None or _asked.get().update:
        return None
    known = (read() if among is None else among).get(entry.name)
    if known is None or known.receipt.source == entry.source:
        return known
    if known.path == own():
        return None
    what = f"{entry.name}: {known.path} has it from {known.receipt.source}, its row from {entry.source}"
    raise StoreError(what, fix=f"zoo pull {entry.name} --update, or correct the row")


def moved(name: str, receipt: lock.Receipt) -> str | None:
    """Return what is another than before in a new receipt; None if nothing is."""
    before = read().get(name)
    if before is None or (before.receipt.source, before.receipt.files) == (receipt.source, receipt.files):
        return None
    old, new = ({file.path: file.sha256 for file in each.files} for each in (before.receipt, receipt))
    count = sum(old.get(path) != sha256 for path, sha256 in new.items())
    commits = [(each.commit or each.source)[:60] for each in (before.receipt, receipt)]
    return f"{commits[0]} -> {commits[1]}: {count} of {len(new)} files are others"


def record(name: str, receipt: lock.Receipt, known: Known | None) -> None:
    """Note what was pulled in the user's lock and the shared one, wherever it is not what is there. Raises OSError."""
    team = shared()
    if team is not None and lock.read(team).get(name) != receipt:
        lock.record(team, name, receipt)
    mine = lock.read(own()).get(name)
    by_team = known is not None and known.path != own()
    if mine != receipt and not (mine and by_team):
        lock.record(own(), name, receipt)


def remember_shared() -> None:
    """Note where a shared lock is, so that `zoo gc` keeps what it names."""
    path, known = shared(), home() / "shared.txt"
    if path is None or str(path) in (places := _lines(known)):
        return
    with suppress(OSError):  # a store that cannot be written has nothing to collect either
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text("".join(f"{each}\n" for each in [*places, str(path)]), encoding="utf-8")


def everywhere() -> Iterator[lock.Receipt]:
    """Yield the receipts of the user's lock and of all shared locks that were ever used and are still there."""
    for path in {own(), *map(Path, _lines(home() / "shared.txt")), *filter(None, [shared()])}:
        yield from lock.read(path).values()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
