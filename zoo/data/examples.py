"""Examples: inputs and labels before decoding or tokenisation, as read from any source of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

from zoo.errors import DataError

Label = Any
"""A class (str, int), several labels or tags (tuple), a number (float), numbers by name (dict), or None without any."""
TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing")
"""Names of the splits, in folders, files and datasets."""


def for_evaluation(splits: Iterable[str]) -> list[str]:
    """Return the splits to evaluate or predict, best first: test, validation, training; else the first of any name."""
    names = list(splits)
    return [name for name in (*TEST, *VALID, *TRAIN) if name in names] or names[:1]


IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
TEXT_SUFFIXES = frozenset({"", ".eml", ".htm", ".html", ".log", ".md", ".rst", ".tex", ".text", ".txt", ".xml"})
"""Suffixes of image and text files read from folders."""


class Sized(Protocol):
    """A map-style dataset: anything with __len__ and __getitem__, such as a list or a torch Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a table, inferred if not given.

    input      one column; two: a pair of texts
    label      one column, "" for none, or several, "red,green,blue": multi-hot, or a number each
    groups     examples with the same value here are not divided between training and held-out data
    task       if known: for multilabel an empty label is an example without any, for regress 0 and 1 are numbers
    """

    input: tuple[str, ...] = ()
    label: str | None = None
    groups: str | None = None
    task: str | None = None

    @classmethod
    def of(
        cls, input: str | Sequence[str] | None, label: str | Sequence[str] | None, groups: str | None = None
    ) -> Columns:
        """Parse names as users write them: "a", "a,b", ["a", "b"] or None."""
        names = input.split(",") if isinstance(input, str) else input or ()
        one = label if label is None or isinstance(label, str) else ",".join(label)
        return cls(tuple(name.strip() for name in names), one, groups)


@dataclass(frozen=True, slots=True)
class Lazy(Sequence[Any]):
    """A sequence whose items are read on access, for images that do not fit in memory."""

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
        """Return the items at `indices`, in that order, without reading them."""
        return Lazy(self.get, [self.indices[i] for i in indices])


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs (paths, images in memory, texts), labels of equal length, and their origin for messages.

    Examples of one group, if there are `groups`, stay together where data is held out. `files` are those that texts
    were read from, if each has its own.
    """

    inputs: Sequence[Any]
    labels: Sequence[Label]
    origin: str
    groups: Sequence[Any] | None = None
    files: Sequence[Path] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, indices: Iterable[int]) -> Examples:
        """Return the examples at `indices`, in that order."""
        chosen = list(indices)
        inputs = self.inputs.at(chosen) if isinstance(self.inputs, Lazy) else [self.inputs[i] for i in chosen]
        groups = None if self.groups is None else [self.groups[i] for i in chosen]
        files = None if self.files is None else [self.files[i] for i in chosen]
        return Examples(inputs, [self.labels[i] for i in chosen], self.origin, groups, files)


class Unlabelled(DataError):
    """The label column of a table is missing or empty."""


Parts = Mapping[str, Callable[[], Examples]]
"""Split name -> reader; only the requested splits are read."""
