"""Open files of a dataset: regular files only, and errors that say why a file cannot be read."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import IO

from zoo.errors import DataError


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; raises DataError for any other (a named pipe, a device, a folder)."""
    path = Path(path)
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return path.open("rb")
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        raise unreadable(path, error) from error
    raise DataError(f"{path} is not a regular file", fix=f"remove it, or replace it: ls -l {shlex.quote(str(path))}")


def missing(path: str | os.PathLike[str], instead: str = "") -> DataError:
    """Return the error for a path that does not exist; `instead` is added to its fix."""
    parent = os.path.dirname(os.path.expanduser(path)) or "."
    return DataError(f"{path} does not exist", fix=f"check the path: ls {shlex.quote(parent)}{instead}")


def unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> DataError:
    """Return the error for a file or folder that the system refuses to read."""
    said = getattr(error, "strerror", None) or str(error)
    quoted = shlex.quote(str(path))
    is_permission = isinstance(error, PermissionError)
    fix = f"chmod u+rX {quoted}" if is_permission else f"replace or remove it: ls -l {quoted}"
    return DataError(f"{path} cannot be read: {said[:1].lower() + said[1:]}", fix=fix)
