"""lock.toml: what was pulled, from where and with which bytes; read often, changed by one process at a time."""

from __future__ import annotations

import hashlib
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
from zoo.store.paths import home, is_inside

HEADER = "# Written by zoo: what was pulled, and the bytes it has to be. To accept others: zoo pull NAME --update\n"
WAIT = 30.0
"""Seconds to wait for another process that is writing."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a pulled name; every file has its sha256 and bytes, `when` is a time in UTC (ISO 8601)."""

    source: str
    commit: str | None
    files: tuple[File, ...]
    when: str


def read(path: Path) -> Mapping[str, Receipt]:
    """Return the receipts of a lock by name (none if there is no lock); StoreError with the line if it is damaged."""
    try:
        stat = path.stat()
        return _parse(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}", fix=f"chmod u+r '{path}'") from error


def record(path: Path, name: str, receipt: Receipt) -> None:
    """Add or replace the receipt of a name: a killed process leaves the old lock or the new one. Raises OSError."""
    _change(path, lambda receipts: {**receipts, name: receipt}, f"zoo pull {name}")


def forget(path: Path, names: Sequence[str]) -> None:
    """Remove the receipts of some names. Raises OSError."""
    again = f"zoo rm {' '.join(names)}"
    _change(path, lambda receipts: {name: each for name, each in receipts.items() if name not in names}, again)


def _change(path: Path, change: Callable[[Mapping[str, Receipt]], Mapping[str, Receipt]], again: str) -> None:
    import filelock

    for folder in (path.parent, home()):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(guard(path), timeout=WAIT):
            _replace(path, dump(change(read(path))))
            _parse.cache_clear()  # a clock too coarse to tell two writes apart must not matter
    except filelock.Timeout as error:
        what = f"{path} is being written by another process, for more than {WAIT:g} seconds"
        raise StoreError(what, fix=f"wait for the other zoo or end it, then: {again}") from error


def guard(path: Path) -> Path:
    """Return the file that the process which changes a lock holds; in the store, not in the folder of a project."""
    return home() / f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.lock"


def dump(receipts: Mapping[str, Receipt]) -> str:
    """Return the text of a lock, in the order of the names."""
    return HEADER + "".join(_table(name, receipts[name]) for name in sorted(receipts))


def _table(name: str, receipt: Receipt) -> str:
    commit = [] if receipt.commit is None else [f"commit = {quote(receipt.commit)}"]
    lines = [f"\n[{quote(name)}]", f"source = {quote(receipt.source)}", *commit, f"when = {quote(receipt.when)}"]
    files = [
        f"  {{ path = {quote(file.path)}, sha256 = {quote(str(file.sha256))}, bytes = {file.bytes} }},"
        for file in receipt.files
    ]
    return "\n".join([*lines, "files = [", *files, "]"]) + "\n"


def quote(text: str) -> str:
    """Return a text as a TOML basic string: JSON's escapes are TOML's, which wants DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # of one process at a time: the caller holds the guard
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
    """Parse a lock once for each state it is in: a list of backbones asks for every name."""
    import tomllib

    raw = path.read_bytes()
    try:
        tables = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        said = re.search(r"at line (\d+)", str(error))
        raise _damaged(path, int(said[1]) if said else raw.count(b"\n") + 1, str(error)) from error
    return {name: _receipt(path, raw, name, table) for name, table in tables.items()}


def _receipt(path: Path, raw: bytes, name: str, table: object) -> Receipt:
    try:
        return _checked(table)
    except (KeyError, TypeError, ValueError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        header = re.search(rf"""^[ \t]*\[?[ \t]*["']?{re.escape(quote(name)[1:-1])}""".encode(), raw, re.MULTILINE)
        line = raw.count(b"\n", 0, header.start() if header else 0) + 1
        raise _damaged(path, line, f'["{name}"]: {said}') from error


def _checked(table: Any) -> Receipt:
    if not isinstance(table, dict):
        raise TypeError("has to be a table")
    source, commit, when = table["source"], table.get("commit"), table["when"]
    if not all(isinstance(text, str) for text in (source, commit or "", when)):
        raise TypeError("source, commit and when have to be texts")
    return Receipt(source, commit, tuple(_file(item) for item in table["files"]), when)


def _file(item: Any) -> File:
    file = File(item["path"], item["sha256"], item["bytes"])
    if not isinstance(file.path, str) or not is_inside(file.path):
        raise ValueError(f"path {file.path!r} has to name a file below the source")
    if not isinstance(file.sha256, str) or not re.fullmatch("[0-9a-f]{64}", file.sha256):
        raise ValueError(f"sha256 of {file.path} has to be 64 hexadecimal digits, not {file.sha256!r}")
    if not isinstance(file.bytes, int) or isinstance(file.bytes, bool) or file.bytes < 0:
        raise ValueError(f"bytes of {file.path} has to be a whole number, not {file.bytes!r}")
    return file


def _damaged(path: Path, line: int, said: str) -> StoreError:
    fix = f"correct that line, or rm '{path}'   (weights stay; the next pull checks and records them again)"
    return StoreError(f"{path}:{line}: {said}", fix=fix)
