"""Examples: inputs and labels before decoding or tokenisation, as read from any source of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

from zoo.errors import DataError

Label = Any
"""A class (str, int), several labels or tags (tuple), a number (float), or None without a label."""
TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation", "dev"), ("test", "testing")
"""Names of the splits, in folders, files and datasets."""
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
    """Names of the input columns (two: a pair of texts) and the label column ("": none); inferred if not given."""

    input: tuple[str, ...] = ()
    label: str | None = None

    @classmethod
    def of(cls, input: str | Sequence[str] | None, label: str | None) -> Columns:
        """Parse names as users write them: "a", "a,b", ["a", "b"] or None."""
        names = input.split(",") if isinstance(input, str) else input or ()
        return cls(tuple(name.strip() for name in names), label)


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
    """Inputs (paths, images in memory, texts), labels of equal length, and their origin for messages."""

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
    """The label column of a table is missing or empty."""


Parts = Mapping[str, Callable[[], Examples]]
"""Split name -> reader; only the requested splits are read."""
