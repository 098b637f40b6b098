"""The model card of a saved model, in Markdown, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write(manifest: Mapping[str, Any], name: str) -> str:
    """Return the text of a saved model's README.md."""
    entry, task, data = manifest["entry"], manifest["task"], manifest["data"]
    known = task["labels"]
    labels = ", ".join(f"`{label}`" for label in known[:50])
    more = f" and {len(known) - 50} more" if len(known) > 50 else ""
    learnt = f"{task['name']} {len(known)} labels: {labels}{more}" if len(known) > 1 else task["name"]
    parts = (
        _table(manifest["metrics"], "validation", data["valid"]),
        _table(manifest["tested"], "test", data["test"]),
    )
    leaks = (
        _leak(data["near_duplicates"], "validation", "training data"),
        _leak(data["test_duplicates"], "test", "training or validation data"),
    )
    measured = "\n".join(filter(None, (*parts, *leaks))) or "Not measured.\n"
    return f"""---
library_name: zoo
base_model: {entry["name"]}
license: {entry.get("license") or "unknown"}
---

# {name}

`{entry["name"]}` fine-tuned to {learnt}.

    zoo predict {name} INPUT

## Results

{measured}
## Training

- data: {data["origin"]}, {data["train"]:,} training examples, SHA-256 of the data {data["fingerprint"]}
- strategy: {manifest["recipe"]["strategy"]}, seed {manifest["recipe"]["seed"]}
- backbone: pretrained on {entry.get("pretrained_on") or "nothing"}, from {entry.get("source") or "random weights"}

Everything else is in zoo.json.
"""


def _table(metrics: Mapping[str, float], kind: str, count: int) -> str:
    rows = "".join(f"| {key} | {value:.4f} |\n" for key, value in metrics.items())
    return f"| metric | on {count:,} {kind} examples |\n|---|---|\n{rows}" if rows else ""


def _leak(count: int | None, kind: str, where: str) -> str:
    return f"{count:,} {kind} examples have a near-duplicate in the {where}.\n" if count else ""
