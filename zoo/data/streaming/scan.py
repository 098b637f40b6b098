"""Scan: one pass over the labels of a stream, which counts its rows and collects its classes."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any

from zoo.console import Bar
from zoo.data import columns as choosing
from zoo.data import table_examples
from zoo.data.examples import Columns, Examples, Label
from zoo.data.streaming.shards import Shard, Source
from zoo.errors import DataError

MOST_CLASSES = 100_000
"""Distinct labels above which they are taken for quantities or texts."""
MOST_NUMBERS = 100_000
"""Numbers from which mean and deviation are computed: evenly spaced ones of the stream."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a pass over the labels found.

    counts   rows of each shard; () if the stream was not scanned
    labels   distinct labels in the order of their first example, or of numbers evenly spaced ones
    totals   number of examples of each label; {} of numbers
    digest   SHA-256 of all labels in order
    """

    counts: tuple[int, ...] = ()
    labels: tuple[Label, ...] = ()
    totals: Mapping[Label, int] | None = None
    digest: str = ""

    @property
    def rows(self) -> int | None:
        """Number of rows; None if the stream was not scanned."""
        return sum(self.counts) if self.counts else None

    def places(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Return (shard, row in it) of some rows of the stream."""
        ends = list(accumulate(self.counts))
        found = [(bisect_right(ends, row), row) for row in rows]
        return [(shard, row - (ends[shard - 1] if shard else 0)) for shard, row in found]


def choose_columns(source: Source, asked: Columns, modality: str) -> tuple[Columns, Examples]:
    """Return the input and label columns of a stream by its first rows, and these; DataError for an empty stream."""
    for shard in source.shards:
        table = next(shard.tables(0, None), None)
        if table is not None and table.rows:
            chosen = choosing.choose(table, asked, modality)
            return replace(chosen, label=chosen.label or ""), table_examples.examples(table, chosen, modality)
    raise DataError(f"{source.origin} has no rows", fix="give shards with one example per row")


def scan(source: Source, columns: Columns, convert: Callable[[Sequence[Label]], Sequence[Label]] | None = None) -> Scan:
    """Count the rows of a stream, and collect its labels; inputs are not read where the format allows it.

    `convert` maps the labels of a table to those of its examples.

    Raises DataError for a row without a label, and for too many classes.
    """
    counts: list[int] = []
    digest = hashlib.sha256(source.identity.encode("utf-8", "surrogatepass"))
    seen = _Numbers() if columns.task == "regress" else _Classes(source.origin)
    with Bar("scan", source.rows or 0) as bar:
        for shard in source.shards:
            count = 0
            for labels in _labels(shard, columns):
                count += len(labels)
                bar.advance(len(labels))
                if columns.label:
                    digest.update(repr(labels).encode("utf-8", "surrogatepass"))
                    seen.add(convert(labels) if convert else labels)
            counts.append(count)
    if not sum(counts):
        raise DataError(f"{source.origin} has no rows", fix="give shards with one example per row")
    return Scan(tuple(counts), seen.labels, seen.totals, digest.hexdigest())


def _labels(shard: Shard, columns: Columns) -> Iterator[list[Label]]:
    """Yield the labels of a shard, table by table; None without a label column."""
    if not columns.label:
        if shard.rows is not None:
            yield from ([None] * min(1024, shard.rows - start) for start in range(0, shard.rows, 1024))
            return
        yield from ([None] * table.rows for table in shard.tables(0, []))
        return
    for table in shard.tables(0, _names(columns.label)):
        yield table_examples.labels(table, columns)


def _names(label: str) -> list[str]:
    """Return the names of one label column, or of several: "red,green"."""
    return [name.strip() for name in label.split(",")]


class _Classes:
    """Distinct labels, several of an example one by one, and how often each occurs."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.totals: dict[Label, int] = {}

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(self.totals)

    def add(self, labels: Sequence[Label]) -> None:
        totals = self.totals
        for label in chain.from_iterable(one if isinstance(one, tuple) else (one,) for one in labels):
            totals[label] = totals.get(label, 0) + 1
        if len(totals) > MOST_CLASSES:
            what = f"{self.origin} has more than {MOST_CLASSES:,} distinct labels, such as {labels[-1]!r:.60}"
            raise DataError(
                what, fix="name the column of the classes: label=… (--label); of quantities: task='regress'"
            )


class _Numbers:
    """Evenly spaced labels of a stream of unknown length, MOST_NUMBERS at most."""

    totals: Mapping[Label, int] = {}

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.count, self.stride = 0, 1

    @property
    def labels(self) -> tuple[Label, ...]:
        return tuple(self.kept)

    def add(self, labels: Sequence[Label]) -> None:
        self.kept += labels[-self.count % self.stride :: self.stride]
        self.count += len(labels)
        while len(self.kept) > MOST_NUMBERS:
            self.kept, self.stride = self.kept[::2], 2 * self.stride


def draw(count: int, rows: int, seed: int) -> list[int]:
    """Return `count` of `rows` row numbers, sorted, drawn by the seed."""
    return sorted(random.Random(seed).sample(range(rows), count))
