"""Iterables as shards: an IterableDataset of the `datasets` library, or whatever a function returns each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from zoo.data.streaming.shards import ROWS, Shard, Source, naming
from zoo.data.table import Table, by_name, of_columns, of_rows
from zoo.errors import DataError

INPUT, LABEL = "input", "label"
"""Columns of (input, label) pairs."""


def of_dataset(dataset: Any, origin: str, identity: str, *, is_fixed: bool) -> Source:
    """Return the shards of a datasets.IterableDataset; images stay encoded, class ids become names."""
    import datasets

    plain = dataset.with_format(None)
    features = plain.features or {}
    for name, kind in features.items():
        if isinstance(kind, datasets.Image):
            plain = plain.cast_column(name, datasets.Image(decode=False))
    inner = {name: getattr(kind, "feature", kind) for name, kind in features.items()}
    classes = {name: kind.names for name, kind in inner.items() if isinstance(kind, datasets.ClassLabel)}
    count = plain.num_shards
    shards = [_shard(plain, count, index, origin, classes) for index in range(count)]
    known = _rows(plain) if count == 1 else None
    if known is not None:
        shards = [Shard(shards[0].name, shards[0].tables, known)]
    return Source(origin, shards, identity, classes.get, is_fixed)


def _rows(dataset: Any) -> int | None:
    splits, split = getattr(dataset.info, "splits", None) or {}, str(dataset.split)
    return splits[split].num_examples if split in splits else None


def _shard(dataset: Any, count: int, index: int, origin: str, classes: Mapping[str, Sequence[str]]) -> Shard:
    name = origin if count == 1 else f"{origin}, shard {index + 1} of {count}"

    def tables(skip: int, columns: Sequence[str] | None) -> Iterator[Table]:
        row = skip
        with naming(lambda: f"{name}, row {row + 1},", "try again; if it is the same row, leave out its shard"):
            part = dataset.shard(num_shards=count, index=index) if count > 1 else dataset
            if columns is not None and dataset.features is not None:
                part = part.select_columns(list(columns))
            for batch in (part.skip(skip) if skip else part).iter(batch_size=ROWS):
                named = {
                    key: by_name(values, classes[key]) if key in classes else values for key, values in batch.items()
                }
                table = of_columns(named, name)
                yield Table(
                    table.names, table.rows, table.column, name, range(row + 1, row + 1 + table.rows), part=True
                )
                row += table.rows

    return Shard(name, tables)


def of_function(function: Callable[[], Iterable[Any]], origin: str) -> Source:
    """Return the one shard of a function that returns an iterable of examples, the same ones each time.

    An example is an (input, label) pair, a dict of columns, or for language modelling a text.
    """

    def tables(skip: int, columns: Sequence[str] | None) -> Iterator[Table]:
        row = skip
        with naming(lambda: f"{origin}, example {row},", "correct the function that makes the examples"):
            found = islice(iter(function()), skip, None)
            while part := list(islice(found, ROWS)):
                yield _table(part, origin, row)
                row += len(part)

    return Source(origin, [Shard(origin, tables)], origin, is_fixed=False)


def _table(part: list[Any], origin: str, first: int) -> Table:
    lines = range(first, first + len(part))
    if all(isinstance(item, dict) for item in part):
        return replace(of_rows(part, origin, lines), part=True)
    if all(isinstance(item, str) for item in part):
        return Table([INPUT], len(part), {INPUT: part}.__getitem__, origin, lines, part=True)
    for line, item in zip(lines, part, strict=True):
        if not isinstance(item, tuple | list) or len(item) != 2:
            what = f"example {line} of {origin} is {type(item).__name__}, not a pair of (input, label)"
            raise DataError(what, fix='yield pairs, such as ("robin.jpg", "bird"), or dicts of columns')
    columns = {INPUT: [item for item, _ in part], LABEL: [label for _, label in part]}
    return Table(list(columns), len(part), columns.__getitem__, origin, lines, part=True)
