"""SHA-256 fingerprints of inputs and datasets."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from zoo.data.examples import Examples


def fingerprint(examples: Examples) -> str:
    """Return the SHA-256 of labels and inputs: paths by relative name, size and mtime, all else by content."""
    digest = hashlib.sha256()
    for item, label in zip(examples.inputs, examples.labels, strict=True):
        digest.update(f"{identity(item, examples.origin)}\t{label!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def identity(item: Any, origin: str = "") -> str:
    """Return a cheap identity of one input: name, size and mtime of a path, SHA-256 of all else."""
    if isinstance(item, dict):  # an image of the `datasets` library
        item = item.get("bytes") or Path(item.get("path") or "")
    if isinstance(item, os.PathLike):
        path = Path(item)
        name = path.relative_to(origin) if path.is_relative_to(origin) else path
        try:
            stat = path.stat()
        except (OSError, ValueError):  # decoding says why
            return f"{name}\tmissing"
        return f"{name}\t{stat.st_size}\t{stat.st_mtime_ns}"
    if isinstance(item, str | tuple | list):
        item = repr(item).encode("utf-8", "surrogatepass")
    if isinstance(item, bytes):
        return hashlib.sha256(item).hexdigest()
    if hasattr(item, "detach"):
        item = item.detach().cpu().numpy()
    shape = getattr(item, "shape", None) or (item.mode, item.size)  # equal bytes of another shape are another image
    return hashlib.sha256(repr(shape).encode() + item.tobytes()).hexdigest()
