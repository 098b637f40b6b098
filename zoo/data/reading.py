"""Read examples from a folder, a table file, a dataset of the Hub or objects in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from zoo.data import folders, groups, in_memory, table, table_examples
from zoo.data.cleaning import cleaned, plain_label
from zoo.data.examples import TRAIN, VALID, Columns, Examples, Parts, Sized, Unlabelled, for_evaluation
from zoo.data.streaming import opening
from zoo.errors import DataError

ANY_COLUMNS = Columns()


def read(
    data: object,
    *,
    modality: str = "image",
    columns: Columns = ANY_COLUMNS,
) -> tuple[Examples, Examples | None]:
    """Read training examples, and validation examples if the data has such a split.

    `data` is a folder with a sub-folder per class (or train/ and valid/ folders of that form), a table file,
    "hf:user/dataset", a DataFrame, a datasets.Dataset, a dict of columns, a sequence, iterator or DataLoader of
    (input, label), a sequence of dicts, or a tuple (X, y); for text also, without labels, a text file, a folder of text
    files or a sequence of texts. Groups such as "@file-name" are derived (zoo.data.groups). Raises DataError if `data`
    is missing, empty or of another type.
    """
    derived = columns.groups if columns.groups and columns.groups.startswith("@") else None
    if derived is not None:
        columns = replace(columns, groups=None)
    parts = _parts(data, modality, columns)
    train = parts[next((name for name in TRAIN if name in parts), next(iter(parts)))]()
    valid = next((parts[name]() for name in VALID if name in parts), None)
    for part in (train, valid):
        if part is not None:
            _check_labels(part, modality, columns)
    if derived is not None:
        train = replace(train, groups=groups.derive(derived, train))
    if columns.groups is not None and train.groups is None:
        what = f"groups={columns.groups!r} is the name of a column, and {train.origin} is no table"
        raise DataError(what, fix=f"pass a table with that column, or one of {', '.join(groups.DERIVED)}")
    return train, valid


def read_one(data: object, *, modality: str = "image", columns: Columns = ANY_COLUMNS) -> Examples:
    """Read evaluation examples, as `read`: the test split, else validation, else training.

    A split without labels, such as the test split of a competition, is skipped if another one has labels.
    """
    if columns.groups and columns.groups.startswith("@"):
        columns = replace(columns, groups=None)
    parts = _parts(data, modality, columns)
    found: list[Examples] = []
    refused: list[Unlabelled] = []
    for name in for_evaluation(parts):
        try:
            found.append(parts[name]())
        except Unlabelled as error:
            refused.append(error)
            continue
        if any(label is not None for label in found[-1].labels):
            return found[-1]
    if not found:
        raise refused[0]
    return found[0]


def _parts(data: object, modality: str, columns: Columns) -> Parts:
    """Return a reader for each split of the data; {"train": …} if it has no splits."""
    if isinstance(data, Examples):
        return {"train": lambda: data}
    if opening.is_stream(data):
        from zoo.data.streaming import in_memory as streamed

        return streamed.parts(data, columns, modality)
    if isinstance(data, str) and data.startswith("hf:"):
        return table_examples.of_hub(data, columns, modality)
    if isinstance(data, str | os.PathLike):
        return folders.read(Path(os.path.expanduser(data)), columns, modality)
    tables = table.in_memory(data)
    if tables is not None:
        return {name: partial(table_examples.examples, part, columns, modality) for name, part in tables.items()}
    data = in_memory.sequence(data, task=columns.task)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | bytes):
        return {"train": partial(_read_sequence, data, modality, columns)}
    raise DataError(
        f"data of type {type(data).__name__} is not supported",
        fix="pass a folder with one sub-folder per class, a table, a list of (input, label) pairs, or X and y",
    )


def _check_labels(examples: Examples, modality: str, columns: Columns) -> None:
    """Raise DataError if only some examples have labels; images always need one, but for multilabel."""
    missing = [index for index, label in enumerate(examples.labels) if label is None and columns.task != "multilabel"]
    if missing and (modality == "image" or len(missing) < len(examples)):
        raise DataError(
            f"label of example {missing[0]} of {examples.origin} is None",
            fix='add a label, or remove the example; where none applies: task="multilabel", and an empty list',
        )


def check_source(data: str | os.PathLike[str]) -> None:
    """Raise DataError unless `data` is an existing folder, table or text file, or hf:user/dataset."""
    from zoo.store import hub_datasets

    if str(data).startswith("hf:"):
        hub_datasets.parse(str(data))
    elif not opening.is_stream(data):
        folders.check(Path(data))


def _read_sequence(data: Sized, modality: str, columns: Columns) -> Examples:
    if len(data) == 0:
        raise DataError("the data has no examples", fix="pass at least two examples of each class")
    origin = f"{len(data):,} examples in memory"
    items = [data[index] for index in range(len(data))]
    if all(isinstance(item, dict) for item in items):
        return table_examples.examples(table.of_rows(items, origin), columns, modality)
    if modality == "text" and all(isinstance(item, str) for item in items):
        return Examples(cleaned(items, "example {}".format), [None] * len(items), origin)
    for index, pair in enumerate(items):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(
                f"example {index} is {type(pair).__name__}, not a pair of (input, label)",
                fix='pass pairs, as in [("robin.jpg", "bird"), …], or inputs and labels: finetune(X, y)',
            )
    found = [label for _, label in items]
    if modality == "image" or not isinstance(items[0][0], list):  # a list of words has a tag for each
        found = list(in_memory.class_numbers(found, task=columns.task))
    labels = [plain_label(label, f"example {index}") for index, label in enumerate(found)]
    inputs = [item for item, _ in items]
    if modality == "text":
        return Examples(cleaned(inputs, "example {}".format), labels, origin)
    return Examples([Path(item) if isinstance(item, str) else item for item in inputs], labels, origin)
