"""Load a backbone from a custom catalogue row, by a zoo.toml in a temporary working folder."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import zoo


def toml(value: object) -> str:
    """Format a value or an inline table as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # JSON strings, numbers and booleans are valid TOML


def table(name: str, row: Mapping[str, object]) -> str:
    """Format a row as a TOML table."""
    return f'["{name}"]\n' + "".join(f"{key} = {toml(value)}\n" for key, value in row.items())


def load(name: str, row: Mapping[str, object]) -> zoo.Model:
    """Load the backbone of a row that is in no catalogue."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("zoo.toml").write_text(table(name, row), encoding="utf-8")
        return zoo.load(name)


def grey(arch: str, mean: float, std: float) -> dict[str, object]:
    """Return the row of a native backbone for grey images of 28 px, without weights."""
    return {
        "modality": "image",
        "license": "mit",
        "tasks": ["classify", "multilabel", "regress"],
        "input": {"size": 28, "mean": [mean], "std": [std], "interpolation": "bilinear", "crop": 1.0},
        "options": {"arch": arch},
    }
