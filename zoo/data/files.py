"""Read table files (CSV, TSV, JSON, JSONL, Parquet, CoNLL) and text files, with errors that name file and line."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from zoo.data import conll
from zoo.data.local_files import open_file, unreadable
from zoo.data.parquet_file import open_parquet
from zoo.data.table import Table, by_name, of_columns, of_rows
from zoo.errors import DataError

UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks of UTF-16."""
LONGEST_FIELD = 10_000_000
"""Maximum length of a value of a CSV file in characters."""
ENDS = 4096
"""Bytes at both ends of a file that are searched for NUL."""
FEW_ROWS, FEW_BYTES, EXPANSION = 1_000_000, 1_000_000_000, 50
"""Rows, and bytes of values, that any Parquet file may hold; a large one may hold a row for each of its bytes, and
values of EXPANSION times its size."""
QUOTED = re.compile(r'"[^"]*"')


def read_table(path: Path) -> Table:
    """Read a table file; raises DataError naming the file, the line and the problem."""
    with open_file(path), naming_file(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", fix="write a table with one row per example")
        table = TABLES[path.suffix.lower()](path)

    def column(name: str) -> Sequence[Any]:
        with naming_file(path):
            return table.column(name)

    return replace(table, column=column)


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, UTF-16 or else cp1252; raises DataError for a binary file."""
    with naming_file(path):
        raw = _read(path)
        try:
            return _decoded(raw)
        except UnicodeDecodeError:
            return raw.decode("cp1252", errors="replace")


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Re-raise errors of a reader as DataError with the file name."""
    try:
        yield
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fix = f"iconv -f WINDOWS-1252 -t UTF-8 {_quoted(path)} > utf8{path.suffix}   (if that is its encoding)"
        raise DataError(f"{path}:{line} is not valid UTF-8", fix=fix) from error
    except DataError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except Exception as error:  # json, csv and pyarrow raise many types
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        said = "nested too deeply" if isinstance(error, RecursionError) else said
        raise DataError(f"{path} cannot be read: {said:.200}", fix=f"inspect it: head {_quoted(path)}") from error


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _read(path: Path) -> bytes:
    """Return the bytes of a text file; raises DataError for a binary file before reading all of it."""
    with open_file(path) as file:
        first = file.read(ENDS)
        file.seek(max(0, path.stat().st_size - ENDS))
        if b"\0" in first + file.read() and not first.startswith(UTF16_BOMS):
            raise DataError(
                f"{path} is not a text file: it contains NUL bytes",
                fix=f"remove it, or check its type: file {_quoted(path)}",
            )
        file.seek(0)
        return file.read()


def encoding_of(first: bytes) -> str:
    """Return the encoding of a table by its first bytes: UTF-16 with a byte order mark, else UTF-8."""
    return "utf-16" if first.startswith(UTF16_BOMS) else "utf-8-sig"


def _decoded(raw: bytes) -> str:
    return raw.decode(encoding_of(raw))


def _csv(path: Path) -> Table:
    text = _decoded(_read(path))
    header = text.lstrip("\r\n").partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else delimiter(header)
    (_, names), *found = _split_rows(path, text, header, separator) or [(1, [])]
    for line, row in found:
        if len(row) != len(names):
            what = f"{path}:{line} has {len(row)} values, but the header has {len(names)} columns"
            raise DataError(what, fix="quote values that contain a delimiter or a line break")
    return untyped(path, names, found)


def untyped(path: Path, header: Sequence[str], rows: Sequence[tuple[int, Sequence[Any]]]) -> Table:
    """Return the table of rows of a CSV file, each with its line number."""
    names = [name.strip() for name in header]
    places = {name: place for place, name in enumerate(names)}

    def column(name: str) -> list[Any]:
        return [row[places[name]] for _, row in rows]

    return Table(names, len(rows), column, str(path), [line for line, _ in rows], path.parent, untyped=True)


def delimiter(header: str) -> str:
    """Return the one of `,`, `;`, tab and `|` that is most frequent in the first line of a CSV file."""
    return max(",;\t|", key=QUOTED.sub("", header).count)


def _split_rows(path: Path, text: str, header: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the rows, each with the number of its first line.

    TSV files are usually unquoted: if every line has the same number of tabs, a quote that would join lines or is
    followed by anything but a tab is read as a literal character.
    """
    if separator != "\t":
        return list(records(path, io.StringIO(text, newline=""), header, separator))
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    widths = {line.count("\t") for _, line in lines}
    regular = len(widths) == 1 and widths != {0}
    try:
        found = list(records(path, io.StringIO(text, newline=""), header, separator))
    except DataError:
        if not regular:
            raise
        found = []
    return [(number, line.split("\t")) for number, line in lines] if regular and len(found) < len(lines) else found


def records(path: Path, source: IO[str], header: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of delimited text, header first, each with its first line; DataError for an unclosed quote."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(source, delimiter=separator, strict=True, skipinitialspace=f"{separator} " in header)
    line = 1
    try:
        for row in reader:
            if any(row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        what = "unclosed quote" if "end of data" in str(error) else str(error)
        fix = 'double a quote inside a quoted value: "a ""word"" in quotes"'
        if "field limit" in what:
            what, fix = f"a value of more than {LONGEST_FIELD:,} characters", "close its quote, or split it into rows"
        raise DataError(f"{path}:{line}: {what}", fix=fix) from error


def _json(path: Path) -> Table:
    """Read JSON lines, a list of objects, or an object of columns."""
    text = _decoded(_read(path))
    if text.lstrip().startswith("["):
        parsed = json.loads(text)
    else:
        parsed = _parse_json(text) if path.suffix.lower() == ".json" else None
    if isinstance(parsed, dict) and parsed and all(isinstance(values, list) for values in parsed.values()):
        found = of_columns(parsed, str(path))
        return Table(found.names, found.rows, found.column, str(path), folder=path.parent)
    if parsed is not None:
        return of_rows(_objects(parsed if isinstance(parsed, list) else [parsed], path), str(path), (), path.parent)
    rows, lines = _json_lines(path, text)
    return of_rows(_objects(rows, path), str(path), lines, path.parent)


def _objects(rows: list[Any], path: Path) -> list[Any]:
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds values that are not objects", fix='write {"text": …, "label": …}, one per line')
    return rows


def _parse_json(text: str) -> Any:
    """Parse a text as one JSON value; None if it is not valid JSON, as JSON lines are not."""
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
            raise DataError(
                f"{path}:{number} is not valid JSON: {error}", fix=f"edit line {number} of {path}"
            ) from error
        lines.append(number)
    return rows, lines


def _parquet(path: Path) -> Table:
    """Read a Parquet file; class ids become names where the metadata of the `datasets` library has them."""
    from pyarrow import parquet, types

    file = open_parquet(path)
    schema, groups = file.schema_arrow, range(file.metadata.num_row_groups)
    size, rows = sum(file.metadata.row_group(group).total_byte_size for group in groups), file.metadata.num_rows
    _check_expansion(path, rows, size)
    classes = class_names((schema.metadata or {}).get(b"huggingface", b""))
    strings = [field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)]

    def column(name: str) -> list[Any]:
        # as a dictionary: a text that many rows repeat takes its memory once
        found = parquet.read_table(path, columns=[name], read_dictionary=[name] if name in strings else None)
        values = [value for chunk in found.column(name).chunks for value in _values(chunk)]
        if len(values) != rows:
            raise DataError(f"{path} has {rows:,} rows, but {len(values):,} values in {name}", fix="write it again")
        _check_expansion(path, rows, sum(len(value) for value in values if isinstance(value, str | bytes)))
        return by_name(values, classes[name]) if name in classes else values

    return Table(list(schema.names), rows, column, str(path), folder=path.parent)


def _check_expansion(path: Path, rows: int, expanded: int) -> None:
    """Raise DataError for a few bytes that expand to very many rows or to gigabytes."""
    size = path.stat().st_size
    if rows > max(FEW_ROWS, size) or expanded > max(FEW_BYTES, EXPANSION * size):
        what = f"{path} has {rows:,} rows and {expanded:,} bytes of values in a file of {size:,} bytes"
        raise DataError(what, fix="write each example once: nearly all rows of this table are equal")


def _values(chunk: Any) -> list[Any]:
    """Return the values of an Arrow array; equal values of a dictionary are one object."""
    if not hasattr(chunk, "dictionary"):
        return list(chunk.to_pylist())
    values = [*chunk.dictionary.to_pylist(), None]
    return [values[-1 if index is None else index] for index in chunk.indices.to_pylist()]


def class_names(metadata: bytes) -> dict[str, list[str]]:
    """Return the class names of each ClassLabel column in the metadata of the `datasets` library; {} if it is none."""
    try:
        features = json.loads(metadata)["info"]["features"]
        kinds = {name: kind.get("feature", kind) for name, kind in features.items() if isinstance(kind, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    found = {name: kind.get("names") for name, kind in kinds.items() if isinstance(kind, dict)}
    return {
        name: names
        for name, names in found.items()
        if isinstance(names, list)
        and kinds[name].get("_type") == "ClassLabel"
        and all(isinstance(each, str) for each in names)
    }


def _conll(path: Path) -> Table:
    return conll.parse(read_text(path), path)


CONLL = dict.fromkeys((".conll", ".conllu", ".iob", ".iob2", ".bio"), _conll)
TABLES = {".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _json, ".ndjson": _json, ".parquet": _parquet}
TABLES |= CONLL
"""File suffix -> reader."""
