"""Open files without following links or waiting for pipes; read small regular files, never an endless one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
BINARY: int = getattr(os, "O_BINARY", 0)
"""Flags of os.open, 0 where the system lacks them."""
TOML_BYTES, JSON_BYTES = 2 << 20, 16 << 20
"""Maximum size of a catalogue or manifest in bytes: parsing takes up to 3 seconds and 1 GB."""
DOTS = 50_000_000
"""Maximum sum of squares of the dots per line of TOML: time and memory for a key `a.a.a…` are quadratic."""


def read_bytes(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises OSError for any other."""
    handle = os.open(path, os.O_RDONLY | NONBLOCK | BINARY)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "not a regular file")
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(0, f"larger than {most:,} bytes")
    return found


def check_toml(text: str) -> None:
    """Raise ValueError for TOML whose dotted keys take quadratic time and memory to parse."""
    if sum(line.count(".") ** 2 for line in text.split("\n")) > DOTS:
        raise ValueError("too many dots in a line")
