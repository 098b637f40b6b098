"""Read a large table file in parts, so that predicting all of its rows takes the memory of a few."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from zoo.data.files import delimiter, encoding_of, naming_file, read_table, records, untyped
from zoo.data.local_files import open_file
from zoo.data.parquet_file import open_parquet, read_metadata
from zoo.data.table import Table, of_columns, of_rows

ROWS = 1_000
"""Rows of a part."""
LARGE = 64_000_000
"""Bytes from which a file is read in parts; a smaller one is read, and checked, as a whole."""


def read(path: Path) -> tuple[Iterator[Table], int | None]:
    """Return the parts of a table file, and its number of rows if that is known before reading all of it.

    Only CSV, JSON lines and Parquet files have several parts. Raises DataError, also while reading.
    """
    open_file(path).close()
    parts = PARTS.get(path.suffix.lower())
    if parts is None or path.stat().st_size < LARGE:
        table = read_table(path)
        return iter([table]), table.rows
    with naming_file(path):
        return _named(path, parts(path)), _count(path)


def _named(path: Path, parts: Iterator[Table]) -> Iterator[Table]:
    while True:
        with naming_file(path):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _count(path: Path) -> int | None:
    if path.suffix.lower() != ".parquet":
        return None
    rows: int = read_metadata(path).num_rows
    return rows


def _open(path: Path) -> IO[str]:
    with path.open("rb") as file:
        encoding = encoding_of(file.read(2))
    return path.open(encoding=encoding, newline="")


def _csv(path: Path) -> Iterator[Table]:
    """Yield rows; one of another length than the header has no values."""
    with _open(path) as file:
        header = next((line for line in file if line.strip("\r\n")), "")
        file.seek(0)
        rows = records(path, file, header, delimiter(header))
        _, names = next(rows, (1, []))
        while part := list(islice(rows, ROWS)):
            yield untyped(
                path, names, [(line, row if len(row) == len(names) else [None] * len(names)) for line, row in part]
            )


def _json_lines(path: Path) -> Iterator[Table]:
    """Yield rows; a line that is no JSON object has no values."""
    with _open(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while part := list(islice(lines, ROWS)):
            rows = [_object(line) for _, line in part]
            yield of_rows(rows, str(path), [number for number, _ in part], path.parent)


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parquet(path: Path) -> Iterator[Table]:
    start = 1
    with open_parquet(path) as file:
        for batch in file.iter_batches(ROWS):
            found = of_columns(batch.to_pydict(), str(path))
            lines = range(start, start + found.rows)
            yield Table(found.names, found.rows, found.column, str(path), lines, path.parent)
            start += found.rows


PARTS: dict[str, Callable[[Path], Iterator[Table]]] = {
    **{".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}
}
