"""Fixes: a table that says which examples to relabel or to drop, as `zoo report --fixes` writes it and a user edits it.

input      a file by the end of its path (bird/robin.png), a text by itself or, if `id` is given, by its beginning
id         first hexadecimal digits of the SHA-256 of a text, or of an image in memory; empty for files
label      the present label; empty: any
suggested  the label to set
action     relabel, drop, or keep; empty: not decided, the example stays as it is
"""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from zoo.data.cleaning import is_missing
from zoo.data.examples import Examples, Label
from zoo.data.files import TABLES, read_table
from zoo.data.fingerprint import identity
from zoo.data.local_files import missing
from zoo.errors import DataError

COLUMNS = ("input", "id", "label", "suggested", "reason", "score", "action")
NEEDED = ("input", "action")
ACTIONS = ("relabel", "drop", "keep")
DIGITS = 16
"""Hexadecimal digits of an id: 64 bits."""
EXCERPT = 200
"""Characters of a text in the table; its id names it."""
SHOWN = 60
"""Characters of a text in messages."""


@dataclass(frozen=True, slots=True)
class Fix:
    """One decided row of the table; `where` is its place in messages."""

    input: str
    id: str
    label: str
    suggested: str
    action: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """How many examples were relabelled and dropped, and the rows that said so."""

    relabelled: int
    dropped: int
    rows: tuple[Fix, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {"relabelled": self.relabelled, "dropped": self.dropped, "rows": [asdict(row) for row in self.rows]}


def read(source: object) -> tuple[Fix, ...]:
    """Return the decided rows of a table file, or of a sequence of dicts such as `Applied.to_dict()["rows"]`.

    Raises DataError for a file that cannot be read, a missing column, an unknown action, and if nothing is decided.
    """
    if isinstance(source, str | os.PathLike):
        rows, where = _of_file(Path(os.path.expanduser(source)))
        origin = str(source)
    else:
        rows, origin = _rows_of(source), "fixes"
        where = [str(row.get("where") or f"row {number} of fixes") for number, row in enumerate(rows, 1)]
    found = [_fix(row, place) for row, place in zip(rows, where, strict=True)]
    decided = tuple(fix for fix in found if fix.action)
    if not decided:
        what = f"{origin} decides nothing: the column action is empty in all of its {len(found):,} rows"
        raise DataError(what, fix="write relabel, drop or keep there, or leave out --fixes")
    return decided


def _rows_of(source: object) -> list[Mapping[str, Any]]:
    if not isinstance(source, Sequence) or not all(isinstance(row, Mapping) for row in source):
        raise DataError(
            f"fixes of type {type(source).__name__} are no table", fix="fixes='fixes.csv', or a list of dicts"
        )
    return list(source)


def _of_file(path: Path) -> tuple[list[Mapping[str, Any]], list[str]]:
    if path.suffix.lower() not in TABLES:
        known = ", ".join(TABLES)
        raise DataError(f"{path} is no table ({known})", fix="zoo report MODEL --fixes fixes.csv   (writes one)")
    if not path.exists():
        raise missing(path, "; to write one: zoo report MODEL --fixes fixes.csv")
    table = read_table(path)
    lacking = [name for name in NEEDED if name not in table.names]
    if lacking:
        what = f"{path} has no column {lacking[0]!r}; it has {', '.join(table.names)}"
        raise DataError(
            what, fix=f"the columns are {', '.join(COLUMNS)}: zoo report MODEL --fixes {shlex.quote(str(path))}"
        )
    twice = next((name for name in COLUMNS if table.names.count(name) > 1), None)
    if twice:
        raise DataError(f"{path} has two columns called {twice!r}", fix="rename one of them")
    columns = {name: table.column(name) for name in COLUMNS if name in table.names}
    rows = [{name: values[i] for name, values in columns.items()} for i in range(table.rows)]
    return list(rows), [table.where(i) for i in range(table.rows)]


def _fix(row: Mapping[str, Any], where: str) -> Fix:
    def text(name: str) -> str:
        value = row.get(name)
        return "" if value is None or is_missing(value) else str(value)

    action = text("action").strip().lower()
    if action and action not in ACTIONS:
        raise DataError(
            f"{where} has the action {action!r:.60}, none of {', '.join(ACTIONS)}", fix=f"correct it in {where}"
        )
    found = Fix(text("input"), text("id").strip().lower(), text("label"), text("suggested"), action, where)
    if action and not found.input and not found.id:
        raise DataError(f"{where} names no input", fix=f"fill in the column input in {where}, or remove the row")
    if action == "relabel" and not found.suggested:
        raise DataError(f"{where} relabels without a label", fix=f"fill in the column suggested in {where}")
    return found


def apply(fixes: Sequence[Fix], parts: Sequence[Examples]) -> tuple[list[Examples], Applied]:
    """Relabel and drop examples of the parts of a data set; returns the new parts, and what was done.

    Raises DataError for an input that is in none of them or is several, a present label that is another, an unknown
    new label, and rows that contradict each other.
    """
    known = _Known(parts)
    decided: dict[tuple[int, int], Fix] = {}
    for fix in fixes:
        for place in known.find(fix):
            other = decided.setdefault(place, fix)
            if (other.action, other.suggested) != (fix.action, fix.suggested):
                what = (
                    f"{other.where} and {fix.where} contradict each other on {_name(fix)}: {_said(other)}, {_said(fix)}"
                )
                raise DataError(what, fix="remove one of the two rows")
    labels = [list(part.labels) for part in parts]
    for (part, index), fix in decided.items():
        _check_present(fix, labels[part][index])
        if fix.action == "relabel":
            labels[part][index] = _fitting(fix, known.label(fix), parts[part].inputs[index])
    dropped = {place for place, fix in decided.items() if fix.action == "drop"}
    found = []
    for number, examples in enumerate(parts):
        kept = [i for i in range(len(examples)) if (number, i) not in dropped]
        if not kept:
            raise DataError(f"the fixes drop all of {examples.origin}", fix="keep some of them: the column action")
        fixed = replace(examples, labels=labels[number])
        found.append(fixed if len(kept) == len(examples) else fixed.at(kept))
    relabelled = sum(fix.action == "relabel" for fix in decided.values())
    return found, Applied(relabelled, len(dropped), tuple(fixes))


def _fitting(fix: Fix, label: Label, item: object) -> Label:
    """Return the label; DataError for words with another number of tags."""
    if isinstance(item, list) and isinstance(label, tuple) and len(item) != len(label):
        what = f"{fix.where}: {_name(fix)} has {len(item):,} words and is given {len(label):,} tags"
        raise DataError(what, fix=f"write a tag for each word, between |, under suggested in {fix.where}")
    return label


def _said(fix: Fix) -> str:
    return f"{fix.action} as {fix.suggested}" if fix.action == "relabel" else fix.action


def _name(fix: Fix) -> str:
    return repr(fix.input[:SHOWN] or fix.id)


def _check_present(fix: Fix, label: Label) -> None:
    if fix.label and fix.label != as_text(label):
        what = f"{fix.where}: {_name(fix)} is labelled {as_text(label)!r:.60}, not {fix.label!r:.60}"
        raise DataError(what, fix="write the table again for this data: zoo report MODEL --fixes fixes-2.csv")


def as_text(label: Label) -> str:
    """Return a label as it is in the table: several between "|"."""
    return "|".join(map(str, label)) if isinstance(label, tuple | list) else str(label)


def key_of(item: Any, origin: str = "") -> str:
    """Return the id of an input that is no file; "" for a file, which its path names."""
    return "" if isinstance(item, os.PathLike) else identity(item, origin)[:DIGITS]


class _Known:
    """The examples of several parts by what a row may call them."""

    def __init__(self, parts: Sequence[Examples]) -> None:
        self.parts = parts
        self.labels: dict[str, Label] = {as_text(label): label for part in parts for label in part.labels}
        self._by: dict[object, dict[Any, list[tuple[int, int]]]] = {}

    def find(self, fix: Fix) -> list[tuple[int, int]]:
        """Return (part, index) of the example a row names: all copies of a text, one file."""
        if fix.id:
            found = self._index("id", lambda item: key_of(item)).get(fix.id, [])
        else:
            wanted = PurePath(fix.input).parts
            found = self._index(len(wanted), lambda item: _end(item, len(wanted))).get(wanted, [])
            found = found or self._index("text", _text).get(fix.input, [])
            if len({self._path(place) for place in found} - {None}) > 1:
                what = f"{fix.where}: {_name(fix)} is the name of {len(found)} files"
                raise DataError(what, fix="write more of the path in the column input: folder/file.png")
        if not found:
            origins = " and ".join(dict.fromkeys(part.origin for part in self.parts))
            what = f"{fix.where}: {_name(fix)} is no input of {origins}"
            raise DataError(
                what, fix="correct or remove the row; or write the table again: zoo report MODEL --fixes new.csv"
            )
        return found

    def label(self, fix: Fix) -> Label:
        """Return the new label of a row, in the type of the others."""
        if fix.suggested in self.labels:
            return self.labels[fix.suggested]
        if self.labels and all(isinstance(label, float) for label in self.labels.values()):
            with suppress(ValueError):
                return float(fix.suggested)
        several = {str(one): one for label in self.labels.values() if isinstance(label, tuple | list) for one in label}
        if several and several.keys() >= set(fix.suggested.split("|")):
            return tuple(several[one] for one in fix.suggested.split("|"))
        names = sorted(self.labels)
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        what = f"{fix.where}: {fix.suggested!r:.60} is no label of the data; it has {shown:.300}"
        raise DataError(what, fix=f"correct the column suggested in {fix.where}")

    def _path(self, place: tuple[int, int]) -> Any:
        part, index = place
        item = (self.parts[part].files or self.parts[part].inputs)[index]
        return item if isinstance(item, os.PathLike) else None

    def _index(self, name: object, key: Callable[[Any], Any]) -> dict[Any, list[tuple[int, int]]]:
        if name not in self._by:
            found: dict[Any, list[tuple[int, int]]] = defaultdict(list)
            for number, part in enumerate(self.parts):
                items: Iterable[Any] = part.inputs if name in ("id", "text") else part.files or part.inputs
                for index, item in enumerate(items):
                    found[key(item)].append((number, index))
            self._by[name] = found
        return self._by[name]


def _end(item: Any, count: int) -> tuple[str, ...]:
    """Return the last parts of a path; () for an input that is no file."""
    return PurePath(item).parts[-count:] if isinstance(item, os.PathLike) and count else ()


def as_written(item: Any) -> str:
    """Return the beginning of a text as it is in the table, and what stands for an image in memory."""
    text = " ".join(_text(item).split())
    return (f"{text[:EXCERPT]}…" if len(text) > EXCERPT else text) or "image in memory"


def _text(item: Any) -> str:
    """Return a text: a pair with " | " between, words with spaces."""
    if isinstance(item, tuple | list):
        return (" | " if isinstance(item, tuple) else " ").join(map(str, item))
    return item if isinstance(item, str) else ""
