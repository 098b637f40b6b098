"""Windows: a stream read a few thousand examples at a time, from several shards in turn, in an order drawn by epoch.

Shards in random order, and a shuffled window of examples from several of them, are nearly as good for training as all
examples in random order, at the speed of reading in sequence (CorgiPile: Xu et al. 2022, arXiv 2206.05830).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch

from zoo.data import table_examples
from zoo.data.examples import Columns, Examples, Label
from zoo.data.seeding import generator
from zoo.data.streaming.shards import Source
from zoo.errors import DataError

Item = TypeVar("Item")
OPEN = 8
"""Shards that are read in turn."""


class Row(NamedTuple):
    """An example, and where it is, for messages."""

    input: Any
    label: Label
    name: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a window begins: all that is needed to read it again.

    epoch    pass over the stream, from 0
    window   number of the window in its epoch
    opened   shards of this epoch that were opened
    reading  (shard, rows read of it) of those that are not read to their end, in turn
    """

    epoch: int = 0
    window: int = 0
    opened: int = 0
    reading: tuple[tuple[int, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Position:
        """Restore the result of `to_dict`."""
        return cls(**{**saved, "reading": tuple((int(shard), int(row)) for shard, row in saved["reading"])})


START = Position()


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive examples of a pass, their names, and their position; `is_last`: the end of the epoch cut it."""

    examples: Examples
    names: list[str]
    position: Position
    is_last: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """When a window is full: at the first multiple of the batch size with so many examples, or bytes of inputs.

    What follows must fill a batch; else it belongs to the window, so that no example is always left over.
    """

    batch_size: int
    examples: int
    bytes: int

    def is_full(self, examples: int, size: int) -> bool:
        """Return whether a window with these numbers of examples and bytes is full."""
        return not examples % self.batch_size and (examples >= self.examples or size >= self.bytes)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the windows of a stream.

    columns   names of the input and label columns
    held      rows that are left out, by shard: those of the validation data
    part      (i, n): every n-th shard of an epoch is read, from the i-th on, where n processes share them
    """

    source: Source
    columns: Columns
    modality: str
    limits: Limits = Limits(1, 1, 1)
    seed: int = 0
    held: Mapping[int, frozenset[int]] = field(default_factory=dict)
    part: tuple[int, int] = (0, 1)

    @property
    def patience(self) -> int:
        """Epochs after which shards that gave nothing will give nothing: a process reads others in each."""
        return 1 if self.part[1] == 1 else len(self.source.shards)

    def windows(self, start: Position = START) -> Iterator[Window]:
        """Yield windows without end, epoch after epoch, from a position on. Raises DataError for an empty stream."""
        position, empty = start, 0
        while True:
            empty += position == Position(position.epoch)
            for window in self._epoch(position):
                empty = 0
                yield window
            if empty >= self.patience:
                raise DataError(f"{self.source.origin} has no rows to train on", fix="give more shards")
            position = Position(position.epoch + 1)

    def _epoch(self, start: Position) -> Iterator[Window]:
        """Yield the windows of one epoch from a position in it on; the last one also has what would be no batch."""
        order = torch.randperm(len(self.source.shards), generator=generator(self.seed, "shards", start.epoch)).tolist()
        order = order[self.part[0] :: self.part[1]]
        turns = _Turns(self, order, start.opened, start.reading)
        number, position = start.window, start
        rows: list[Row] = []
        size = 0
        for (row, opened, reading), enough in _followed(turns.rows(), self.limits.batch_size):
            rows.append(row)
            size += size_of(row.input)
            if enough and self.limits.is_full(len(rows), size):
                yield self._window(rows, position, is_last=False)
                number += 1
                rows, size, position = [], 0, Position(start.epoch, number, opened, reading)
        if rows:
            yield self._window(rows, position, is_last=True)

    def _window(self, rows: list[Row], position: Position, *, is_last: bool) -> Window:
        examples = Examples([row.input for row in rows], [row.label for row in rows], self.source.origin)
        return Window(examples, [row.name for row in rows], position, is_last)

    def rows(self) -> Iterator[Row]:
        """Yield all rows in the order of the shards."""
        for number in range(len(self.source.shards)):
            yield from (row for _, row in self.shard(number))

    def shard(self, number: int, skip: int = 0) -> Iterator[tuple[int, Row]]:
        """Yield the rows of a shard, each with its number in it."""
        count = skip
        for table in self.source.shards[number].tables(skip, None):
            found = table_examples.examples(table, self.columns, self.modality)
            for index in range(table.rows):
                yield count, Row(found.inputs[index], found.labels[index], table.where(index))
                count += 1


@dataclass(slots=True)
class _Turn:
    """A shard that is open: how many of its rows are read, and the rest."""

    shard: int
    read: int
    rest: Iterator[tuple[int, Row]]


class _Turns:
    """The shards of an epoch that are open, read row by row in turn."""

    def __init__(self, reader: Reader, order: list[int], opened: int, reading: tuple[tuple[int, int], ...]) -> None:
        self.reader, self.order, self.opened = reader, order, opened
        self.open = [_Turn(shard, row, reader.shard(shard, row)) for shard, row in reading]

    def rows(self) -> Iterator[tuple[Row, int, tuple[tuple[int, int], ...]]]:
        """Yield the rows that are not held out, each with `opened` and `reading` of the Position behind it."""
        while True:
            while len(self.open) < OPEN and self.opened < len(self.order):
                shard = self.order[self.opened]
                self.opened += 1
                self.open.append(_Turn(shard, 0, self.reader.shard(shard)))
            if not self.open:
                return
            turn = self.open.pop(0)
            found = next(turn.rest, None)
            if found is None:
                continue
            turn.read = found[0] + 1
            self.open.append(turn)
            if found[0] not in self.reader.held.get(turn.shard, ()):
                yield found[1], self.opened, tuple((turn.shard, turn.read) for turn in self.open)


def _followed(items: Iterator[Item], count: int) -> Iterator[tuple[Item, bool]]:
    """Yield the items, each with whether at least `count` others follow."""
    ahead: deque[Item] = deque()
    for item in items:
        ahead.append(item)
        if len(ahead) > count:
            yield ahead.popleft(), True
    while ahead:
        yield ahead.popleft(), False


def size_of(item: Any) -> int:
    """Return about how many bytes an input takes in memory."""
    if isinstance(item, dict):
        item = item.get("bytes")
    if isinstance(item, str | bytes):
        return len(item)
    if isinstance(item, tuple | list):
        return sum(map(size_of, item))
    if hasattr(item, "nbytes"):
        return int(item.nbytes)
    return 3 * item.size[0] * item.size[1] if isinstance(getattr(item, "size", None), tuple) else 64
