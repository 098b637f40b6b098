"""Parquet files, whose counts of rows are checked before one is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData, ParquetFile


def open_parquet(path: Path, **options: Any) -> ParquetFile:
    """Return an open file; ValueError if its counts of rows contradict each other: pyarrow would read for hours."""
    from pyarrow import parquet

    file = parquet.ParquetFile(path, **options)
    try:
        _check_counts(file.metadata)
    except ValueError:
        file.close()
        raise
    return file


def read_metadata(path: Path) -> FileMetaData:
    """Return the metadata of a file; ValueError if its counts of rows contradict each other."""
    with open_parquet(path) as file:
        return file.metadata


def _check_counts(metadata: FileMetaData) -> None:
    """Compare rows alone: asking for a damaged column aborts the process (pyarrow 26)."""
    rows = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    if rows != metadata.num_rows:
        raise ValueError(f"it has {metadata.num_rows:,} rows, its row groups have {rows:,}")
