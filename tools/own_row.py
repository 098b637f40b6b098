"""Load a net from a catalogue row of one's own, as a user would: a zoo.toml in the working folder."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import zoo


def toml(value: object) -> str:
    """Write a table of a row, or a value in it, on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers, true and false look the same in both


def table(name: str, row: Mapping[str, object]) -> str:
    """Write a row as a TOML table."""
    return f'["{name}"]\n' + "".join(f"{key} = {toml(value)}\n" for key, value in row.items())


def load(name: str, row: Mapping[str, object]) -> zoo.Model:
    """Load the net of a row that no catalogue has."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("zoo.toml").write_text(table(name, row), encoding="utf-8")
        return zoo.load(name)


def grey(arch: str, mean: float, std: float) -> dict[str, object]:
    """Return the row of a native net for grey images of 28 px, without weights."""
    return {
        "modality": "image",
        "license": "mit",
        "tasks": ["classify", "multilabel", "regress"],
        "input": {"size": 28, "mean": [mean], "std": [std], "interpolation": "bilinear", "crop": 1.0},
        "options": {"arch": arch},
    }
