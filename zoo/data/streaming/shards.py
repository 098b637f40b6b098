"""Shards: the parts of a stream, each read from its beginning, always in the same order, as tables of a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from zoo.data.table import Table
from zoo.errors import DataError

ROWS = 64
"""Rows of a table that a shard is read in."""
Read = Callable[[int, Sequence[str] | None], Iterator[Table]]
"""(number of rows to skip, columns to read or None for all) -> the other rows as tables."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a stream: its name in messages, how it is read, and its number of rows if that is known unread."""

    name: str
    tables: Read
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A stream: its shards, in order.

    origin    name in messages
    identity  differs where files, revision or order differ; what a resumed run has to have in common
    is_fixed  equal identities mean equal examples, as of files; not of what code of a user returns
    classes   names of the classes, by column, where the format records them
    """

    origin: str
    shards: Sequence[Shard]
    identity: str
    classes: Callable[[str], Sequence[str] | None] = lambda column: None
    is_fixed: bool = True

    @property
    def rows(self) -> int | None:
        """Number of rows, if it is known unread."""
        counts = [shard.rows for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)


@contextmanager
def naming(where: Callable[[], str], fix: str) -> Iterator[None]:
    """Convert what a reader of a shard raises to DataError with the place that `where` names."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # tarfile, zlib, json, pyarrow and code of users raise many types
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{where()} cannot be read: {said:.200}", fix=fix) from error
