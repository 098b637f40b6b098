"""Tables of examples: CSV, TSV, JSONL and Parquet files, data sets of the Hub, DataFrames; which column is what."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.examples import Columns, Examples, plain_label
from zoo.errors import DataError

TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
"""Suffix -> how the file is read."""
TEXTS = ("text", "sentence", "review", "content", "body", "document", "message", "question", "tokens", "words", "title")
IMAGES = ("image", "img", "picture", "photo", "file", "path", "file_name", "filename", "image_path")
LABELS = (
    *("label", "labels", "target", "class", "category", "sentiment", "topic", "score", "rating", "stars"),
    *("ner_tags", "pos_tags", "tags", "y"),
)
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "passage"))
"""Names of columns that go together as a pair of texts."""
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, how many rows, and how to get the values of one; `untyped`: numbers are written as texts."""

    names: list[str]
    rows: int
    column: Callable[[str], list[Any]]
    untyped: bool = False


def read_file(path: Path, columns: Columns, modality: str) -> Examples:
    """Read a table file; DataError naming the file and what is wrong with it. Image paths are relative to it."""
    readers = {"csv": _csv, "json": _json, "parquet": _parquet}
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty", fix="give a table with a row for each example")
    with _told(str(path)):
        table = readers[TABLES[path.suffix.lower()]](path)
    return examples(table, columns, modality, str(path), path.parent)


def read_hub(name: str, columns: Columns, modality: str) -> dict[str, Examples]:
    """Read a data set of the Hub, `user/dataset[/config][@revision]`, by part."""
    import datasets

    base, _, revision = name.partition("@")
    parts = base.split("/")
    repo, config = "/".join(parts[:2]), "/".join(parts[2:]) or None
    datasets.disable_progress_bars()
    with _told(f"hf:{name}"):
        found = datasets.load_dataset(repo, config, revision=revision or None)
    return {part: of_dataset(rows, columns, modality, f"hf:{name}[{part}]") for part, rows in found.items()}


def of_dataset(rows: Any, columns: Columns, modality: str, origin: str) -> Examples:
    """Turn a datasets.Dataset into examples; classes go by their names."""
    import datasets

    def column(name: str) -> list[Any]:
        kind, values = rows.features[name], list(rows[name])
        inner = getattr(kind, "feature", kind)
        if not isinstance(inner, datasets.ClassLabel):
            return values
        named = inner.int2str
        return [None if v is None else list(map(named, v)) if isinstance(v, list) else named(v) for v in values]

    return examples(Table(list(rows.column_names), len(rows), column), columns, modality, origin, None)


def of_frame(frame: Any, columns: Columns, modality: str) -> Examples:
    """Turn a pandas or polars DataFrame into examples."""

    def column(name: str) -> list[Any]:
        values: list[Any] = frame[name].to_list()
        return values

    table = Table([str(name) for name in frame.columns], len(frame), column)
    return examples(table, columns, modality, f"a DataFrame of {len(frame):,} rows", None)


def examples(table: Table, columns: Columns, modality: str, origin: str, folder: Path | None) -> Examples:
    """Turn a table into examples; DataError where it is not clear which column is what, or a value is missing."""
    if table.rows == 0:
        raise DataError(f"{origin} has no rows", fix="give a table with a row for each example")
    chosen = _choose(table, columns, modality, origin)
    taken = [_filled(table.column(name), name, origin) for name in chosen.input]
    inputs = list(zip(*taken, strict=True)) if len(taken) > 1 else taken[0]
    if modality == "image" and folder is not None:
        inputs = [folder / item if isinstance(item, str) else item for item in inputs]
    if chosen.label is None:
        return Examples(inputs, [None] * len(inputs), origin)
    labels = _filled(table.column(chosen.label), chosen.label, origin)
    plain = [plain_label(label, index) for index, label in enumerate(labels)]
    return Examples(inputs, _typed(plain) if table.untyped else plain, origin)


def _filled(values: list[Any], name: str, origin: str) -> list[Any]:
    """Return values none of which is missing; NaN is how a DataFrame says so."""
    for index, value in enumerate(values):
        if value is None or value == "" or (isinstance(value, float) and value != value):
            what = f"row {index + 1} of {origin} has nothing in {name}"
            raise DataError(what, fix="fill it in, or remove the row")
    return values


def _typed(labels: list[Any]) -> list[Any]:
    """Return texts as whole numbers if all are such, else as numbers if all are; "007" is a code and stays a text."""
    for pattern, kind in ((WHOLE, int), (NUMBER, float)):
        if all(pattern.fullmatch(label) for label in labels):
            return [kind(label) for label in labels]
    return labels


@contextmanager
def _told(origin: str) -> Iterator[None]:
    """Turn what a reader raises into a DataError that says which data it was."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        fix = (
            f"check the name and the connection: {origin}" if origin.startswith("hf:") else f"look at it: head {origin}"
        )
        raise DataError(f"{origin} cannot be read: {said}", fix=fix) from error


def _csv(path: Path) -> Table:
    """Read lines of values between commas, tabs or semicolons, whichever the header has most of."""
    raw = path.read_bytes()
    utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    header = text.partition("\n")[0]
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names, *rows = [row for row in reader if row] or [[]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has two columns called {twice[0]!r}", fix=f"rename one of them in line 1 of {path}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            what = f"row {number} of {path} has {len(row)} values, and the header names {len(names)} columns"
            raise DataError(what, fix="put values that hold a separator or a line break between quotes")
    return Table(names, len(rows), lambda name: [row[names.index(name)] for row in rows], untyped=True)


def _json(path: Path) -> Table:
    """Read one object a line, or one list of objects."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}", fix=f"edit line {number} of {path}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds something else than objects", fix='write {"text": …, "label": …}, one a line')
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(names, len(rows), lambda name: [row.get(name) for row in rows])


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    found = parquet.read_table(path)
    return Table(list(found.column_names), found.num_rows, lambda name: found.column(name).to_pylist())


def _choose(table: Table, columns: Columns, modality: str, origin: str) -> Columns:
    """Return which columns are the input and the label: as named, by their usual names, or as the only ones left."""
    names = table.names
    for name in (*columns.input, *([columns.label] if columns.label else [])):
        if name not in names:
            fix = f'--input "{names[0]}"' if name in columns.input else f'--label "{names[-1]}"'
            raise DataError(f"{origin} has no column {name!r}; it has {', '.join(names)}", fix=f"{fix}, or another")
    label = columns.label or _usual(names, LABELS, columns.input)
    inputs = columns.input or _inputs([name for name in names if name != label], modality)
    others = [name for name in names if name != label]
    if not inputs and len(others) == 1:
        inputs = (others[0],)
    if not inputs:
        raise _unclear(origin, names, "input")
    others = [name for name in names if name not in inputs]
    if label is None and len(others) == 1:
        label = others[0]
    if label is None and others:
        raise _unclear(origin, names, "label")
    return Columns(inputs, label)


def _inputs(names: list[str], modality: str) -> tuple[str, ...]:
    lower = {name.lower(): name for name in names}
    if modality == "text":
        for pair in PAIRS:
            if all(name in lower for name in pair):
                return tuple(lower[name] for name in pair)
    found = _usual(names, IMAGES if modality == "image" else TEXTS, ())
    return (found,) if found else ()


def _usual(names: Sequence[str], usual: Sequence[str], taken: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names if name not in taken}
    return next((lower[name] for name in usual if name in lower), None)


def _unclear(origin: str, names: Sequence[str], what: str) -> DataError:
    options = f'--{what} NAME, or {what}="NAME" in Python'
    return DataError(
        f"{origin}: it is not clear which column is the {what}: {', '.join(names)}", fix=f"say it: {options}"
    )
