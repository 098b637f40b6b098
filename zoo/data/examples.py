"""Examples: inputs with labels, from a folder, a table, a data set or any sized sequence of pairs."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, overload

from zoo.errors import DataError

Label = Any
"""A class (str, int), several labels or tags (tuple), a number (float), or None where there is no label."""
TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing")
"""What the parts of a data set are called, in folders, files and splits."""


class Sized(Protocol):
    """Anything with a length and an item at each index: a list, a torch Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table hold the input (two: a pair of texts) and the label ("": none); else as they look."""

    input: tuple[str, ...] = ()
    label: str | None = None

    @classmethod
    def of(cls, input: str | Sequence[str] | None, label: str | None) -> Columns:
        """Take names as users write them: "a", "a,b", ["a", "b"] or None."""
        names = input.split(",") if isinstance(input, str) else input or ()
        return cls(tuple(name.strip() for name in names), label)


@dataclass(frozen=True, slots=True)
class Lazy(Sequence[Any]):
    """Items that are read from the disk one by one, when they are asked for: images that would not fit in memory."""

    get: Callable[[int], Any]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Lazy: ...
    def __getitem__(self, index: int | slice) -> Any:
        return Lazy(self.get, self.indices[index]) if isinstance(index, slice) else self.get(self.indices[index])

    def at(self, indices: Iterable[int]) -> Lazy:
        """Return some of the items, in that order, none of them read yet."""
        return Lazy(self.get, [self.indices[i] for i in indices])


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
        inputs = self.inputs.at(chosen) if isinstance(self.inputs, Lazy) else [self.inputs[i] for i in chosen]
        return Examples(inputs, [self.labels[i] for i in chosen], self.origin)


class Unlabelled(DataError):
    """A table has no labels where its label column should have them."""


Parts = Mapping[str, Callable[[], Examples]]
"""How to read each part of the data; only those that are wanted are read."""


def read(
    data: object,
    *,
    modality: str = "image",
    columns: Columns = Columns(),  # frozen
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


def read_one(data: object, *, modality: str = "image", columns: Columns = Columns()) -> Examples:
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
    from zoo.data import folders, tables

    if isinstance(data, Examples):
        return {"train": lambda: data}
    if isinstance(data, str) and data.startswith("hf:"):
        return tables.of_hub(data, columns, modality)
    if isinstance(data, str | os.PathLike):
        return folders.read(Path(data).expanduser(), columns, modality)
    table = tables.in_memory(data)
    if table is not None:
        return {name: partial(tables.examples, part, columns, modality) for name, part in table.items()}
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
    from zoo.data import folders
    from zoo.store import hub_data

    if str(data).startswith("hf:"):
        hub_data.parse(str(data))
    else:
        folders.check(Path(data))


def _read_sequence(data: Sized, modality: str, columns: Columns) -> Examples:
    if len(data) == 0:
        raise DataError("the data holds no examples", fix="give at least two examples of each class")
    origin = f"{len(data):,} examples in memory"
    items = [data[index] for index in range(len(data))]
    if all(isinstance(item, dict) for item in items):
        from zoo.data import tables

        return tables.examples(tables.of_rows(items, origin), columns, modality)
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


def cleaned(inputs: Sequence[Any], where: Callable[[int], str]) -> list[Any]:
    """Return texts as str, pairs of texts as tuples, texts that are given as words as lists of str.

    Tuples are words, too, unless each has two. DataError for what is no text; `where` says where an input is.
    """
    texts = [item.tolist() if hasattr(item, "tolist") else item for item in inputs]
    if any(isinstance(item, tuple) and len(item) != 2 for item in texts):
        texts = [list(item) if isinstance(item, tuple) else item for item in texts]
    for index, item in enumerate(texts):
        for text in item if isinstance(item, tuple | list) else (item,):
            _check_text(text, index, where)
    return texts


def _check_text(text: Any, index: int, where: Callable[[int], str]) -> None:
    if not isinstance(text, str):
        what = "nothing" if is_missing(text) else f"{text!r:.60} ({type(text).__name__})"
        raise DataError(
            f"{where(index)} has {what} where a text is expected",
            fix="give texts, pairs of texts or lists of words; leave out what has none",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where(index)} holds half a character (a lone surrogate), which no tokenizer can read",
            fix='take it out: text.encode("utf-8", "ignore").decode()',
        ) from error


def is_missing(value: Any) -> bool:
    """Tell whether a value says that there is none: None, NaN, and what pandas has for it."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def plain_label(value: Any, where: str) -> Label:
    """Turn a label into plain Python: numpy and torch scalars and arrays too; True is the class "True"."""
    if hasattr(value, "ndim") and value.ndim:
        value = value.tolist()
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, tuple | list | set | frozenset):
        several = sorted(plain, key=str) if isinstance(plain, set | frozenset) else plain
        return tuple(plain_label(item, where) for item in several)
    if isinstance(plain, bool):
        return str(plain)
    if plain is None or isinstance(plain, str | int) or (isinstance(plain, float) and math.isfinite(plain)):
        return plain
    raise DataError(
        f"label of {where} is {value!r:.60} ({type(value).__name__}), not a text, a number or a list of labels",
        fix="turn the labels into str, int or float, or lists of str",
    )


def fingerprint(examples: Examples) -> str:
    """Return the SHA-256 over labels and inputs: texts, paths by relative name, size and time, images by bytes."""
    digest = hashlib.sha256()
    for item, label in zip(examples.inputs, examples.labels, strict=True):
        digest.update(f"{identity(item, examples.origin)}\t{label!r}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def identity(item: Any, origin: str = "") -> str:
    """Name one input by its content, cheaply: a path by name, size and time of change, all else by its bytes."""
    if isinstance(item, dict):  # an image of the `datasets` library
        item = item.get("bytes") or Path(item.get("path") or "")
    if isinstance(item, os.PathLike):
        path = Path(item)
        name = path.relative_to(origin) if path.is_relative_to(origin) else path
        if not path.exists():
            return f"{name}\tmissing"
        stat = path.stat()
        return f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}"
    if isinstance(item, str | tuple | list):
        item = repr(item).encode("utf-8", "replace")
    if isinstance(item, bytes):
        return hashlib.sha256(item).hexdigest()
    if hasattr(item, "detach"):
        item = item.detach().cpu().numpy()
    shape = getattr(item, "shape", None) or (item.mode, item.size)  # the same bytes may be another image
    return hashlib.sha256(repr(shape).encode() + item.tobytes()).hexdigest()
