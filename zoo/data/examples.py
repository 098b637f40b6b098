"""Examples: inputs with labels, from a folder, a table, a data set or any sized sequence of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from zoo.errors import DataError

Label = Any
"""A class (str, int), several labels or tags (tuple), a number (float), or None where there is no label."""
TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing")
"""What the parts of a data set are called, in folders, files and splits."""
IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
TEXT_SUFFIXES = frozenset({"", ".eml", ".htm", ".html", ".log", ".md", ".rst", ".tex", ".text", ".txt", ".xml"})
"""Suffixes of the files that a folder of images, or of texts, is read from."""


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
