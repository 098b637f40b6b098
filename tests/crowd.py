"""Install twenty test plugins into a folder: five are broken, one has a catalogue of 100,000 rows."""

from __future__ import annotations

import json
from pathlib import Path

ROW = {"modality": "image", "dim": 4, "input": {"size": 8, "mean": [0.5], "std": [0.5]}}
CODE = """
from zoo.plugin import Plugin

class Crowd(Plugin):
    api = 1

    def build(self, entry, files): ...

plugin = Crowd()
"""
BROKEN = {
    "raises": "raise RuntimeError('boom')",
    "missing": "import no_such_library",
    "leaves": "import sys; sys.exit('bye')",
    "syntax": "def (",
    "recursion": "def f(): f()\nf()",
}


def install(site: Path, name: str, code: str = CODE, rows: object = None, text: str | None = None) -> None:
    """Write a distribution with one plugin to a folder; `text` replaces the catalogue verbatim."""
    package = site / f"crowd_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    (package / "catalogue.json").write_text(
        json.dumps({f"{name}/a": ROW} if rows is None else rows) if text is None else text
    )
    info = site / f"crowd_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: crowd-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo.plugins]\n{name} = crowd_{name}:plugin\n")


def crowd(site: Path, rows: int = 100_000) -> None:
    """Install all twenty plugins."""
    for name, code in BROKEN.items():
        install(site, name, code)
    install(site, "huge", rows={f"huge/net_{index}": ROW for index in range(rows)})
    for index in range(14):
        install(site, f"fine{index}")
