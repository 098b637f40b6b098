"""Read examples from any kind of data: a folder, a table, a data set of the Hub, or objects in memory."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from zoo.data import folders, table, table_examples
from zoo.data.cleaning import cleaned, plain_label
from zoo.data.examples import TEST, TRAIN, VALID, Columns, Examples, Parts, Sized, Unlabelled
from zoo.errors import DataError

ANY_COLUMNS = Columns()


def read(
    data: object,
    *,
    modality: str = "image",
    columns: Columns = ANY_COLUMNS,
) -> tuple[Examples, Examples | None]:
    """Read training examples, and validation examples where the data says which they are.

    `data` is a folder with a sub-folder per class (or train/ and valid/ folders of that form), a table file,
    "hf:user/dataset", a DataFrame, a datasets.Dataset, a dict of columns, or a sized sequence of (input, label) or of
    dicts; for text also a text file, a folder of them or a sequence of texts, without labels. Raises DataError naming
    what is missing, empty or not understood.
    """
    parts = _parts(data, modality, columns)
    train = parts[next((name for name in TRAIN if name in parts), next(iter(parts)))]()
    valid = next((parts[name]() for name in VALID if name in parts), None)
    for part in (train, valid):
        if part is not None:
            _check_labels(part, modality)
    return train, valid


def read_one(data: object, *, modality: str = "image", columns: Columns = ANY_COLUMNS) -> Examples:
    """Read examples to measure on: as `read`, but of data in parts that for testing, else validation, else training.

    A part without labels (of a competition, say) gives way to the next that has them.
    """
    parts = _parts(data, modality, columns)
    found: list[Examples] = []
    refused: list[Unlabelled] = []
    for name in [name for name in (*TEST, *VALID, *TRAIN) if name in parts] or [next(iter(parts))]:
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
    """Return how to read data in its parts: {"train": …} where it has none."""
    if isinstance(data, Examples):
        return {"train": lambda: data}
    if isinstance(data, str) and data.startswith("hf:"):
        return table_examples.of_hub(data, columns, modality)
    if isinstance(data, str | os.PathLike):
        return folders.read(Path(data).expanduser(), columns, modality)
    tables = table.in_memory(data)
    if tables is not None:
        return {name: partial(table_examples.examples, part, columns, modality) for name, part in tables.items()}
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | bytes):
        return {"train": partial(_read_sequence, data, modality, columns)}
    raise DataError(
        f"data of type {type(data).__name__} is not understood",
        fix="give a folder with one sub-folder per class, a table, or a list of (input, label) pairs",
    )


def _check_labels(examples: Examples, modality: str) -> None:
    """Raise DataError where only some examples have a label; images always need one."""
    missing = [index for index, label in enumerate(examples.labels) if label is None]
    if missing and (modality == "image" or len(missing) < len(examples)):
        raise DataError(
            f"label of example {missing[0]} of {examples.origin} is None: it has no label",
            fix="give it one, or leave the example out",
        )


def check_source(data: str | os.PathLike[str]) -> None:
    """Raise DataError unless `data` is a folder, a table or a text file that is there, or hf:user/dataset."""
    from zoo.store import hub_datasets

    if str(data).startswith("hf:"):
        hub_datasets.parse(str(data))
    else:
        folders.check(Path(data))


def _read_sequence(data: Sized, modality: str, columns: Columns) -> Examples:
    if len(data) == 0:
        raise DataError("the data holds no examples", fix="give at least two examples of each class")
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
                fix='give pairs, as in [("robin.jpg", "bird"), …]',
            )
    labels = [plain_label(label, f"example {index}") for index, (_, label) in enumerate(items)]
    inputs = [item for item, _ in items]
    if modality == "text":
        return Examples(cleaned(inputs, "example {}".format), labels, origin)
    return Examples([Path(item) if isinstance(item, str) else item for item in inputs], labels, origin)
