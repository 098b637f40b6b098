"""Check the tracked files: no unexpected entry at the top level, no large file that is not listed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOP = frozenset(
    {".ci", ".gitignore", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md"}
    | {"SECURITY.md", "docs", "plugins", "pyproject.toml", "registry.toml", "tests", "tools", "zoo"}
)
LARGEST = 1_000_000
"""Bytes of a file above which it has to be listed in LARGE."""
LARGE: frozenset[str] = frozenset()


def problems(sizes: Mapping[str, int]) -> Iterable[str]:
    """Yield what is wrong with tracked files, given as path -> bytes."""
    for entry in sorted({path.partition("/")[0] for path in sizes} - TOP):
        yield f"{entry}: not in TOP; git rm -r --cached {entry}, or add it to tools/check_tree.py"
    for path, size in sorted(sizes.items()):
        if size > LARGEST and path not in LARGE:
            yield f"{path}: {size:,} bytes; git rm --cached {path}, or add it to LARGE in tools/check_tree.py"


def tracked() -> dict[str, int]:
    """Return the size of each file in git's index."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = (name for name in listed.split("\0") if name and (ROOT / name).exists())
    return {name: (ROOT / name).stat().st_size for name in paths}


if __name__ == "__main__":
    sys.exit("\n".join(problems(tracked())) or None)
