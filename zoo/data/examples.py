"""Examples: inputs with labels, read from a folder per class or from any sized sequence of pairs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo.errors import DataError

Label = str | int
IMAGES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
TRAIN, VALID, TEST = ("train", "training"), ("valid", "val", "validation"), ("test",)


class Sized(Protocol):
    """Anything with a length and an item at each index: a list, a torch Dataset, a datasets.Dataset."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs (paths or in-memory images) and their labels, of equal length, and where they came from."""

    inputs: Sequence[Any]
    labels: Sequence[Label]
    origin: str

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, indices: Iterable[int]) -> Examples:
        """Return the examples at `indices`, in that order."""
        chosen = list(indices)
        return Examples([self.inputs[i] for i in chosen], [self.labels[i] for i in chosen], self.origin)


def read(data: object) -> tuple[Examples, Examples | None]:
    """Read training examples, and validation examples where the data says which they are.

    `data` is a folder with a sub-folder per class (or train/ and valid/ folders of that form), or a sized sequence of
    (input, label). Raises DataError naming what is missing, empty or not understood.
    """
    if isinstance(data, Examples):
        return data, None
    if isinstance(data, str | os.PathLike):
        return _read_folder(Path(data))
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | bytes):
        return _read_pairs(data), None
    raise DataError(
        f"data of type {type(data).__name__} is not understood",
        fix="give a folder with one sub-folder per class, or a list of (image, label) pairs",
    )


def read_one(data: object) -> Examples:
    """Read examples to measure on: as `read`, but of a folder with train/ and valid/ (or test/) the held-out part."""
    if isinstance(data, str | os.PathLike):
        root = Path(data)
        for names in (TEST, VALID):
            if (part := _part(root, names)) is not None:
                return _read_classes(part)
    train, valid = read(data)
    return valid or train


def check_folder(root: Path) -> None:
    """Raise DataError unless `root` is a folder."""
    if not root.exists():
        raise DataError(f"{root} does not exist", fix=f"check the path: ls {root.parent}")
    if not root.is_dir():
        raise DataError(
            f"{root} is a file, not a folder",
            fix=f"put the images into one folder per class and give the folder above them, as in {root.parent}/data/",
        )


def _read_folder(root: Path) -> tuple[Examples, Examples | None]:
    check_folder(root)
    train = _part(root, TRAIN)
    if train is None:
        return _read_classes(root), None
    valid = _part(root, VALID)
    return _read_classes(train), _read_classes(valid) if valid else None


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    """Find the folder of a split. Only beside a train/ folder: a class may be called "test"."""
    if not any((root / name).is_dir() for name in TRAIN):
        return None
    return next((root / name for name in names if (root / name).is_dir()), None)


def _read_classes(root: Path) -> Examples:
    """Walk a folder per class; the label is the folder's name. Hidden files and files of other kinds are no images."""
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    layout = f"arrange the images as {root}/<class>/<image>.jpg"
    if not classes:
        found = "holds no folders" if any(root.iterdir()) else "is empty"
        raise DataError(f"{root} {found}; a folder per class is expected", fix=layout)
    inputs: list[Path] = []
    labels: list[Label] = []
    for folder in classes:
        images = _images_below(folder)
        if not images:
            raise DataError(
                f"{folder} holds no images", fix=f"add images to it, or move it elsewhere: mv {folder} /tmp"
            )
        inputs += images
        labels += [folder.name] * len(images)
    return Examples(inputs, labels, str(root))


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        Path(base) / name
        for base, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in IMAGES and not name.startswith(".")
    )


def _read_pairs(data: Sized) -> Examples:
    if len(data) == 0:
        raise DataError("the data holds no examples", fix="give at least two examples of each class")
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
        labels.append(_label(pair[1], index))
    return Examples(inputs, labels, f"{len(inputs):,} examples in memory")


def _label(value: Any, index: int) -> Label:
    """Turn a label into a plain str or int; numpy and torch scalars have `item`."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, str | int) and not isinstance(plain, bool):
        return plain
    raise DataError(
        f"label of example {index} is {value!r} ({type(value).__name__}); a class is a text or a whole number",
        fix="turn the labels into str or int",
    )


def fingerprint(examples: Examples) -> str:
    """Return the SHA-256 over labels and inputs (paths by relative name, size and time; images in memory by bytes)."""
    digest = hashlib.sha256()
    for item, label in zip(examples.inputs, examples.labels, strict=True):
        digest.update(f"{identity(item, examples.origin)}\t{label!r}\n".encode())
    return digest.hexdigest()


def identity(item: Any, origin: str = "") -> str:
    """Name one input by its content, cheaply: a file by path, size and time of change; an image by its bytes."""
    if isinstance(item, str | os.PathLike):
        path = Path(item)
        stat = path.stat()
        name = path.relative_to(origin) if path.is_relative_to(origin) else path
        return f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}"
    raw = item.tobytes() if hasattr(item, "tobytes") else item.numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()
