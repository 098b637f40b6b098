"""The model card: what a saved model is, in Markdown, from its manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def write(manifest: Mapping[str, Any], name: str) -> str:
    """Return the text of a saved model's README.md."""
    entry, task, data = manifest["entry"], manifest["task"], manifest["data"]
    labels = ", ".join(f"`{label}`" for label in task["labels"][:50])
    more = f" and {len(task['labels']) - 50} more" if len(task["labels"]) > 50 else ""
    scores = "".join(f"| {key} | {value:.4f} |\n" for key, value in manifest["metrics"].items())
    measured = (
        f"| metric | on {data['valid']:,} validation examples |\n|---|---|\n{scores}" if scores else "Not measured.\n"
    )
    return f"""---
library_name: zoo
base_model: {entry["name"]}
license: {entry.get("license") or "unknown"}
---

# {name}

`{entry["name"]}` fine-tuned to {task["name"]} {len(task["labels"])} labels: {labels}{more}.

    zoo predict {name} INPUT

## Results

{measured}
## Training

- data: {data["origin"]}, {data["examples"]:,} training examples, SHA-256 of the list {data["fingerprint"]}
- strategy: {manifest["recipe"]["strategy"]}, seed {manifest["recipe"]["seed"]}
- backbone: pretrained on {entry.get("pretrained_on") or "nothing"}, from {entry.get("source") or "random weights"}

Everything else is in zoo.json.
"""
