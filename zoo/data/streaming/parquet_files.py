"""Parquet files as shards: one for each row group, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data.files import class_names, naming_file
from zoo.data.local_files import open_file
from zoo.data.parquet_file import open_parquet, read_metadata
from zoo.data.streaming.shards import ROWS, Shard, naming
from zoo.data.table import Table, by_name


def shards(path: Path) -> tuple[list[Shard], Mapping[str, Sequence[str]]]:
    """Return a shard for each row group of a file, and the class names of its columns; DataError if it is damaged."""
    open_file(path).close()
    with naming_file(path):
        metadata = read_metadata(path)
        schema = metadata.schema.to_arrow_schema()
    classes = class_names((schema.metadata or {}).get(b"huggingface", b""))
    found, first = [], 1
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        found.append(Shard(f"{path}:{first}", partial(_tables, path, group, first, classes), rows))
        first += rows
    return found, classes


def _tables(
    path: Path, group: int, first: int, classes: Mapping[str, Sequence[str]], skip: int, columns: Sequence[str] | None
) -> Iterator[Table]:
    """Yield the rows of a row group from `skip` on; the first of the group is row `first` of the file."""
    row = 0
    with (
        naming(lambda: f"{path}, row {first + row},", f"write {path} again, or leave it out"),
        open_parquet(path, pre_buffer=False, buffer_size=1 << 20) as file,
    ):
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=None if columns is None else list(columns)):
            begin = max(0, skip - row)
            row += len(batch)
            if begin < len(batch):
                yield _table(path, batch.slice(begin), first + row - len(batch) + begin, classes)


def _table(path: Path, batch: Any, first: int, classes: Mapping[str, Sequence[str]]) -> Table:
    lines = range(first, first + len(batch))

    def column(name: str) -> Sequence[Any]:
        values = batch.column(name).to_pylist()
        return by_name(values, classes[name]) if name in classes else values

    return Table(list(batch.schema.names), len(batch), column, str(path), lines, path.parent, part=True)
