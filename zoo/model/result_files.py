"""Files of results: CSV, JSON lines, Parquet and NumPy, written row by row to a temporary file that is renamed."""

from __future__ import annotations

import csv
import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataError

Rows = Sequence[Mapping[str, Any]]
Columns = Mapping[str, str | int]
"""Names of columns with their types, those of results.columns or an int D for vectors (D,)."""
Write = Callable[[Rows], None]
DIGITS = 7
"""Significant digits of a number in a text file: those of float32."""


def check(path: Path, writers: Mapping[str, Writer], option: str = "--out") -> None:
    """Raise DataError for a file that exists, an unknown suffix, and a folder that does not exist."""
    if path.suffix.lower() not in writers:
        known = ", ".join(writers)
        what = f"{option} {path} has none of the suffixes {known}"
        raise DataError(what, fix=f"{option} {shlex.quote(str(path.with_suffix(next(iter(writers)))))}")
    if os.path.lexists(path):
        other = shlex.quote(str(path.with_stem(f"{path.stem}-2")))
        raise DataError(f"{path} exists already", fix=f"{option} {other}, or remove it: rm {shlex.quote(str(path))}")
    if not path.parent.is_dir():
        what = f"the folder {path.parent} does not exist"
        raise DataError(what, fix=f"create it: mkdir -p {shlex.quote(str(path.parent))}")


@contextmanager
def create(path: Path, columns: Columns) -> Iterator[Write]:
    """Yield a function that adds rows to a new file; the file appears when all are written, or not at all.

    Raises DataError if the file cannot be written.
    """
    part = path.with_name(f".zoo-{os.getpid()}-{os.urandom(4).hex()}.part")
    stack = ExitStack()
    try:
        with _failing(path):
            write = stack.enter_context(WRITERS[path.suffix.lower()](part, columns))

        def checked(rows: Rows) -> None:
            with _failing(path):
                write(rows)

        yield checked  # not in _failing: an OSError of the caller is not one of this file
        with _failing(path):
            stack.close()
            os.replace(part, path)
    finally:
        with suppress(OSError):  # it only closes what failed
            stack.close()
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "choose a folder with free space that you can write to"
        raise DataError(f"{path} cannot be written: {error.strerror or error}", fix=fix) from error


@contextmanager
def _csv(path: Path, columns: Columns) -> Iterator[Write]:
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)

        def write(rows: Rows) -> None:
            writer.writerows([_cell(row.get(name), kind) for name, kind in columns.items()] for row in rows)

        yield write


def _cell(value: Any, kind: str | int) -> Any:
    """Return a value as CSV: an empty cell for none, labels with "|" between them, other lists as JSON."""
    if value is None:
        return ""
    if kind == "labels":
        return "|".join(value)
    plain = rounded(value)
    return plain if isinstance(plain, str | int | float) else json.dumps(plain, ensure_ascii=False)


@contextmanager
def _jsonl(path: Path, columns: Columns) -> Iterator[Write]:
    with path.open("x", encoding="utf-8") as file:

        def write(rows: Rows) -> None:
            file.writelines(json.dumps(rounded(filled(row, columns))) + "\n" for row in rows)

        yield write


def filled(row: Mapping[str, Any], columns: Columns) -> dict[str, Any]:
    """Return all columns of a row, None where there is no value; of a row without error, without that column."""
    return {name: row.get(name) for name in columns if name != "error" or name in row}


def rounded(value: Any) -> Any:
    """Return a value with its numbers in DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return list(map(rounded, value)) if isinstance(value, list | tuple) else value


@contextmanager
def _parquet(path: Path, columns: Columns) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    texts, span = pa.list_(pa.string()), pa.list_(pa.int64())
    entity = pa.struct({"kind": pa.string(), "text": pa.string(), "start": pa.int64(), "end": pa.int64()}.items())
    types: dict[str | int, Any] = {
        **{"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "labels": texts, "texts": texts},
        **{"spans": pa.list_(span), "entities": pa.list_(entity), "vector": pa.list_(pa.float32())},
    }
    types |= {kind: pa.list_(pa.float32(), kind) for kind in columns.values() if isinstance(kind, int)}
    schema = pa.schema([(_unicode(name), types[kind]) for name, kind in columns.items()])
    with path.open("xb") as file, parquet.ParquetWriter(file, schema) as writer:

        def write(rows: Rows) -> None:
            values = [{_unicode(name): _arrow(row.get(name), kind) for name, kind in columns.items()} for row in rows]
            writer.write_table(pa.Table.from_pylist(values, schema))

        yield write


def _arrow(value: Any, kind: str | int) -> Any:
    """Return a value as Arrow takes it: valid Unicode, and a pair of texts as JSON."""
    is_list = kind == "text" and isinstance(value, list)
    return _unicode(json.dumps(value, ensure_ascii=False) if is_list else value)


def _unicode(value: Any) -> Any:
    """Escape the lone surrogates in a text, or the texts of a value: those of a file name that is no valid UTF-8."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {name: _unicode(part) for name, part in value.items()}
    return (
        list(map(_unicode, value)) if isinstance(value, list) and value and not isinstance(value[0], float) else value
    )


@contextmanager
def _numpy(path: Path, columns: Columns) -> Iterator[Write]:
    """Write the column "embedding" as an array (N, D) float32; NaN for a row without one."""
    count, width = 0, int(columns["embedding"])
    with path.open("xb") as file:

        def header() -> None:
            facts = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
            np.lib.format.write_array_header_1_0(file, facts)  # numpy leaves room for the count to grow

        def write(rows: Rows) -> None:
            nonlocal count
            for row in rows:
                found = row.get("embedding")
                values = np.full(width, np.nan) if found is None else found
                file.write(np.asarray(values, dtype="<f4").tobytes())
            count += len(rows)

        header()
        yield write
        file.seek(0)
        header()


Writer = Callable[[Path, Columns], AbstractContextManager[Write]]
TABLES: dict[str, Writer] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
ARRAYS: dict[str, Writer] = {".npy": _numpy, ".parquet": _parquet}
WRITERS = TABLES | ARRAYS
