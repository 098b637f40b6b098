"""Folders of examples: a sub-folder per class, parts such as train/ and valid/, tables and text files."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.data.examples import TEST, TRAIN, VALID, Columns, Examples, Label
from zoo.data.tables import TABLES, read_file
from zoo.errors import DataError

IMAGES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm"}
    | {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
TEXTS = frozenset({"", ".eml", ".htm", ".html", ".log", ".md", ".rst", ".tex", ".text", ".txt", ".xml"})
PARTS = (*TRAIN, *VALID, *TEST)


def check(path: Path) -> None:
    """Raise DataError unless a path is a folder, a table or a text file."""
    if not path.exists():
        raise DataError(f"{path} does not exist", fix=f"check the path: ls {path.parent}")
    suffix = path.suffix.lower()
    if path.is_file() and suffix not in TABLES and (suffix not in TEXTS or not suffix):
        raise DataError(
            f"{path} is a file, not a folder, a table ({', '.join(TABLES)}) or a text (.txt)",
            fix=f"put the images into one folder per class and give the folder above them, as in {path.parent}/data/",
        )


def read(path: Path, columns: Columns, modality: str) -> dict[str, Examples]:
    """Read a folder or file in its parts, {"train": …} where it has none."""
    check(path)
    if path.is_file():
        if path.suffix.lower() in TABLES:
            return {"train": read_file(path, columns, modality)}
        return {"train": _texts([path], str(path))}
    tables = {child.stem: child for child in sorted(path.iterdir()) if child.suffix.lower() in TABLES}
    if any(name in tables for name in TRAIN):
        return {name: read_file(tables[name], columns, modality) for name in PARTS if name in tables}
    # Parts only beside a train/ folder: a class may be called "test".
    if any((path / name).is_dir() for name in TRAIN):
        return {name: _classes(path / name, modality) for name in PARTS if (path / name).is_dir()}
    return {"train": _classes(path, modality)}


def _classes(root: Path, modality: str) -> Examples:
    """Walk a folder per class; the label is the folder's name. Hidden files and files of other kinds do not count."""
    things, suffixes = ("images", IMAGES) if modality == "image" else ("texts", TEXTS)
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    example = "<image>.jpg" if modality == "image" else "<text>.txt"
    layout = f"arrange the {things} as {root}/<class>/{example}"
    if not classes:
        loose = [p for p in _below(root, TEXTS) if p.suffix] if modality == "text" else []
        if loose:
            return _texts(loose, str(root))
        found = "holds no folders" if any(root.iterdir()) else "is empty"
        raise DataError(f"{root} {found}; a folder per class is expected", fix=layout)
    inputs: list[Path] = []
    labels: list[Label] = []
    for folder in classes:
        files = _below(folder, suffixes)
        if not files:
            raise DataError(
                f"{folder} holds no {things}", fix=f"add {things} to it, or move it elsewhere: mv {folder} /tmp"
            )
        inputs += files
        labels += [folder.name] * len(files)
    if modality == "image":
        return Examples(inputs, labels, str(root))
    return Examples([text_of(path) for path in inputs], labels, str(root))


def _texts(paths: list[Path], origin: str) -> Examples:
    return Examples([text_of(path) for path in paths], [None] * len(paths), origin)


def text_of(path: Path) -> str:
    """Read a text file: UTF-8, or what old mails are written in (cp1252); DataError for a file that is no text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", fix=f"chmod u+r '{path}'") from error
    if b"\0" in raw[:4096] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is no text: it holds zero bytes", fix=f"remove it: rm '{path}'")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace")


def _below(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        Path(base) / name
        for base, _, names in os.walk(folder, followlinks=True)
        for name in names
        if Path(name).suffix.lower() in suffixes and not name.startswith(".")
    )
