"""Paths of the store: home folder, blobs, and checks of relative paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

from zoo.errors import StoreError
from zoo.plugin import File


def home() -> Path:
    """Return the store's folder: $ZOO_HOME, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo."""
    environ = os.environ
    folder = environ.get("ZOO_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "zoo")
    return Path(os.path.expanduser(folder)).absolute()


def blob(file: File) -> Path:
    """Return the path of a file's blob, whether it exists or not. Raises StoreError if its hash is no SHA-256."""
    return home() / "blobs" / checked_sha256(file.sha256, file.path)


def is_sha256(text: object) -> bool:
    """Return whether a value is 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and re.fullmatch("[0-9a-f]{64}", text) is not None


def checked_sha256(sha256: str | None, path: str) -> str:
    """Return the SHA-256 of a file, which names its blob. Raises StoreError if it is anything else."""
    if sha256 is None or not is_sha256(sha256):
        what = f"{path}: {sha256!r:.80} is not a SHA-256, which has 64 lower-case hexadecimal digits"
        raise StoreError(what, fix=f"correct the sha256 of {path} where it comes from: its row, mirror or plugin")
    return sha256


def pulling() -> Path:
    """Return the path of the file that pulls lock while they add blobs and record them."""
    return home() / "pulling.lock"


def is_here(file: File) -> bool:
    """Return whether the blob of a file exists with the right size; loading verifies its hash."""
    try:
        return file.sha256 is not None and blob(file).stat().st_size == file.bytes
    except OSError:
        return False


def is_inside(path: str) -> bool:
    """Return whether a path is relative, uses / as separator and stays inside its base folder."""
    parts = path.split("/")
    return bool({*parts} - {"", "."}) and ".." not in parts and parts[0] != "" and not NOT_IN_PATHS & {*path}


NOT_IN_PATHS = frozenset("\\:\0")
