"""Table: columns of values in memory, from rows, DataFrames and data sets of the `datasets` library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.examples import Lazy
from zoo.errors import DataError


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
