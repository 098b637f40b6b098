"""Write the fixes that findings suggest as a table to edit, which `zoo finetune --fixes` applies (zoo.data.fixes)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data.examples import Examples
from zoo.data.fixes import COLUMNS, as_text, as_written, key_of
from zoo.evidence.report.facts import Facts, Part
from zoo.evidence.report.findings import Finding, Item
from zoo.model import result_files

REASONS = {
    "leakage": "drop",
    "conflicting-labels": "",
    "label-issues": "",
    "blank": "drop",
    "outliers": "",
}
"""Kinds of findings that are about single examples -> the action that is filled in, "" where a person has to decide."""
TYPES = dict.fromkeys(COLUMNS, "text") | {"score": "number"}


def write(path: Path, facts: Facts, findings: Sequence[Finding]) -> int:
    """Write a row for each example that findings doubt, most suspicious first; returns their number.

    The rows that the model was fine-tuned with come first, so that one table holds all decisions. Examples of test data
    that the fine-tuning did not read are left out. Raises DataError where the file cannot be written.
    """
    rows = [dict(row) for row in facts.training.get("fixes", {}).get("rows", [])]
    known = {(row["id"], row["input"]) for row in rows}
    with result_files.create(path, TYPES) as add:
        found = [row for row in _rows(facts, findings) if (row["id"], row["input"]) not in known]
        add(rows + found)
    return len(rows) + len(found)


def _rows(facts: Facts, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    read = {name: part for name, part in facts.parts.items() if name != "test" or _was_read(facts, part)}
    doubts: dict[tuple[str, int], list[tuple[str, Item]]] = defaultdict(list)
    for kind in REASONS:
        for finding in findings:
            for item in finding.items if finding.kind == kind else ():
                if item.part in read and not read[item.part].is_blocks:
                    doubts[item.part, item.index].append((kind, item))
    base = _base(part.whole.examples for part in read.values())
    return [_row(read[part].whole.examples, index, base, reasons) for (part, index), reasons in doubts.items()]


def _was_read(facts: Facts, part: Part) -> bool:
    """Return whether the test examples are a share of the data that the model was fine-tuned on."""
    return part.whole.examples.origin == facts.parts["train"].whole.examples.origin if "train" in facts.parts else False


def _row(examples: Examples, index: int, base: str, reasons: Sequence[tuple[str, Item]]) -> dict[str, Any]:
    item = (examples.files or examples.inputs)[index]
    kinds = [kind for kind, _ in reasons]
    suggested = next((one.suggested for _, one in reasons if one.suggested is not None), None)
    scores = [one.score for _, one in reasons if one.score is not None]
    return {
        "input": os.path.relpath(item, base) if isinstance(item, os.PathLike) else as_written(item),
        "id": key_of(item),
        "label": as_text(examples.labels[index]),
        "suggested": "" if suggested is None else as_text(suggested),
        "reason": "; ".join(f"{kind}: {one.note}" for kind, one in reasons),
        "score": scores[0] if scores else None,
        "action": "" if "conflicting-labels" in kinds else next((REASONS[kind] for kind in kinds if REASONS[kind]), ""),
    }


def _base(parts: Any) -> str:
    """Return the folder that all files are in; "" where there are none."""
    paths = [item for part in parts for item in (part.files or part.inputs) if isinstance(item, os.PathLike)]
    return os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
