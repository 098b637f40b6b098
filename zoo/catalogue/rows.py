"""Catalogue rows: read TOML or JSON catalogues, validate rows, convert between rows and Entry objects."""

from __future__ import annotations

import json
import marshal
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from reprlib import Repr
from typing import Any

from zoo.catalogue import names
from zoo.errors import CatalogueError
from zoo.plugin import Entry, File, ImageInput, TextInput
from zoo.store import regular_file
from zoo.store.paths import is_inside, is_sha256

Row = Mapping[str, Any]
SOURCES = ("hf://", "https://", "file://", "package://")
MAX_RESIZE = 2048
"""Maximum short side in pixels that an image is resized to."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


class _InvalidValue(Exception):
    """A value of a row is invalid: `key` is its key, `rule` what it must be."""

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(key, rule)
        self.key, self.rule = key, rule


LIST = re.compile(r"@\w+-\w+", re.ASCII)
"""Name of a list of recommended backbones."""


def core_path() -> Path:
    """Return registry.toml: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "registry.toml"
    return shipped if shipped.is_file() else package.parent / "registry.toml"


def read_lists(path: Path) -> dict[str, list[Any]]:
    """Return the members of the lists in a catalogue (["@small-image"]) by name. Raises CatalogueError if malformed."""
    found = {name: row for name, row in _read_file(path).items() if LIST.fullmatch(name)}
    for name, row in found.items():
        if not isinstance(row, dict) or set(row) != {"members"} or not isinstance(row["members"], list):
            raise _error(path, name, "must have members, a list, and nothing else", "write members = [{ name = … }]")
    return {name: row["members"] for name, row in found.items()}


def read_catalogue(path: Path) -> dict[str, Row]:
    """Return the rows of a .toml or .json file by name, without checking values. Raises CatalogueError if malformed."""
    rows = {name: row for name, row in _read_file(path).items() if not LIST.fullmatch(name)}
    for name, row in rows.items():
        if not isinstance(row, dict):
            raise _error(path, name, f"{name} = {_repr(row)} is not a row", f'write a table: ["plugin/{name}"]')
        if len(name) > names.LONGEST:
            raise _error(path, name, f"is longer than {names.LONGEST} characters", "shorten the name")
        if not names.NAME.fullmatch(name):
            what = f"is not of the form plugin/name{names.foreign_letter(name)}"
            raise _error(path, name, what, "rename it (ASCII letters, digits and . _ + - only)")
    return rows


def _read_file(path: Path) -> dict[str, Any]:
    """Return the tables of a catalogue by name. Raises CatalogueError if it cannot be read or parsed."""
    try:
        rows = read_json(path) if path.suffix == ".json" else _toml(path)
    except OSError as error:
        fix = f"chmod u+r '{path}'" if isinstance(error, PermissionError) else f"replace {path} by a small text file"
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}", fix=fix) from error
    except (ValueError, RecursionError) as error:
        line = _error_line(error, path)
        raise CatalogueError(f"{path}:{line}: {error}", fix=f"edit line {line} of {path}") from error
    if not isinstance(rows, dict):
        raise CatalogueError(
            f"{path}:1: must be an object of rows by name", fix=f'edit {path}: {{"plugin/name": {{…}}}}'
        )
    return rows


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of limited size, in which all text can be encoded.

    Raises OSError for a file that is too large or not regular, ValueError or RecursionError for its content.
    """
    text = regular_file.read_bytes(path, regular_file.JSON_BYTES).decode("utf-8")
    found = json.loads(text)
    if "\\ud" in text or "\\uD" in text:  # maybe half of a surrogate pair
        json.dumps(found, ensure_ascii=False).encode()
    return found


def entry_from_row(name: str, row: Row, *, catalogue: str | Path) -> Entry:
    """Convert a row to an Entry. Raises CatalogueError with the file, line, key and allowed values."""
    try:
        return _entry(name, row, str(catalogue))
    except _InvalidValue as error:
        value = f"{error.key} = {_repr(row[error.key])}: " if error.key in row else ""
        raise _error(Path(catalogue), name, f"{value}{error.rule}", f"edit {error.key}") from error


def row_from_entry(entry: Entry) -> dict[str, Any]:
    """Convert an entry to a JSON-serialisable row, including `name` and `plugin`; the inverse of entry_from_row."""
    row = {key: value for key, value in asdict(entry).items() if value not in (None, (), {}) and key in FIELDS}
    if entry.files:
        row["files"] = [{k: v for k, v in asdict(file).items() if v is not None} for file in entry.files]
    plain: dict[str, Any] = json.loads(json.dumps(row))  # tuples become lists, as in a row read from a file
    return plain


def _entry(name: str, row: Row, catalogue: str) -> Entry:
    if unknown := [key for key in row if key not in FIELDS]:
        raise _InvalidValue(unknown[0], f"unknown key; nearest: {_nearest(unknown[0])}")
    for key in ("modality", "input"):
        if key not in row:
            raise _InvalidValue(key, f"the key {key} is missing")
    if row.get("name", name) != name:
        raise _InvalidValue("name", "must equal the name in the header")
    values = {key: FIELDS[key](key, value) for key, value in row.items() if key != "name"}
    read_input = _image_input if values["modality"] == "image" else _text_input
    values["input"] = _memoised(read_input, "input", values["input"])
    if "source" not in values and values.get("files"):
        raise _InvalidValue("files", "files require a source")
    if not values.get("files") and not values.get("source", "hf://").startswith("hf://"):
        raise _InvalidValue("source", "requires files: files = [{ path = … }]")
    values.setdefault("plugin", name.partition("/")[0])
    return Entry(name=name, catalogue=catalogue, **values)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300  # type: ignore[operator]  # neither inf nor nan


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _InvalidValue(key, "must be a non-empty string")
    return value


def _count(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 63:
        raise _InvalidValue(key, "must be a positive integer of at most 63 bits")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise _InvalidValue(key, "must be a list of non-empty strings")
    return tuple(value)


def _table(key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _InvalidValue(key, "must be a table")
    return value


def _options(key: str, value: object) -> dict[str, Any]:
    table = _table(key, value)
    if not all(type(item) is str for item in table.values()):  # fast path: true for nearly all rows
        try:
            json.dumps(table, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise _InvalidValue(key, "may contain only strings, numbers, booleans, lists and tables") from error
    return table


def _metrics(key: str, value: object) -> dict[str, float]:
    table = _table(key, value)
    if not all(map(_is_number, table.values())):
        raise _InvalidValue(key, "must be a table of numbers")
    return {metric: float(number) for metric, number in table.items()}


def _modality(key: str, value: object) -> str:
    if value not in ("image", "text"):
        raise _InvalidValue(key, "must be 'image' or 'text'")
    return str(value)


def _source(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.startswith(SOURCES):
        raise _InvalidValue(key, f"must start with one of {', '.join(SOURCES)}")
    return value


def _memoised(read: Callable[[str, Any], Any], key: str, value: Any) -> Any:
    """Parse equal values once: the 1,807 rows of timm share 156 distinct inputs and one list of files."""
    try:
        return _read(read, key, marshal.dumps(value, 2))  # distinguishes 1 from 1.0 and True
    except ValueError:  # a TOML date, which marshal cannot serialise
        return read(key, value)


@cache
def _read(read: Callable[[str, Any], Any], key: str, value: bytes) -> Any:
    return read(key, marshal.loads(value))


def _files(key: str, value: object) -> tuple[File, ...]:
    if not isinstance(value, list):
        raise _InvalidValue(key, 'must be a list: [{ path = "model.safetensors" }]')
    return tuple(_file(key, item) for item in value)


def _file(key: str, value: object) -> File:
    item = _table(key, value)
    path, sha256, size = item.get("path"), item.get("sha256"), item.get("bytes")
    if not set(item) <= {"path", "sha256", "bytes"}:
        raise _InvalidValue(key, "allowed keys of a file: path, sha256, bytes")
    if not isinstance(path, str) or not is_inside(path):
        raise _InvalidValue(key, f"path {path!r} must be relative and inside the source")
    if sha256 is not None and not is_sha256(sha256):
        raise _InvalidValue(key, f"sha256 of {path} must be 64 lower-case hexadecimal digits")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63):
        raise _InvalidValue(key, f"bytes of {path} must be a non-negative integer")
    return File(path, sha256, size)


def _image_input(key: str, value: dict[str, Any]) -> ImageInput:
    if not {"size", "mean", "std"} <= value.keys() <= {"size", "mean", "std", "interpolation", "crop"}:
        raise _InvalidValue(key, "requires the keys size, mean and std; interpolation and crop are optional")
    mean, std = value["mean"], value["std"]
    for channels in (mean, std):
        if not isinstance(channels, list) or not channels or not all(map(_is_number, channels)):
            raise _InvalidValue(key, "mean and std must be lists of one number per channel")
    if len(mean) != len(std) or min(std) <= 0:
        raise _InvalidValue(key, "mean and std must have the same length, and std must be positive")
    interpolation, crop = value.get("interpolation", "bilinear"), value.get("crop", 1.0)
    if interpolation not in INTERPOLATIONS:
        raise _InvalidValue(key, f"interpolation must be one of {', '.join(INTERPOLATIONS)}")
    if not _is_number(crop) or not 0 < crop <= 1:
        raise _InvalidValue(key, "crop must be a number in (0, 1]")
    size = _count(key, value["size"])
    if size > MAX_RESIZE * crop:
        raise _InvalidValue(key, f"size / crop, the short side after resizing, must be at most {MAX_RESIZE}")
    return ImageInput(size, tuple(map(float, mean)), tuple(map(float, std)), interpolation, float(crop))


def _text_input(key: str, value: dict[str, Any]) -> TextInput:
    pairs = value.get("pairs", False)
    if not {"files", "max_length"} <= set(value) <= {"files", "max_length", "pairs"} or not isinstance(pairs, bool):
        raise _InvalidValue(key, "requires the keys files and max_length; pairs (true or false) is optional")
    return TextInput(_texts(key, value["files"]), _count(key, value["max_length"]), pairs)


FIELDS: dict[str, Callable[[str, object], Any]] = {
    "name": _text,
    "plugin": _text,
    "modality": _modality,
    "input": _table,
    "dim": _count,
    "params": _count,
    "source": _source,
    "files": partial(_memoised, _files),
    "license": _text,
    "pretrained_on": _text,
    "tasks": _texts,
    "metrics": _metrics,
    "options": _options,
    "aliases": _texts,
}
"""Allowed keys of a row, and the function that validates and converts the value."""


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    text = regular_file.read_bytes(path, regular_file.TOML_BYTES).decode("utf-8")
    regular_file.check_toml(text)
    return tomllib.loads(text)


def _repr(value: object) -> str:
    """Return the repr of a value, without what is deeper or longer than a message."""
    short = Repr()
    short.maxstring = short.maxother = 200
    return short.repr(value)


def _nearest(key: str) -> str:
    from difflib import get_close_matches

    return ", ".join(get_close_matches(key, FIELDS, n=1) or FIELDS)


def _error(path: Path, name: str, what: str, edit: str) -> CatalogueError:
    """Return the error for a row, with the line of its header (searched only on error, to keep reading fast)."""
    where = str(path)
    try:
        lines = regular_file.read_bytes(path, regular_file.JSON_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for number, line in enumerate(lines, 1):
        if re.match(rf"""\s*\[?\s*["']?{re.escape(name)}["']?\s*[\]=:]""", line):
            where = f"{path}:{number}"
            break
    return CatalogueError(f'{where}: ["{name}"] {what}', fix=f"{edit} in {where}")


def _error_line(error: Exception, path: Path) -> int:
    """Return the line of a parse error: from JSON's lineno, from TOML's message, else the last line."""
    match = re.search(r"at line (\d+)", str(error))
    line = getattr(error, "lineno", None) or (int(match[1]) if match else None)
    return int(line) if line else regular_file.read_bytes(path, regular_file.JSON_BYTES).count(b"\n") + 1
