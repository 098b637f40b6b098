"""Paths of the store: home folder, blobs, and checks of relative paths."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.plugin import File


def home() -> Path:
    """Return the store's folder: $ZOO_HOME, else $XDG_CACHE_HOME/zoo, else ~/.cache/zoo."""
    environ = os.environ
    folder = environ.get("ZOO_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "zoo")
    return Path(os.path.expanduser(folder)).absolute()


def blob(file: File) -> Path:
    """Return the path of a file's blob, whether it exists or not."""
    return home() / "blobs" / str(file.sha256)


def pulling() -> Path:
    """Return the path of the file that pulls lock while they add blobs and record them."""
    return home() / "pulling.lock"


def is_here(file: File) -> bool:
    """Return whether the blob of a file exists with the right size; its hash was verified when it was created."""
    try:
        return file.sha256 is not None and blob(file).stat().st_size == file.bytes
    except OSError:
        return False


def is_inside(path: str) -> bool:
    """Return whether a path is relative, uses / as separator and stays inside its base folder."""
    parts = path.split("/")
    return bool({*parts} - {"", "."}) and ".." not in parts and parts[0] != "" and not NOT_IN_PATHS & {*path}


NOT_IN_PATHS = frozenset("\\:\0")
