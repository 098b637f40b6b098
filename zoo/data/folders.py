"""Read datasets from disk: a folder per class, splits such as train/ and valid/, table files and text files."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zoo.data import conll, table_examples
from zoo.data.examples import IMAGE_SUFFIXES, TEST, TEXT_SUFFIXES, TRAIN, VALID, Columns, Examples, Label, Parts
from zoo.data.files import TABLES, read_table, read_text
from zoo.data.local_files import missing, unreadable
from zoo.errors import DataError

SPLITS = (*TRAIN, *VALID, *TEST)
KINDS = {"image": ("images", IMAGE_SUFFIXES), "text": ("texts", TEXT_SUFFIXES)}
"""Modality -> what its files are called in messages, and their suffixes."""


def check(path: Path) -> None:
    """Raise DataError unless a path is a folder, a table or a text file."""
    path = Path(os.path.expanduser(path))
    try:
        is_file = not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    suffix = path.suffix.lower()
    if is_file and suffix not in TABLES and (suffix not in TEXT_SUFFIXES or not suffix):
        raise DataError(
            f"{path} is a file, not a folder, a table ({', '.join(TABLES)}) or a text (.txt)",
            fix=f"save a table as CSV, unpack an archive, or pass the folder of the data: {path.parent}",
        )


def read(path: Path, columns: Columns, modality: str) -> Parts:
    """Return a reader for each split of a folder or file; {"train": …} if it has no splits."""
    check(path)
    if not path.is_dir():
        return {"train": partial(_file, path, columns, modality)}
    files = _split_files(path, modality)
    if any(name in files for name in TRAIN):
        return {name: partial(_file, file, columns, modality) for name, file in files.items()}
    folders = {child.name.lower(): child for child in _children(path) if child.is_dir()}
    # Splits require a train/ folder: a class may be called "test".
    if any(name in folders for name in TRAIN):
        return {name: partial(_classes, folders[name], modality) for name in SPLITS if name in folders}
    return {"train": partial(_classes, path, modality)}


def files(root: Path, modality: str) -> list[Path]:
    """Return the images, or the texts, anywhere below a folder, sorted; DataError if there are none."""
    things, suffixes = KINDS[modality]
    found = _files_below(root, suffixes, {})
    if not found:
        raise DataError(
            f"{root} holds no {things}",
            fix=f"pass the folder or the table of the {things}: ls {shlex.quote(str(root))}",
        )
    return found


def _file(path: Path, columns: Columns, modality: str) -> Examples:
    if path.suffix.lower() in TABLES:
        return table_examples.examples(read_table(path), columns, modality)
    if modality == "image":
        fix = "pass a folder with one sub-folder per class, or choose a text backbone: zoo list --modality text"
        raise DataError(f"{path} is a text file, but the backbone takes images", fix=fix)
    text = read_text(path)
    if conll.looks_like(text):
        return table_examples.examples(conll.parse(text, path), columns, modality)
    return Examples([text], [None], str(path))


def _split_files(root: Path, modality: str) -> dict[str, Path]:
    """Return the table (and text) files named after splits; raises DataError if two have the same name."""
    suffixes = {*TABLES, *(TEXT_SUFFIXES if modality == "text" else ())} - {""}
    found: dict[str, Path] = {}
    for path in _children(root):
        name = path.stem.lower()
        if name in SPLITS and path.suffix.lower() in suffixes and path.is_file():
            if name in found:
                what = f"{root} holds both {found[name].name} and {path.name}"
                raise DataError(what, fix=f"pass one of them ({path}), or move one away")
            found[name] = path
    return found


def _classes(root: Path, modality: str) -> Examples:
    """Read a folder per class; labels are the folder names. Hidden files and files with other suffixes are ignored."""
    things, suffixes = KINDS[modality]
    classes = [path for path in _children(root) if path.is_dir()]
    if not classes:
        return _without_classes(root, modality)
    inputs: list[Path] = []
    labels: list[Label] = []
    owners: dict[str, Path] = {}
    for folder in classes:
        files = _files_below(folder, suffixes, owners)
        if not files:
            fix = f"add {things} to it, or move it elsewhere: mv {shlex.quote(str(folder))} /tmp"
            raise DataError(f"{folder} holds no {things}", fix=fix)
        inputs += files
        labels += [folder.name] * len(files)
    found: Sequence[Any] = inputs if modality == "image" else [read_text(path) for path in inputs]
    return Examples(found, labels, str(root), files=None if modality == "image" else inputs)


def _without_classes(root: Path, modality: str) -> Examples:
    """Read a folder of text files without labels; raises DataError for any other folder without sub-folders."""
    unlabelled = [path for path in _files_below(root, TEXT_SUFFIXES, {}) if path.suffix] if modality == "text" else []
    if unlabelled:
        return Examples([read_text(path) for path in unlabelled], [None] * len(unlabelled), str(root))
    children = _children(root)
    table = next((path for path in children if path.suffix.lower() in TABLES), None)
    kind = "<image>.jpg" if modality == "image" else "<text>.txt"
    raise DataError(
        f"{root} {'holds no folders' if children else 'is empty'}; a folder per class is expected",
        fix=f"pass the table file: {table}" if table else f"arrange the {KINDS[modality][0]} as {root}/<class>/{kind}",
    )


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error


def _files_below(folder: Path, suffixes: frozenset[str], owners: dict[str, Path]) -> list[Path]:
    """Return all files below a folder with one of the suffixes, sorted; hidden files and folders are ignored.

    Symbolic links to folders are followed, and each folder is visited once. `owners` maps the folders visited so far to
    the `folder` of their call: raises DataError for a link to one of another call, whose files would have two labels.
    """

    def refuse(error: OSError) -> None:
        raise unreadable(error.filename, error) from error

    found: list[Path] = []
    visited: set[str] = set()
    for base, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(base)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        _check_owner(base, real, folder, owners)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = (name for name in names if Path(name).suffix.lower() in suffixes and not name.startswith("."))
        found += (Path(base) / name for name in kept)
    return sorted(found)


def _check_owner(base: str, real: str, folder: Path, owners: dict[str, Path]) -> None:
    """Raise DataError if a folder belongs to another class as well, or is above its own class."""
    above = Path(real) in Path(os.path.realpath(folder)).parents
    other = owners.setdefault(real, folder)
    if above or other is not folder:
        what = f"holds {folder} itself" if above else f"is read for {other} as well"
        linked = " ".join(shlex.quote(str(path)) for path in dict.fromkeys((other, folder)))
        fix = f"remove the symbolic link: find {linked} -type l -ls"
        raise DataError(f"{base} leads to {real}, which {what}: its files would have several labels", fix=fix)
