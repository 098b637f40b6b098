"""Rows of a catalogue: read a TOML or JSON file of them, and turn a row into an Entry and back."""

from __future__ import annotations

import json
import marshal
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from zoo.errors import CatalogueError
from zoo.plugin import Entry, File, ImageInput, TextInput
from zoo.store.paths import is_inside

Row = Mapping[str, Any]
SOURCES = ("hf://", "https://", "file://", "package://")
NAME = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)+")
LARGEST = 4096
"""Pixels of the short side that an image may be scaled to."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


class _Bad(Exception):
    """A value of a row is wrong: `key` says which and `rule` what it has to be."""

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(key, rule)
        self.key, self.rule = key, rule


def read_catalogue(path: Path) -> dict[str, Row]:
    """Return the rows of a .toml or .json file by name, values not yet checked; CatalogueError if it is broken."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else _toml(text)
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}", fix=f"chmod u+r '{path}'") from error
    except (ValueError, RecursionError) as error:
        line = _error_line(error, path)
        raise CatalogueError(f"{path}:{line}: {error}", fix=f"edit line {line} of {path}") from error
    if not isinstance(rows, dict):
        raise CatalogueError(f"{path}:1: not an object of rows by name", fix=f'edit {path}: {{"plugin/name": {{…}}}}')
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise _error(path, name, f"{name} = {row!r} is no row", f'write a table: ["plugin/{name}"]')
        if not NAME.fullmatch(name):
            raise _error(
                path, name, "is no name of the form plugin/name", "rename it (letters, digits and . _ + - only)"
            )
    return rows


def entry_from_row(name: str, row: Row, *, catalogue: str | Path) -> Entry:
    """Return the Entry that a row describes; CatalogueError names file, line, key and the values allowed."""
    try:
        return _entry(name, row, str(catalogue))
    except _Bad as bad:
        value = f"{bad.key} = {row[bad.key]!r}: " if bad.key in row else ""
        raise _error(Path(catalogue), name, f"{value}{bad.rule}", f"edit {bad.key}") from bad


def row_from_entry(entry: Entry) -> dict[str, Any]:
    """Return everything an entry says as a JSON-able row, with `name` and `plugin`; entry_from_row undoes it."""
    row = {key: value for key, value in asdict(entry).items() if value not in (None, (), {}) and key != "catalogue"}
    if entry.files:
        row["files"] = [{k: v for k, v in asdict(file).items() if v is not None} for file in entry.files]
    plain: dict[str, Any] = json.loads(json.dumps(row))  # tuples become lists, as a reader of the file would see them
    return plain


def _entry(name: str, row: Row, catalogue: str) -> Entry:
    if unknown := [key for key in row if key not in FIELDS]:
        raise _Bad(unknown[0], f"no such key; nearest: {_nearest(unknown[0])}")
    for key in ("modality", "input"):
        if key not in row:
            raise _Bad(key, f"the key {key} is missing")
    if row.get("name", name) != name:
        raise _Bad("name", "is not the name above it")
    values = {key: FIELDS[key](key, value) for key, value in row.items() if key != "name"}
    read_input = _image_input if values["modality"] == "image" else _text_input
    values["input"] = _shared(read_input, "input", values["input"])
    if "source" not in values and values.get("files"):
        raise _Bad("files", "files need the source they are in")
    if not values.get("files") and not values.get("source", "hf://").startswith("hf://"):
        raise _Bad("source", "needs the files to take from it: files = [{ path = … }]")
    values.setdefault("plugin", name.partition("/")[0])
    return Entry(name=name, catalogue=catalogue, **values)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]  # neither inf nor nan


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Bad(key, "has to be a text")
    return value


def _count(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Bad(key, "has to be a whole number above 0")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _Bad(key, "has to be a list of texts")
    return tuple(value)


def _table(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(key, "has to be a table")
    return value


def _options(key: str, value: object) -> dict[str, Any]:
    table = _table(key, value)
    if not all(type(item) is str for item in table.values()):  # which is what nearly every row has
        try:
            json.dumps(table, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise _Bad(key, "may hold texts, numbers, true, false, lists and tables") from error
    return table


def _metrics(key: str, value: object) -> dict[str, float]:
    table = _table(key, value)
    if not all(map(_is_number, table.values())):
        raise _Bad(key, "has to be a table of numbers")
    return {metric: float(number) for metric, number in table.items()}


def _modality(key: str, value: object) -> str:
    if value not in ("image", "text"):
        raise _Bad(key, "has to be 'image' or 'text'")
    return str(value)


def _source(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith(SOURCES):
        raise _Bad(key, f"has to start with one of {', '.join(SOURCES)}")
    return value


def _shared(read: Callable[[str, Any], Any], key: str, value: Any) -> Any:
    """Read equal values once: the 1,807 rows of timm have 156 inputs and one list of files between them."""
    try:
        return _read(read, key, marshal.dumps(value, 2))  # tells 1 from 1.0 and True
    except ValueError:  # a date, which TOML knows
        return read(key, value)


@cache
def _read(read: Callable[[str, Any], Any], key: str, value: bytes) -> Any:
    return read(key, marshal.loads(value))


def _files(key: str, value: object) -> tuple[File, ...]:
    if not isinstance(value, list):
        raise _Bad(key, 'has to be a list: [{ path = "model.safetensors" }]')
    return tuple(_file(key, item) for item in value)


def _file(key: str, value: object) -> File:
    item = _table(key, value)
    path, sha256, size = item.get("path"), item.get("sha256"), item.get("bytes")
    if not set(item) <= {"path", "sha256", "bytes"}:
        raise _Bad(key, "each file has the keys path, sha256 and bytes")
    if not isinstance(path, str) or not is_inside(path):
        raise _Bad(key, f"path {path!r} has to name a file below the source")
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise _Bad(key, f"sha256 of {path} has to be 64 hexadecimal digits in lower case")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise _Bad(key, f"bytes of {path} has to be a whole number, 0 or more")
    return File(path, sha256, size)


def _image_input(key: str, value: dict[str, Any]) -> ImageInput:
    if not {"size", "mean", "std"} <= value.keys() <= {"size", "mean", "std", "interpolation", "crop"}:
        raise _Bad(key, "has the keys size, mean, std, interpolation and crop; the first three are needed")
    mean, std = value["mean"], value["std"]
    for channels in (mean, std):
        if not isinstance(channels, list) or not channels or not all(map(_is_number, channels)):
            raise _Bad(key, "mean and std have to be lists of one number a channel")
    if len(mean) != len(std) or min(std) <= 0:
        raise _Bad(key, "mean and std have to be of one length, and std above 0")
    interpolation, crop = value.get("interpolation", "bilinear"), value.get("crop", 1.0)
    if interpolation not in INTERPOLATIONS:
        raise _Bad(key, f"interpolation has to be one of {', '.join(INTERPOLATIONS)}")
    if not _is_number(crop) or not 0 < crop <= 1:
        raise _Bad(key, "crop has to be a number above 0, at most 1")
    size = _count(key, value["size"])
    if size > LARGEST * crop:
        raise _Bad(key, f"size / crop, what an image is scaled to, has to be at most {LARGEST}")
    return ImageInput(size, tuple(map(float, mean)), tuple(map(float, std)), interpolation, float(crop))


def _text_input(key: str, value: dict[str, Any]) -> TextInput:
    pairs = value.get("pairs", False)
    if not {"files", "max_length"} <= set(value) <= {"files", "max_length", "pairs"} or not isinstance(pairs, bool):
        raise _Bad(key, "has the keys files, max_length and (true or false) pairs; the first two are needed")
    return TextInput(_texts(key, value["files"]), _count(key, value["max_length"]), pairs)


FIELDS: dict[str, Callable[[str, object], Any]] = {
    "name": _text,
    "plugin": _text,
    "modality": _modality,
    "input": _table,
    "dim": _count,
    "params": _count,
    "source": _source,
    "files": partial(_shared, _files),
    "license": _text,
    "pretrained_on": _text,
    "tasks": _texts,
    "metrics": _metrics,
    "options": _options,
    "aliases": _texts,
}
"""Every key a row may have, and the function that checks and converts its value."""


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    return ", ".join(get_close_matches(key, FIELDS, n=1) or FIELDS)


def _error(path: Path, name: str, what: str, edit: str) -> CatalogueError:
    """Return the error about a row, with the line of its header (looked for only now: reading stays fast)."""
    where = str(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for number, line in enumerate(lines, 1):
        if re.match(rf"""\s*\[?\s*["']?{re.escape(name)}["']?\s*[\]=:]""", line):
            where = f"{path}:{number}"
            break
    return CatalogueError(f'{where}: ["{name}"] {what}', fix=f"{edit} in {where}")


def _error_line(error: Exception, path: Path) -> int:
    """Return the line a parser complained about: JSON's error carries it, TOML's says it, or it is the last one."""
    said = re.search(r"at line (\d+)", str(error))
    line = getattr(error, "lineno", None) or (int(said[1]) if said else None)
    return int(line) if line else path.read_bytes().count(b"\n") + 1
