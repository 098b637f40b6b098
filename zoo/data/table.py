"""Table: named columns of values, from rows, DataFrames and datasets of the `datasets` library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.examples import Lazy
from zoo.errors import DataError


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of values by name, with their origin.

    origin   name of the table in messages
    lines    line number of each row in the file; empty if there is no file
    folder   base folder of relative image paths
    part     these are some rows of a longer table: that a column is empty in all of them says nothing
    untyped  all values are strings, numbers included, and an empty string is a missing value: a CSV file
    """

    names: list[str]
    rows: int
    column: Callable[[str], Sequence[Any]]
    origin: str
    lines: Sequence[int | str] = ()
    folder: Path = Path()
    untyped: bool = False
    part: bool = False

    def where(self, index: int) -> str:
        """Return the location of a row for messages: file and line, or row number."""
        return f"{self.origin}:{self.lines[index]}" if self.lines else f"row {index + 1} of {self.origin}"


def in_memory(data: Any) -> dict[str, Table] | None:
    """Convert a DataFrame, Dataset, DatasetDict or dict of columns to tables by split; None for any other type.

    An IterableDataset, or a dict of them, is a stream and no table.
    """
    kind = f"{type(data).__module__}.{type(data).__name__}"  # a type check without importing the library
    if kind.startswith(("pandas.", "polars.")) and hasattr(data, "columns") and hasattr(data, "__len__"):
        return {"train": of_frame(data)}
    if kind.startswith("datasets."):
        if not hasattr(data, "items"):
            return {"train": of_dataset(data, "a Dataset")} if hasattr(data, "__len__") else None
        if not all(hasattr(part, "__len__") for part in data.values()):
            return None
        if not data:
            raise DataError("the DatasetDict has no splits", fix='add one: DatasetDict({"train": …})')
        return {name: of_dataset(part, f"a DatasetDict[{name}]") for name, part in data.items()}
    if isinstance(data, dict) and data and all(isinstance(values, list | tuple) for values in data.values()):
        return {"train": of_columns(data, "a dict of columns")}
    return None


def of_frame(frame: Any) -> Table:
    """Convert a pandas or polars DataFrame."""
    named = {str(name): name for name in frame.columns}
    names = [str(name) for name in frame.columns]
    return Table(names, len(frame), lambda name: frame[named[name]].to_list(), f"a DataFrame of {len(frame):,} rows")


def of_columns(values: Mapping[Any, Sequence[Any]], origin: str) -> Table:
    """Convert a mapping of column names to values; raises DataError if lengths differ."""
    named = {str(name): found for name, found in values.items()}
    lengths = {name: len(found) for name, found in named.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"the columns of {origin} differ in length: {said}", fix="make all columns the same length")
    return Table(list(named), next(iter(lengths.values()), 0), named.__getitem__, origin)


def of_rows(rows: Sequence[Mapping[Any, Any]], origin: str, lines: Sequence[int] = (), folder: Path = Path()) -> Table:
    """Convert rows that map column names to values; a name missing from a row is None."""
    named = {str(name): name for row in rows for name in row}
    return Table(list(named), len(rows), lambda name: [row.get(named[name]) for row in rows], origin, lines, folder)


def of_dataset(rows: Any, origin: str) -> Table:
    """Convert a datasets.Dataset: class ids become names, images are read lazily."""
    import datasets

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


def hub_tables(name: str) -> dict[str, Table]:
    """Return the splits of a dataset of the Hub, `hf:user/dataset[/config][@revision]`."""
    from zoo.store import hub_datasets

    return {part: of_dataset(rows, f"{name}[{part}]") for part, rows in hub_datasets.load(name).items()}


def by_name(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Map class ids, or lists of them, to names; -1, a missing label in the `datasets` library, becomes None."""
    known = dict(enumerate(names))
    return [by_name(value, names) if isinstance(value, list) else known.get(value) for value in values]
