"""The model card: what a saved model is, in Markdown, from its manifest alone."""

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

`{entry["name"]}` fine-tuned to {learnt}.

    zoo predict {name} INPUT

## Results

{measured}
## Training

- data: {data["origin"]}, {data["examples"]:,} training examples, SHA-256 of the list {data["fingerprint"]}
- strategy: {manifest["recipe"]["strategy"]}, seed {manifest["recipe"]["seed"]}
- backbone: pretrained on {entry.get("pretrained_on") or "nothing"}, from {entry.get("source") or "random weights"}

Everything else is in zoo.json.
"""
