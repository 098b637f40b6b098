"""Whether files and folders belong to this user alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_private(found: os.stat_result) -> bool:
    """Return whether a file or folder belongs to this user and nobody else can write to it."""
    if not hasattr(os, "geteuid"):  # Windows: its access lists apply
        return True
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o022


def make_folder(path: Path) -> bool:
    """Create a folder for this user alone unless it exists; returns whether it is private, and no link."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and is_private(found)
