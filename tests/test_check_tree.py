"""tools/check_tree.py: stray folders and large files fail the check."""

from __future__ import annotations

import runpy
from pathlib import Path

CHECK = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "check_tree.py"))


def test_expected_files_pass():
    assert list(CHECK["problems"]({"README.md": 10, "zoo/model/model.py": 9_000})) == []


def test_stray_folders_and_large_files_are_reported():
    found = list(CHECK["problems"]({"another/blobs/3aace9": 16_000_000, "zoo/x.py": 10}))
    assert found == [
        "another: not in TOP; git rm -r --cached another, or add it to tools/check_tree.py",
        "another/blobs/3aace9: 16,000,000 bytes; git rm --cached another/blobs/3aace9, or add it to LARGE "
        "in tools/check_tree.py",
    ]
