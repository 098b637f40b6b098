"""Folders of pulled saved models: `<home>/models/<identity>`, whose files are hard links to blobs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from zoo.store.lock import Receipt
from zoo.store.paths import home

PUSHED = "zoo/"
"""Folder of the saved model in a repository."""
PART = ".part-"
"""Prefix of a folder that is being made."""


def parent() -> Path:
    """Return the folder of all."""
    return home() / "models"


def folder(files: Mapping[str, Path]) -> Path:
    """Return a saved folder made of the blobs of a repository: hard links, or copies where there are none."""
    names = {path.removeprefix(PUSHED): local for path, local in files.items() if path.startswith(PUSHED)}
    target = parent() / _identity({name: local.name for name, local in names.items()})
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=target.parent))
        for name, local in names.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(local, part / name)
            except OSError:
                shutil.copyfile(local, part / name)
        try:
            part.rename(target)
        except OSError:  # another process was faster
            shutil.rmtree(part, ignore_errors=True)
    return target


def unreferenced(receipts: Iterable[Receipt]) -> list[Path]:
    """Return the folders that no receipt stands for; without those that are being made."""
    kept = set()
    for receipt in receipts:
        names = {file.path.removeprefix(PUSHED): file.sha256 for file in receipt.files if file.path.startswith(PUSHED)}
        kept.add(_identity({name: sha256 or "" for name, sha256 in names.items()}))
    found = parent().iterdir() if parent().is_dir() else ()
    return sorted(path for path in found if path.name not in kept and not path.name.startswith(PART))


def parts() -> list[Path]:
    """Return the folders that are being made, or were by a killed process."""
    return sorted(parent().glob(f"{PART}*"))


def remove(path: Path) -> int:
    """Remove a folder; returns the bytes freed: a file that is a blob too still takes its space."""
    found = [file.lstat() for file in path.rglob("*") if not file.is_dir()]
    shutil.rmtree(path)
    return sum(stat.st_size for stat in found if stat.st_nlink == 1)


def _identity(names: Mapping[str, str]) -> str:
    lines = "\n".join(f"{name} {sha256}" for name, sha256 in sorted(names.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
