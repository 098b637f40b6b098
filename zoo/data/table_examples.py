"""Convert a table to examples: inputs and labels from its columns, validated and parsed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from zoo.data import columns as choosing
from zoo.data.cleaning import cleaned, is_missing, plain_label
from zoo.data.examples import Columns, Examples, Lazy, Parts, Unlabelled
from zoo.data.table import Table, hub_tables
from zoo.errors import DataError

INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
DIGITS = 18
"""Whole numbers with more digits than these are codes, and stay strings."""
UNDEFINED = frozenset({"nan", "na", "n/a", "#n/a", "null", "none", "inf", "+inf", "-inf", "infinity", "-infinity", "?"})
"""Values, in lower case, of a numeric column where there is no number."""


def of_hub(name: str, columns: Columns, modality: str) -> Parts:
    """Load a dataset of the Hub, `hf:user/dataset[/config][@revision]`, by split."""
    return {part: partial(examples, table, columns, modality) for part, table in hub_tables(name).items()}


def examples(table: Table, columns: Columns, modality: str) -> Examples:
    """Convert a table to examples; raises DataError if the columns are ambiguous or a value is missing."""
    if table.rows == 0:
        raise DataError(f"{table.origin} has no rows", fix="write a table with one row per example")
    chosen = choosing.choose(table, columns, modality)
    taken = [_inputs(table, name, modality) for name in chosen.input]
    inputs = taken[0] if len(taken) == 1 else list(zip(*taken, strict=True))
    said = f"{table.origin} ({', '.join(chosen.input)}{f' -> {chosen.label}' if chosen.label else ''})"
    groups = None if chosen.groups is None else _groups(table, chosen.groups)
    return Examples(inputs, labels(table, chosen), said, groups)


def labels(table: Table, chosen: Columns) -> list[Any]:
    """Return the labels in a table, by the column or columns that were chosen; None without any."""
    if several := choosing.several_labels(table, chosen.label):
        return _by_column(table, several, chosen.task)
    if chosen.label:
        return _labels(table, chosen.label, optional=chosen.task == "multilabel")
    return [None] * table.rows


def _groups(table: Table, name: str) -> list[str]:
    """Return the group of each row as text; DataError for a missing one."""
    values = table.column(name)
    for index, value in enumerate(values):
        if is_missing(value) or _is_empty(value):
            raise DataError(f"{table.where(index)} has no value in {name}", fix="add one, or remove the row")
    return [str(value) for value in values]


def _by_column(table: Table, names: Sequence[str], task: str | None) -> list[Any]:
    """Return the labels of several columns: numbers by name, or for multi-hot columns the names of those that are 1.

    Without a task, columns are multi-hot if they hold 0 and 1 alone, and numbers if none of them does.
    """
    columns = {name: table.column(name) for name in names}
    flags = {name: [FLAGS.get(str(value).strip().lower()) for value in values] for name, values in columns.items()}
    if task == "regress" or (task is None and all(None in values for values in flags.values())):
        numbers = [_numbers(table, name, values) for name, values in columns.items()]
        return [dict(zip(names, row, strict=True)) for row in zip(*numbers, strict=True)]
    for name, values in flags.items():
        if None in values:
            index = values.index(None)
            what = f"{table.where(index)} has {columns[name][index]!r:.40} in {name}, neither 0 nor 1"
            fix = f"correct it; if the columns are quantities: --task regress; a model of one of them: --label {name}"
            raise DataError(what, fix=fix)
    return [tuple(n for n, flag in zip(names, row, strict=True) if flag) for row in zip(*flags.values(), strict=True)]


def _numbers(table: Table, name: str, values: Sequence[Any]) -> list[float]:
    """Return a column as finite numbers; DataError for any other value."""
    found = []
    for index, value in enumerate(values):
        try:
            found.append(math.nan if value is None or isinstance(value, bool) else float(value))
        except (TypeError, ValueError, OverflowError):
            found.append(math.nan)
        if not math.isfinite(found[-1]):
            what = f"{table.where(index)} has {'no value' if is_missing(value) else f'{value!r:.40}'} in {name}"
            fix = "a list of columns holds 0 or 1, or numbers: correct the value, or remove the row"
            raise DataError(f"{what}, no finite number", fix=fix)
    return found


def _inputs(table: Table, name: str, modality: str) -> Sequence[Any]:
    values = table.column(name)
    if isinstance(values, Lazy):
        return values
    for index, value in enumerate(values):
        if is_missing_input(value, table, modality):
            raise DataError(f"{table.where(index)} has no value in {name}", fix="add one, or remove the row")
    if modality == "image":
        return [table.folder / value if isinstance(value, str) else value for value in values]
    return cleaned(parse_lists(values) if table.untyped else values, table.where)


def is_missing_input(value: Any, table: Table, modality: str) -> bool:
    """Return whether a cell holds no input; an empty text is one, but for CSV files."""
    return is_missing(value) or (_is_empty(value) and (table.untyped or modality == "image"))


def _labels(table: Table, name: str, *, optional: bool) -> list[Any]:
    values = table.column(name)
    missing = [index for index, value in enumerate(values) if is_missing(value) or _is_empty(value)]
    if len(missing) == table.rows and not table.part:
        fix = "name the label column: label=…, --label; without labels: label=''"
        raise Unlabelled(f"{table.origin} has no values in {name}", fix=fix)
    if optional and missing:
        return _with_empty(values, set(missing), table, name)
    if missing:
        fix = "add one, or remove the row; where it means no label at all: --task multilabel"
        raise DataError(f"{table.where(missing[0])} has no value in {name}", fix=fix)
    typed = _typed(values, table, name) if table.untyped else values
    return [plain_label(value, table.where(index)) for index, value in enumerate(typed)]


def _with_empty(values: Sequence[Any], missing: set[int], table: Table, name: str) -> list[Any]:
    """Return the labels, () where there is none."""
    given = [index for index in range(table.rows) if index not in missing]
    typed = [values[index] for index in given]
    found = dict(zip(given, _typed(typed, table, name) if table.untyped else typed, strict=True))
    return [plain_label(found.get(index, ()), table.where(index)) for index in range(table.rows)]


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _typed(labels: Sequence[str], table: Table, name: str) -> Sequence[Any]:
    """Parse strings as int, float or JSON lists if all of them are valid; "007" is a code and stays a string."""
    if all(INTEGER.fullmatch(label) for label in labels):
        return labels if max(map(len, labels)) > DIGITS else [int(label) for label in labels]
    if all(NUMBER.fullmatch(label) for label in labels):
        return [float(label) for label in labels]
    others = [index for index, label in enumerate(labels) if not NUMBER.fullmatch(label)]
    if len(others) < len(labels) and all(labels[index].strip().lower() in UNDEFINED for index in others):
        what = f"{table.where(others[0])} has {labels[others[0]]!r} in {name}, where all other rows have numbers"
        raise DataError(what, fix="correct it, or remove the row")
    lists = parse_lists(labels)
    if lists is labels and all(label.startswith("[") and label.endswith("]") for label in labels):
        raise DataError(
            f"{table.where(0)} has {labels[0]:.60} in {name}, a Python list instead of JSON",
            fix='write the table as JSON lines: frame.to_json("data.jsonl", orient="records", lines=True)',
        )
    return lists


def parse_lists(texts: Sequence[Any]) -> Sequence[Any]:
    """Parse strings as JSON lists if all of them are valid, else return them unchanged."""
    if not all(text.startswith("[") and text.endswith("]") for text in texts):
        return texts
    try:
        return [json.loads(text) for text in texts]
    except (ValueError, RecursionError):
        return texts
