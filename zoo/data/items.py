"""Items: inputs without labels, each with its name, as folders, files, tables and lines hold them; read one by one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from zoo.data import columns, folders, table_examples, table_parts
from zoo.data.cleaning import cleaned, is_missing
from zoo.data.examples import IMAGE_SUFFIXES, Lazy, for_evaluation
from zoo.data.files import TABLES, read_text
from zoo.data.local_files import missing
from zoo.data.table import Table, hub_tables
from zoo.errors import DataError


@dataclass(frozen=True, slots=True)
class Item:
    """One input: its name (a path, a text, "row 3"), and its value or the reason why it has none."""

    name: Any
    value: Any = None
    error: DataError | None = None

    @classmethod
    def reading(cls, name: Any, read: Callable[[], Any]) -> Item:
        """Return the item of a name with the value that `read` returns, or its DataError."""
        try:
            return cls(name, read())
        except DataError as error:
            return cls(name, error=error)


@dataclass(frozen=True, slots=True)
class Reading:
    """How the inputs of a model are read.

    modality  "image" or "text"
    column    columns of a table that hold the inputs; inferred if empty
    pairs     the model reads pairs of texts
    words     the model tags words: an input may be a list of words
    channels  of an image, for the layout of arrays
    """

    modality: str
    column: tuple[str, ...] = ()
    pairs: bool = False
    words: bool = False
    channels: int = 3


def check(name: str) -> None:
    """Raise DataError for a command-line argument that is neither an existing file or folder nor a Hub data set."""
    from zoo.store import hub_datasets

    if name.startswith("hf:"):
        hub_datasets.parse(name)
    elif not os.path.lexists(os.path.expanduser(name)):
        is_image = PurePath(name).suffix.lower() in IMAGE_SUFFIXES
        raise missing(name, "" if is_image else f"; to predict a text: --text {shlex.quote(name)}")


def of_path(name: str | os.PathLike[str], how: Reading) -> tuple[Iterator[Item], int | None]:
    """Return the items of a folder, a table, a file or hf:user/dataset, and their number if it is known; read late.

    A folder gives all images (or texts) below it, a text file one text. Raises DataError for what cannot be listed.
    """
    if isinstance(name, str) and name.startswith("hf:"):
        table = best_split(hub_tables(name))
        return of_table(table, how), table.rows
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        found = folders.files(path, how.modality)
        return of_files(found, how), len(found)
    if path.suffix.lower() in TABLES:
        parts, total = table_parts.read(path)
        return of_tables(path, parts, how), total
    return of_files([path], how), 1


def of_files(paths: Iterable[Path], how: Reading) -> Iterator[Item]:
    """Yield image files by their paths, and text files with their content."""
    if how.modality == "image":
        return (Item(str(path), path) for path in paths)
    return (Item.reading(str(path), lambda path=path: read_text(path)) for path in paths)  # type: ignore[misc]


def of_lines(lines: Iterable[bytes], how: Reading) -> Iterator[Item]:
    """Yield one item for each line that is not empty: the path of an image, or a text (of a pair: two, with a tab)."""
    for line in lines:
        raw = line.rstrip(b"\r\n")
        if raw.strip():
            path = os.fsdecode(raw)
            is_text = how.modality == "text"
            yield of_text(raw.decode(errors="replace"), how) if is_text else Item(path, Path(os.path.expanduser(path)))


def of_text(text: str, how: Reading) -> Item:
    """Return the item of a text, or of two with a tab between them for a model of pairs."""

    def pair() -> tuple[str, ...]:
        parts = tuple(text.split("\t"))
        if len(parts) != 2:
            fix = "write the two texts of a pair with a tab between them, or pass a table with two columns"
            raise DataError(f"this model reads pairs of texts, and the input has {len(parts)} text(s)", fix=fix)
        return parts

    return Item.reading(text, pair) if how.pairs else Item(text, text)


def of_tables(origin: object, parts: Iterator[Table], how: Reading) -> Iterator[Item]:
    """Return the items of the parts of a table, by the input columns of the first; DataError if it has no rows."""
    first = next(parts, None)
    if first is None or first.rows == 0:
        raise DataError(f"{origin} has no rows", fix="write a table with one row per input")
    same = replace(how, column=columns.choose_inputs(first, how.column, how.modality))
    return chain.from_iterable(of_table(part, same) for part in chain([first], parts))


def of_table(table: Table, how: Reading) -> Iterator[Item]:
    """Return the items of the rows of a table; raises DataError if the input columns are unclear."""
    names = columns.choose_inputs(table, how.column, how.modality)
    taken = [table.column(name) for name in names]
    if table.untyped and how.words:
        taken = [_words(values) for values in taken]
    lazy = any(isinstance(values, Lazy) for values in taken)

    def one(index: int) -> Item:
        values = [values[index] for values in taken]
        whole = values[0] if len(values) == 1 else tuple(values)
        named = not lazy and (how.modality == "text" or isinstance(whole, str))
        name = whole if named and not any(map(is_missing, values)) else table.where(index)
        return Item.reading(name, lambda: _value(table, index, whole, how))

    return (one(index) for index in range(table.rows))


def _value(table: Table, index: int, value: Any, how: Reading) -> Any:
    """Return the input in a row; DataError for an empty cell."""
    for part in value if isinstance(value, tuple) else (value,):
        if table_examples.is_missing_input(part, table, how.modality):
            raise DataError(f"{table.where(index)} has no value", fix="add one, or remove the row")
    if how.modality == "image":
        return table.folder / value if isinstance(value, str) else value
    return cleaned([value], lambda _: table.where(index))[0]


def _words(values: Sequence[Any]) -> Sequence[Any]:
    """Parse the lists of words of a CSV column; empty cells stay."""
    filled = [value for value in values if value]
    parsed = iter(table_examples.parse_lists(filled))
    return [next(parsed) if value else value for value in values]


def best_split(splits: Mapping[str, Table]) -> Table:
    """Return the split to predict: test, else validation, else training, else the first."""
    return splits[for_evaluation(splits)[0]]
