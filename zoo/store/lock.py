"""Lock files (lock.toml, zoo.lock): source, commit and file hashes of pulled backbones."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import regular_file
from zoo.store.paths import home, is_inside, is_sha256

HEADER = "# Written by zoo: pulled backbones and their file hashes. To accept new files: zoo pull NAME --update\n"
WAIT = 30.0
"""Seconds to wait for another process that writes the same lock."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Record of a pulled backbone; every file has its sha256 and bytes, `when` is a time in UTC (ISO 8601).

    `row` is the catalogue row that a plugin resolved from these files, without name, source and files.
    """

    source: str
    commit: str | None
    files: tuple[File, ...]
    when: str
    row: Mapping[str, Any] | None = None


def read(path: Path) -> Mapping[str, Receipt]:
    """Return the receipts of a lock by name, {} if there is no file. Raises StoreError with the line if invalid."""
    try:
        stat = path.stat()
        return _parse(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        fix = (
            f"chmod u+r '{path}'"
            if isinstance(error, PermissionError)
            else f"mv '{path}' '{path}.bad', then pull again"
        )
        raise StoreError(f"{path}: cannot be read: {error.strerror}", fix=fix) from error


def record(path: Path, name: str, receipt: Receipt) -> None:
    """Add or replace the receipt of a name atomically. Raises OSError."""
    _change(path, lambda receipts: {**receipts, name: receipt}, f"zoo pull {name}")


def forget(path: Path, names: Sequence[str]) -> None:
    """Remove the receipts of the given names atomically. Raises OSError."""
    retry = f"zoo rm {' '.join(names)}"
    _change(path, lambda receipts: {name: each for name, each in receipts.items() if name not in names}, retry)


def _change(path: Path, change: Callable[[Mapping[str, Receipt]], Mapping[str, Receipt]], retry: str) -> None:
    import filelock

    path = Path(os.path.realpath(path))  # one mutex and one file, whichever link leads to it
    for folder in (path.parent, home()):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(guard(path), timeout=WAIT):
            _replace(path, dump(change(read(path))))
            _parse.cache_clear()  # two writes may have the same mtime if the clock is coarse
    except filelock.Timeout as error:
        what = f"{path} has been locked by another process for more than {WAIT:g} seconds"
        raise StoreError(what, fix=f"wait for the other zoo process or end it, then: {retry}") from error


def guard(path: Path) -> Path:
    """Return the mutex file that protects a lock; it is in the store, to keep project folders clean."""
    import hashlib  # loads OpenSSL, which reading a lock does not need

    return home() / f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.lock"


def dump(receipts: Mapping[str, Receipt]) -> str:
    """Serialise receipts to TOML, sorted by name."""
    return HEADER + "".join(_table(name, receipts[name]) for name in sorted(receipts))


def _table(name: str, receipt: Receipt) -> str:
    commit = [] if receipt.commit is None else [f"commit = {quote(receipt.commit)}"]
    lines = [f"\n[{quote(name)}]", f"source = {quote(receipt.source)}", *commit, f"when = {quote(receipt.when)}"]
    files = [
        f"  {{ path = {quote(file.path)}, sha256 = {quote(str(file.sha256))}, bytes = {file.bytes} }},"
        for file in receipt.files
    ]
    row = [f"row = {_inline(receipt.row)}"] if receipt.row else []
    return "\n".join([*lines, "files = [", *files, "]", *row]) + "\n"


def _inline(value: object) -> str:
    """Return a JSON value as TOML on one line; null is not valid TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{quote(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return quote(value) if isinstance(value, str) else json.dumps(value)


def is_valid_row(row: object, commit: str | None) -> bool:
    """Return whether a row was resolved from `commit`, and TOML can hold it: it has no null."""
    import tomllib

    if commit is None or not isinstance(row, Mapping) or row.get("commit") != commit or "resolved_by" not in row:
        return False
    try:
        return tomllib.loads(f"row = {_inline(row)}".encode().decode()) == {"row": row}
    except (TypeError, ValueError, RecursionError):
        return False


def quote(text: str) -> str:
    """Return a TOML basic string: same escapes as JSON, but DEL must be escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # no race: the caller holds the guard
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _parse(path: Path, changed: int, size: int, inode: int) -> Mapping[str, Receipt]:
    """Parse a lock, cached by mtime, size and inode: listing backbones looks up every name."""
    import tomllib

    raw = regular_file.read_bytes(path, regular_file.TOML_BYTES)
    try:
        text = raw.decode("utf-8")
        regular_file.check_toml(text)
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        match = re.search(r"at line (\d+)", str(error))
        raise _invalid(path, int(match[1]) if match else raw.count(b"\n") + 1, str(error)) from error
    return {name: _receipt(path, raw, name, table) for name, table in tables.items()}


def _receipt(path: Path, raw: bytes, name: str, table: object) -> Receipt:
    try:
        return _validated(table)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        header = re.search(rf"""^[ \t]*\[?[ \t]*["']?{re.escape(quote(name)[1:-1])}""".encode(), raw, re.MULTILINE)
        line = raw.count(b"\n", 0, header.start() if header else 0) + 1
        raise _invalid(path, line, f'["{name}"]: {problem}') from error


def _validated(table: Any) -> Receipt:
    if not isinstance(table, dict):
        raise TypeError("must be a table")
    source, commit, when = table["source"], table.get("commit"), table["when"]
    if not all(isinstance(text, str) for text in (source, commit or "", when)):
        raise TypeError("source, commit and when must be strings")
    row = table.get("row")  # a damaged row is ignored: its plugin resolves it again
    kept = row if is_valid_row(row, commit) else None
    return Receipt(source, commit, tuple(_file(item) for item in table["files"]), when, kept)


def _file(item: Any) -> File:
    file = File(item["path"], item["sha256"], item["bytes"])
    if not isinstance(file.path, str) or not is_inside(file.path):
        raise ValueError(f"path {file.path!r} must be relative and inside the source")
    if not is_sha256(file.sha256):
        raise ValueError(f"sha256 of {file.path} must be 64 lower-case hexadecimal digits, not {file.sha256!r}")
    if not isinstance(file.bytes, int) or isinstance(file.bytes, bool) or file.bytes < 0:
        raise ValueError(f"bytes of {file.path} must be a non-negative integer, not {file.bytes!r}")
    return file


def _invalid(path: Path, line: int, problem: str) -> StoreError:
    fix = f"correct that line, or rm '{path}'   (weights are kept; the next pull verifies and records them again)"
    return StoreError(f"{path}:{line}: {problem}", fix=fix)
