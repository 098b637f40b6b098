"""Examples: inputs with labels, from a folder, a table, a data set or any sized sequence of pairs."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo.errors import DataError

Label = Any
"""A class (str, int), several labels or tags (tuple), a number (float), or None where there is no label."""


class Sized(Protocol):
    """Anything with a length and an item at each index: a list, a torch Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table hold the input (two: a pair of texts) and the label; else their usual names."""

    input: tuple[str, ...] = ()
    label: str | None = None

    @classmethod
    def of(cls, input: str | Sequence[str] | None, label: str | None) -> Columns:
        """Take names as users write them: "a", "a,b", ["a", "b"] or None."""
        names = input.split(",") if isinstance(input, str) else input or ()
        return cls(tuple(name.strip() for name in names), label)


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs (paths, images in memory, texts) and their labels, of equal length, and where they came from."""

    inputs: Sequence[Any]
    labels: Sequence[Label]
    origin: str

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, indices: Iterable[int]) -> Examples:
        """Return the examples at `indices`, in that order."""
        chosen = list(indices)
        return Examples([self.inputs[i] for i in chosen], [self.labels[i] for i in chosen], self.origin)


def read(
    data: object,
    *,
    modality: str = "image",
    columns: Columns = Columns(),  # frozen
) -> tuple[Examples, Examples | None]:
    """Read training examples, and validation examples where the data says which they are.

    `data` is a folder with a sub-folder per class (or train/ and valid/ folders of that form), a table file,
    "hf:user/dataset", a DataFrame, a datasets.Dataset, or a sized sequence of (input, label); for text also a sequence
    of texts alone. Raises DataError naming what is missing, empty or not understood.
    """
    parts = _parts(data, modality, columns)
    for part in parts.values():
        _check_labels(part, modality)
    train = next((parts[name] for name in TRAIN if name in parts), None) or next(iter(parts.values()))
    return train, next((parts[name] for name in VALID if name in parts), None)


def read_one(data: object, *, modality: str = "image", columns: Columns = Columns()) -> Examples:
    """Read examples to measure on: as `read`, but of data in parts the one for testing, else for validation."""
    parts = _parts(data, modality, columns)
    return next((parts[name] for name in (*TEST, *VALID, *TRAIN) if name in parts), None) or next(iter(parts.values()))


TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation"), ("test",)


def _parts(data: object, modality: str, columns: Columns) -> dict[str, Examples]:
    """Read data in its parts: {"train": …} where it has none."""
    from zoo.data import folders, tables

    if isinstance(data, Examples):
        return {"train": data}
    if isinstance(data, str) and data.startswith("hf:"):
        return tables.read_hub(data.removeprefix("hf:"), columns, modality)
    if isinstance(data, str | os.PathLike):
        return folders.read(Path(data), columns, modality)
    kind = f"{type(data).__module__}.{type(data).__name__}"
    if kind.startswith(("pandas.", "polars.")) and hasattr(data, "columns"):
        return {"train": tables.of_frame(data, columns, modality)}
    if kind.startswith("datasets."):
        splits: Any = data if hasattr(data, "items") else {"train": data}
        return {k: tables.of_dataset(v, columns, modality, f"a Dataset ({k})") for k, v in splits.items()}
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | bytes):
        return {"train": _read_sequence(data, modality)}
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


def check_source(data: str) -> None:
    """Raise DataError unless `data` is a folder, a table or a text file that is there, or hf:user/dataset."""
    from zoo.data import folders

    if not data.startswith("hf:"):
        folders.check(Path(data))


def _read_sequence(data: Sized, modality: str) -> Examples:
    if len(data) == 0:
        raise DataError("the data holds no examples", fix="give at least two examples of each class")
    origin = f"{len(data):,} examples in memory"
    if modality == "text" and all(isinstance(data[index], str) for index in range(len(data))):
        return Examples([data[index] for index in range(len(data))], [None] * len(data), origin)
    inputs: list[Any] = []
    labels: list[Label] = []
    for index in range(len(data)):
        pair = data[index]
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(
                f"example {index} is {type(pair).__name__}, not a pair of (input, label)",
                fix='give pairs, as in [("robin.jpg", "bird"), …]',
            )
        inputs.append(pair[0])
        labels.append(plain_label(pair[1], index))
    return Examples(inputs, labels, origin)


def plain_label(value: Any, index: int) -> Label:
    """Turn a label into plain Python: numpy and torch scalars and arrays too; True is the class "True"."""
    if hasattr(value, "ndim") and value.ndim:
        value = value.tolist()
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, tuple | list | set | frozenset):
        several = sorted(plain, key=str) if isinstance(plain, set | frozenset) else plain
        return tuple(plain_label(item, index) for item in several)
    if isinstance(plain, bool):
        return str(plain)
    if plain is None or isinstance(plain, str | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    raise DataError(
        f"label of example {index} is {value!r} ({type(value).__name__}), not a text, a number or a list of labels",
        fix="turn the labels into str, int or float, or lists of str",
    )


def fingerprint(examples: Examples) -> str:
    """Return the SHA-256 over labels and inputs: texts, paths by relative name, size and time, images by bytes."""
    digest = hashlib.sha256()
    for item, label in zip(examples.inputs, examples.labels, strict=True):
        digest.update(f"{identity(item, examples.origin)}\t{label!r}\n".encode())
    return digest.hexdigest()


def identity(item: Any, origin: str = "") -> str:
    """Name one input by its content, cheaply: a file by path, size and time of change; else by its bytes."""
    if isinstance(item, os.PathLike) or (isinstance(item, str) and "\n" not in item and os.path.exists(item)):
        path = Path(item)
        stat = path.stat()
        name = path.relative_to(origin) if path.is_relative_to(origin) else path
        return f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}"
    if isinstance(item, str | tuple | list | dict):
        return hashlib.sha256(repr(item).encode("utf-8", "replace")).hexdigest()
    raw = item.tobytes() if hasattr(item, "tobytes") else item.numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()
