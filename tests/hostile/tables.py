"""Hostile tables: nested, endless or contradictory cells."""

from __future__ import annotations

from pathlib import Path

from hostile.case import Case


def nested_labels(folder: Path) -> list[str]:
    """Labels nested 900 deep."""
    row = '{"text": "a b c", "label": ' + "[" * 900 + "]" * 900 + "}\n"
    (folder / "deep.jsonl").write_text(row * 8)
    return ["finetune", "hf/bert-tiny", "deep.jsonl"]


CASES = [Case("labels nested 900 deep", nested_labels)]
