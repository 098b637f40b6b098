"""The model card of a saved model, in Markdown, from its manifest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.console import counted, printable

if TYPE_CHECKING:
    from zoo.tasks.intervals import Interval

LONGEST_LABEL = 100
"""Characters of a label that are shown."""


def intervals(manifest: Mapping[str, Any], part: str) -> dict[str, Interval]:
    """Return the confidence intervals of "valid" or "test", {} where a manifest of any origin has none."""
    found = manifest.get("training", {}).get("intervals")
    rows = found.get(part) if isinstance(found, dict) else None
    pairs = {name: row for name, row in rows.items() if _is_interval(row)} if isinstance(rows, dict) else {}
    return {name: (low, high) for name, (low, high) in pairs.items()}


def _is_interval(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) == 2 and all(isinstance(end, int | float) for end in row)


def write(manifest: Mapping[str, Any], name: str) -> str:
    """Return the text of a saved model's README.md; labels, names and licences cannot add markup to it."""
    entry, task, data = manifest["entry"], manifest["task"], manifest["data"]
    known = task["labels"]
    labels = ", ".join(_code(label) for label in known[:50])
    more = f" and {len(known) - 50} more" if len(known) > 50 else ""
    learnt = f"{task['name']} {len(known)} labels: {labels}{more}" if len(known) > 1 else task["name"]
    parts = (
        _table(manifest["metrics"], counted(data["valid"], "validation example"), intervals(manifest, "valid")),
        _table(manifest["tested"], counted(data["test"], "test example"), intervals(manifest, "test")),
    )
    leaks = (
        _leak(data["near_duplicates"], "validation", "training data"),
        _leak(data["test_duplicates"], "test", "training or validation data"),
    )
    source = entry.get("source") or "random weights"
    measured = "\n".join(filter(None, (*parts, *leaks))) or "Not measured.\n"
    return f"""---
library_name: zoo
base_model: {json.dumps(printable(entry["name"]))}
license: {json.dumps(printable(entry.get("license") or "unknown"))}
---

# {_plain(name)}

{_code(entry["name"])} fine-tuned to {learnt}.

    zoo predict {shlex.quote(printable(name))} INPUT

## Results

{measured}
## Training

- data: {_plain(data["origin"])}, {counted(data["train"], "training example")}, SHA-256 {data["fingerprint"]}
- strategy: {manifest["recipe"]["strategy"]}, seed {manifest["recipe"]["seed"]}
- backbone: pretrained on {_plain(entry.get("pretrained_on") or "nothing")}, from {_plain(source)}

Everything else is in zoo.json.
"""


def _plain(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    return re.sub(r"([\\`*<>&\[\]])", r"\\\1", printable(text))


def _code(text: object) -> str:
    """Return inline code, between more backticks than the text has in a row."""
    shown = printable(str(text), LONGEST_LABEL)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def _table(metrics: Mapping[str, float], examples: str, known: Mapping[str, Interval]) -> str:
    def row(name: str, value: float) -> str:
        low_high = f"{known[name][0]:.4f} to {known[name][1]:.4f}" if name in known else ""
        return f"| {name} | {value:.4f} | {low_high} |\n"

    rows = "".join(row(name, value) for name, value in metrics.items())
    return f"| metric | on {examples} | 95 % interval |\n|---|---|---|\n{rows}" if rows else ""


def _leak(count: int | None, kind: str, where: str) -> str:
    have = "has" if count == 1 else "have"
    return f"{counted(count, f'{kind} example')} {have} a near-duplicate in the {where}.\n" if count else ""
