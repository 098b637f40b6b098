"""Objects in memory as sequences of (input, label): X with y, iterators, torch DataLoaders, targets in columns."""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from zoo.errors import DataError


def paired(inputs: Any, labels: Any, *, task: str | None = None) -> list[tuple[Any, Any]]:
    """Return X and y as (input, label) pairs; DataError if their lengths differ, or one of them is no sequence.

    Each is a list, an array, a tensor, a Series, a DataFrame of one column or an iterator. A 2-D y of zeros and ones,
    (N, K), is multi-hot: its labels are the names of the columns, or their numbers. One-hot rows, each with a single
    one, are classes, unless the `task` is multilabel. Any other 2-D y has K numbers to predict, as for regress.
    """
    rows, truths = _items(inputs, "X"), _targets(labels, task)
    if len(rows) != len(truths):
        raise DataError(f"X has {len(rows):,} inputs, and y has {len(truths):,} labels", fix="give one label per input")
    return list(zip(rows, truths, strict=True))


def sequence(data: Any, *, task: str | None = None) -> Any:
    """Return (X, y), a DataLoader or an iterator as a sequence of examples; anything else as it is."""
    if isinstance(data, tuple) and len(data) == 2 and all(map(_is_column, data)):
        return paired(*data, task=task)
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(data, torch_data.DataLoader):
        return _of_loader(data, torch_data)
    if torch_data is not None and isinstance(data, torch_data.IterableDataset):
        return list(data)
    return list(data) if hasattr(data, "__next__") else data


def _is_column(part: Any) -> bool:
    """Return whether an object holds all inputs, or all labels, of (X, y)."""
    return isinstance(part, list) or (hasattr(part, "shape") and len(part.shape) > 0)


def class_numbers(labels: Sequence[Any], *, task: str | None = None) -> Sequence[Any]:
    """Return multi-hot arrays, each (K,) of zeros and ones, as tuples of class numbers; other labels unchanged.

    One-hot arrays become one number each, unless the `task` is multilabel; for regress arrays stay as they are.
    """
    if task == "regress":
        return labels
    rows = [label.tolist() if getattr(label, "ndim", 0) == 1 else None for label in labels]
    if len(rows) < 2 or any(row is None or len(row) < 2 or len(row) != len(rows[0] or ()) for row in rows):
        return labels
    if not all(value in (0, 1) for row in rows for value in row or ()):
        return labels
    return _by_name([row or [] for row in rows], range(len(rows[0] or ())), task == "multilabel")


def _by_name(rows: Sequence[Sequence[Any]], names: Sequence[Any], several: bool) -> list[Any]:
    """Return the names of the ones in each row: a tuple, or a single name where all rows are one-hot."""
    found = [tuple(name for name, value in zip(names, row, strict=True) if value) for row in rows]
    return found if several or any(len(one) != 1 for one in found) else [name for (name,) in found]


def _items(values: Any, name: str) -> list[Any]:
    if isinstance(values, str | bytes | dict) or hasattr(values, "__fspath__"):
        what = f"{name} is {values!r:.60}, and labels of their own go with inputs in memory"
        raise DataError(what, fix="finetune(X, y) takes sequences; finetune(data) takes a folder or a table")
    columns = getattr(values, "columns", None)
    if columns is not None:
        if len(columns) != 1:
            what = f"{name} is a DataFrame with the columns {', '.join(map(str, columns))}"
            raise DataError(what, fix="X is one column: finetune(frame['text'], frame['label'])")
        values = values[columns[0]]
    if hasattr(values, "to_list"):
        return list(values.to_list())
    if getattr(values, "dtype", None) is not None and getattr(values.dtype, "kind", "") in "OUS" and values.ndim == 1:
        return list(values.tolist())
    if hasattr(values, "__len__") and hasattr(values, "__getitem__"):
        return [values[index] for index in range(len(values))]
    if isinstance(values, Iterable):
        return list(values)
    raise DataError(f"{name} is {type(values).__name__}, not a sequence", fix="finetune(X, y) takes lists or arrays")


def _targets(labels: Any, task: str | None) -> list[Any]:
    columns = getattr(labels, "columns", None)
    names = None if columns is None else [str(name) for name in columns]
    values = labels.toarray() if hasattr(labels, "toarray") else labels
    values = values.to_numpy() if columns is not None else values
    if getattr(values, "ndim", 1) != 2:
        return _items(values, "y")
    if values.shape[1] == 1:
        return _items(values[:, 0], "y")
    rows = values.tolist()
    if task != "regress" and all(value in (0, 1) for row in rows for value in row):
        return _by_name(rows, names or range(values.shape[1]), task == "multilabel")
    if task not in (None, "regress"):
        what = f"y of shape {tuple(values.shape)} holds other values than 0 and 1"
        raise DataError(what, fix='task="regress" predicts numbers; else give one label per input')
    for index, row in enumerate(rows):
        if not all(isinstance(value, int | float) for value in row):
            what = f"row {index} of y, of shape {tuple(values.shape)}, is {reprlib.repr(row)}, not numbers alone"
            raise DataError(what, fix="give numbers, or one label per input")
    floats = [tuple(map(float, row)) for row in rows]
    return [dict(zip(names, row, strict=True)) for row in floats] if names else floats


def _of_loader(loader: Any, torch_data: Any) -> Any:
    """Return the examples of a DataLoader, without its batches and its order, which are those of the recipe."""
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, torch_data.IterableDataset):
        return list(dataset)
    if loader.batch_size is not None and type(sampler) in (torch_data.SequentialSampler, torch_data.RandomSampler):
        return dataset
    if loader.batch_size is not None and type(sampler) is torch_data.SubsetRandomSampler:
        return [dataset[index] for index in sorted(map(int, sampler.indices))]
    kind = type(loader.batch_sampler if loader.batch_size is None else sampler).__name__
    fix = "pass its examples: finetune(loader.dataset); class_balance='sampler' draws rare classes more often"
    raise DataError(f"this DataLoader draws by a {kind}, and the examples of an epoch are not known", fix=fix)
