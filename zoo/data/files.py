"""Files of examples: CSV, TSV, JSON, JSONL and Parquet tables, and plain texts, each with what can be wrong in it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.data.table import Table, by_name, of_columns, of_rows
from zoo.errors import DataError

MARKS_16 = (b"\xff\xfe", b"\xfe\xff")
"""How a UTF-16 file begins."""
QUOTED = re.compile(r'"[^"]*"')


def read_table(path: Path) -> Table:
    """Read a table file; DataError naming the file, the line and what is wrong there."""
    with _told(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", fix="give a table with a row for each example")
        return TABLES[path.suffix.lower()](path)


def read_text(path: Path) -> str:
    """Read a text file: UTF-8 or UTF-16, or what old mails are written in (cp1252); DataError for what is no text."""
    with _told(path):
        raw = path.read_bytes()
        try:
            return _decoded(raw, path)
        except UnicodeDecodeError:
            return raw.decode("cp1252", errors="replace")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a reader raises into a DataError that says which file it was."""
    try:
        yield
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fix = f"iconv -f WINDOWS-1252 -t UTF-8 {path} > utf8{path.suffix}   (if that is what it is written in)"
        raise DataError(f"{path}:{line} is not written in UTF-8", fix=fix) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", fix=f"ls -l {path}") from error
    except (ValueError, RuntimeError, csv.Error) as error:  # those of json and pyarrow are among them
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path} cannot be read: {said}", fix=f"look at it: head {path}") from error


def _decoded(raw: bytes, path: Path) -> str:
    if raw.startswith(MARKS_16):
        return raw.decode("utf-16")
    if b"\0" in raw[:4096]:
        raise DataError(f"{path} is no text: it holds zero bytes", fix=f"leave it out, or see what it is: file {path}")
    return raw.decode("utf-8-sig")


def _csv(path: Path) -> Table:
    """Read lines of values between commas, tabs, semicolons or bars, whichever the header has most of."""
    text = _decoded(path.read_bytes(), path)
    header = QUOTED.sub("", text.lstrip("\r\n").partition("\n")[0])
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=header.count)
    (_, names), *found = _rows(path, text, separator) or [(1, [])]
    for line, row in found:
        if len(row) != len(names):
            what = f"{path}:{line} has {len(row)} values, and the header names {len(names)} columns"
            raise DataError(what, fix="put values that hold a separator or a line break between quotes")
    names = [name.strip() for name in names]
    lines = [line for line, _ in found]

    def column(name: str) -> list[str]:
        place = names.index(name)
        return [row[place] for _, row in found]

    return Table(names, len(found), column, str(path), lines, path.parent, untyped=True)


def _rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the rows and the lines where they begin.

    Most who write tabs write no quotes: where every line of a file has the right number of tabs, a quote that would
    join lines, or is followed by something else than a tab, is a sign like any other.
    """
    if separator != "\t":
        return _quoted(path, text, separator)
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    widths = {line.count("\t") for _, line in lines}
    even = len(widths) == 1 and widths != {0}
    try:
        found = _quoted(path, text, separator)
    except DataError:
        if not even:
            raise
        found = []
    return [(number, line.split("\t")) for number, line in lines] if even and len(found) < len(lines) else found


def _quoted(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    csv.field_size_limit(1 << 30)
    spaced = f"{separator} " in text.partition("\n")[0]
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=separator, strict=True, skipinitialspace=spaced)
    found, line = [], 1
    try:
        for row in reader:
            if any(row):
                found.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        what = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
        fix = 'write a quote inside of quotes twice: "a ""word"" of it"'
        raise DataError(f"{path}:{line}: {what}", fix=fix) from error
    return found


def _json(path: Path) -> Table:
    """Read one object a line, one list of objects, or one object of columns."""
    text = _decoded(path.read_bytes(), path)
    if text.lstrip().startswith("["):
        whole = json.loads(text)
    else:
        whole = _whole(text) if path.suffix.lower() == ".json" else None
    if isinstance(whole, dict) and whole and all(isinstance(values, list) for values in whole.values()):
        found = of_columns(whole, str(path))
        return Table(found.names, found.rows, found.column, str(path), folder=path.parent)
    if whole is not None:
        return of_rows(_objects(whole if isinstance(whole, list) else [whole], path), str(path), (), path.parent)
    rows, lines = _json_lines(path, text)
    return of_rows(_objects(rows, path), str(path), lines, path.parent)


def _objects(rows: list[Any], path: Path) -> list[Any]:
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds something else than objects", fix='write {"text": …, "label": …}, one a line')
    return rows


def _whole(text: str) -> Any:
    """Return what a text is in JSON, None if it is none: it may be one object a line."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _json_lines(path: Path, text: str) -> tuple[list[Any], list[int]]:
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path}:{number} is no JSON: {error}", fix=f"edit line {number} of {path}") from error
        lines.append(number)
    return rows, lines


def _parquet(path: Path) -> Table:
    """Read a Parquet file; where the `datasets` library wrote it, classes go by the names that it noted there."""
    from pyarrow import parquet

    found = parquet.read_table(path)
    noted = json.loads((found.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})

    def column(name: str) -> list[Any]:
        values: list[Any] = found.column(name).to_pylist()
        kind = noted.get(name, {})
        kind = kind.get("feature", kind) if isinstance(kind, dict) else {}
        return by_name(values, kind["names"]) if kind.get("_type") == "ClassLabel" else values

    return Table(list(found.column_names), found.num_rows, column, str(path), folder=path.parent)


TABLES = {".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _json, ".ndjson": _json, ".parquet": _parquet}
"""Suffix -> how the file is read."""
