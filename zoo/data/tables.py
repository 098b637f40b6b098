"""Tables in memory, whatever holds them: rows, DataFrames, data sets of the `datasets` library; and their examples."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data import columns as choosing
from zoo.data.examples import Columns, Examples, Lazy, Parts, Unlabelled, cleaned, is_missing, plain_label
from zoo.errors import DataError

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of values by name, where they came from, and how errors and relative paths find their way back there.

    origin   what errors call the table; lines are those of its rows in the file (none: rows are counted)
    folder   where relative paths of images begin
    untyped  all values are texts, numbers too, and an empty one is none at all: a CSV file
    """

    names: list[str]
    rows: int
    column: Callable[[str], Sequence[Any]]
    origin: str
    lines: Sequence[int] = ()
    folder: Path = Path()
    untyped: bool = False

    def where(self, index: int) -> str:
        """Say where a row is, as people find it."""
        return f"{self.origin}:{self.lines[index]}" if self.lines else f"row {index + 1} of {self.origin}"


def in_memory(data: Any) -> dict[str, Table] | None:
    """Return a DataFrame, a Dataset or a dict of columns as tables by part; None for what is none of these."""
    kind = f"{type(data).__module__}.{type(data).__name__}"  # none of the libraries is imported to ask what it is
    if kind.startswith(("pandas.", "polars.")) and hasattr(data, "columns") and hasattr(data, "__len__"):
        return {"train": of_frame(data)}
    if kind.startswith("datasets."):
        if not hasattr(data, "items"):
            return {"train": of_dataset(data, "a Dataset")}
        if not data:
            raise DataError("the DatasetDict has no parts", fix='give one: DatasetDict({"train": …})')
        return {name: of_dataset(part, f"a DatasetDict[{name}]") for name, part in data.items()}
    if isinstance(data, dict) and data and all(isinstance(values, list | tuple) for values in data.values()):
        return {"train": of_columns(data, "a dict of columns")}
    return None


def of_frame(frame: Any) -> Table:
    """Take a pandas or polars DataFrame."""
    named = {str(name): name for name in frame.columns}
    names = [str(name) for name in frame.columns]
    return Table(names, len(frame), lambda name: frame[named[name]].to_list(), f"a DataFrame of {len(frame):,} rows")


def of_columns(values: Mapping[Any, Sequence[Any]], origin: str) -> Table:
    """Take lists of values by name of the column; DataError unless they are of one length."""
    named = {str(name): found for name, found in values.items()}
    lengths = {name: len(found) for name, found in named.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"the columns of {origin} differ in length: {said}", fix="give each row a value in each column")
    return Table(list(named), next(iter(lengths.values()), 0), named.__getitem__, origin)


def of_rows(rows: Sequence[Mapping[Any, Any]], origin: str, lines: Sequence[int] = (), folder: Path = Path()) -> Table:
    """Take rows that map names of columns to values; a name that a row does not have is nothing."""
    named = {str(name): name for row in rows for name in row}
    return Table(list(named), len(rows), lambda name: [row.get(named[name]) for row in rows], origin, lines, folder)


def of_hub(name: str, columns: Columns, modality: str) -> Parts:
    """Read a data set of the Hub, `hf:user/dataset[/config][@revision]`, by part."""
    from zoo.store import hub_data

    tables = {part: of_dataset(rows, f"{name}[{part}]") for part, rows in hub_data.load(name).items()}
    return {part: partial(examples, table, columns, modality) for part, table in tables.items()}


def of_dataset(rows: Any, origin: str) -> Table:
    """Take a datasets.Dataset: classes go by their names, images stay on the disk until they are looked at."""
    import datasets

    if not hasattr(rows, "__len__"):
        fix = "leave out streaming=True, or take a piece of it: Dataset.from_list(list(data.take(1000)))"
        raise DataError(f"{origin} is a stream, and its length is not known", fix=fix)
    plain = rows.with_format(None)

    def column(name: str) -> Sequence[Any]:
        kind = plain.features[name]
        if isinstance(kind, datasets.Image):
            encoded = plain.select_columns(name).cast_column(name, datasets.Image(decode=False))
            return Lazy(lambda index: encoded[index][name], range(len(encoded)))
        inner = getattr(kind, "feature", kind)
        values = plain[name][:]
        return by_name(values, inner.names) if isinstance(inner, datasets.ClassLabel) else values

    return Table(list(plain.column_names), len(plain), column, origin)


def by_name(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Return classes, and lists of them, by name; -1 is how the `datasets` library writes that there is none."""
    known = dict(enumerate(names))
    return [by_name(value, names) if isinstance(value, list) else known.get(value) for value in values]


def examples(table: Table, columns: Columns, modality: str) -> Examples:
    """Turn a table into examples; DataError where it is not clear which column is what, or a value is missing."""
    if table.rows == 0:
        raise DataError(f"{table.origin} has no rows", fix="give a table with a row for each example")
    chosen = choosing.choose(table, columns, modality)
    taken = [_inputs(table, name, modality) for name in chosen.input]
    inputs = taken[0] if len(taken) == 1 else list(zip(*taken, strict=True))
    said = f"{table.origin} ({', '.join(chosen.input)}{f' -> {chosen.label}' if chosen.label else ''})"
    return Examples(inputs, _labels(table, chosen.label) if chosen.label else [None] * len(inputs), said)


def _inputs(table: Table, name: str, modality: str) -> Sequence[Any]:
    values = table.column(name)
    if isinstance(values, Lazy):
        return values
    for index, value in enumerate(values):
        if is_missing(value) or (isinstance(value, str) and not value and (table.untyped or modality == "image")):
            raise DataError(f"{table.where(index)} has nothing in {name}", fix="fill it in, or remove the row")
    if modality == "image":
        return [table.folder / value if isinstance(value, str) else value for value in values]
    return cleaned(_lists(values) if table.untyped else values, table.where)


def _labels(table: Table, name: str) -> list[Any]:
    values = table.column(name)
    missing = [index for index, value in enumerate(values) if is_missing(value) or _is_empty(value)]
    if len(missing) == table.rows:
        fix = "name the column that has the labels (label=…, --label), or none: label=''"
        raise Unlabelled(f"{table.origin} has nothing in {name}, in no row", fix=fix)
    if missing:
        raise DataError(f"{table.where(missing[0])} has nothing in {name}", fix="fill it in, or remove the row")
    typed = _typed(values, table, name) if table.untyped else values
    return [plain_label(value, table.where(index)) for index, value in enumerate(typed)]


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _typed(labels: Sequence[str], table: Table, name: str) -> Sequence[Any]:
    """Return texts as whole numbers if all are such, as numbers or as lists likewise; "007" is a code and stays one."""
    for pattern, kind in ((WHOLE, int), (NUMBER, float)):
        if all(pattern.fullmatch(label) for label in labels):
            return [kind(label) for label in labels]
    lists = _lists(labels)
    if lists is labels and all(label.startswith("[") and label.endswith("]") for label in labels):
        raise DataError(
            f"{table.where(0)} has {labels[0]:.60} in {name}, a list as Python prints it, not as JSON",
            fix='write the table as JSON lines: frame.to_json("data.jsonl", orient="records", lines=True)',
        )
    return lists


def _lists(texts: Sequence[Any]) -> Sequence[Any]:
    """Return texts as the lists that they are in JSON if all of them are, else as they are."""
    if not all(text.startswith("[") and text.endswith("]") for text in texts):
        return texts
    try:
        return [json.loads(text) for text in texts]
    except ValueError:
        return texts
