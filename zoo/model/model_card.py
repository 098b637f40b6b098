"""The model card of a saved model, in Markdown, from its manifest."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from zoo.console import counted, printable

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from zoo.tasks.intervals import Interval

LONGEST_LABEL, LONGEST_NAME = 100, 200
"""Characters of a label, and of a name in the metadata, that are shown."""
FEW = 100
"""Examples below which the interval of an accuracy is wider than 0.1 to each side at worst (Wilson)."""
TRAINING_FIELDS = ("steps", "batch_size", "lr", "backbone_lr", "augment")
SHOWN_FIELDS = ("strategy", "seed", *TRAINING_FIELDS, "max_length", "precision")
"""Fields of the recipe on the card; those of TRAINING_FIELDS mean nothing for a probe."""
HUB_DATA = re.compile(r"hf:([\w.-]+(?:/[\w.-]+)?)\b.*", re.ASCII)
TASK_TYPES = {
    ("classify", "image"): "image-classification",
    ("classify", "text"): "text-classification",
    ("multilabel", "image"): "image-classification",
    ("multilabel", "text"): "text-classification",
    ("tag", "text"): "token-classification",
    ("causal-lm", "text"): "text-generation",
    ("masked-lm", "text"): "fill-mask",
}
"""Task and modality -> task of the Hub."""


def intervals(manifest: Mapping[str, Any], part: str) -> dict[str, Interval]:
    """Return the confidence intervals of "valid" or "test", {} where a manifest of any origin has none."""
    found = manifest.get("training", {}).get("intervals")
    rows = found.get(part) if isinstance(found, dict) else None
    pairs = {name: row for name, row in rows.items() if _is_interval(row)} if isinstance(rows, dict) else {}
    return {name: (low, high) for name, (low, high) in pairs.items()}


def _is_interval(row: Any) -> bool:
    return isinstance(row, list | tuple) and len(row) == 2 and all(isinstance(end, int | float) for end in row)


def write(manifest: Mapping[str, Any], name: str) -> str:
    """Return the text of a saved model's README.md; labels, names and licences cannot add markup to it.

    Its metadata are those of the Hub: ModelCardData of huggingface_hub, with an EvalResult for each metric.
    """
    entry, task, data = manifest["entry"], manifest["task"], manifest["data"]
    known = task["labels"]
    labels = ", ".join(_code(label) for label in known[:50])
    more = f" and {len(known) - 50} more" if len(known) > 50 else ""
    learnt = f"{task['name']} {len(known)} labels: {labels}{more}" if len(known) > 1 else task["name"]
    parts = (
        _table(manifest["metrics"], counted(data["valid"], "validation example"), intervals(manifest, "valid")),
        _table(manifest["tested"], counted(data["test"], "test example"), intervals(manifest, "test")),
    )
    measured = "\n".join(filter(None, parts)) or "Not measured.\n"
    licence, source = entry.get("license") or "unknown", entry.get("source") or "random weights"
    limits = "\n".join(f"- {limit}" for limit in _limits(manifest))
    quoted = shlex.quote(printable(name))
    return f"""---
{_metadata(manifest, name)}---

# {_plain(name)}

{_code(entry["name"])} fine-tuned to {learnt}.

## Use

    zoo predict {quoted} INPUT

    import zoo

    zoo.load({_python(name)}).predict(INPUT)

## Results

{measured}
## Limits

{limits}

## Training

- data: {_plain(data["origin"])}, {counted(data["train"], "training example")}, SHA-256 {data["fingerprint"]}
- recipe: {_recipe(manifest["recipe"])}
- backbone: pretrained on {_plain(entry.get("pretrained_on") or "nothing")}, from {_plain(source)}
- licence of the backbone: {_plain(licence)}

Everything else is in zoo.json; {_code(f"zoo report {quoted}")} writes a page with its mistakes.
"""


def _metadata(manifest: Mapping[str, Any], name: str) -> str:
    """Return the metadata of the card as YAML."""
    from huggingface_hub import ModelCardData

    entry, origin = manifest["entry"], manifest["data"]["origin"]
    hub_data = HUB_DATA.fullmatch(origin)
    kind = TASK_TYPES.get((manifest["task"]["name"], entry.get("modality")))
    found = ModelCardData(
        base_model=printable(entry["name"], LONGEST_NAME),
        datasets=[hub_data[1]] if hub_data else None,
        eval_results=_evaluations(manifest, kind) or None,
        library_name="zoo",
        license=printable(entry.get("license") or "unknown", LONGEST_NAME),
        model_name=printable(name, LONGEST_NAME),
        pipeline_tag=kind,
    )
    return f"{found.to_yaml()}\n"


def _evaluations(manifest: Mapping[str, Any], kind: str | None) -> list[EvalResult]:
    """Return an EvalResult for each metric of each part."""
    from huggingface_hub import EvalResult

    origin = printable(manifest["data"]["origin"], LONGEST_NAME)
    return [
        EvalResult(
            task_type=kind or manifest["task"]["name"],
            dataset_type=origin.removeprefix("hf:"),
            dataset_name=origin,
            dataset_split=split,
            metric_type="f1" if metric.endswith("f1") else metric,
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for split, key in (("validation", "metrics"), ("test", "tested"))
        for metric, value in manifest[key].items()
    ]


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the results do not show, as far as the run knows it."""
    data, training = manifest["data"], manifest.get("training", {})
    held = data["test"] or data["valid"]
    if not held:
        yield "Nothing was held out: how well it answers for other inputs is not known."
    elif held < FEW:
        yield f"{counted(held, 'example')} to measure on are few: read the intervals, not the figures."
    if data["valid"] and not data["test"] and len(manifest.get("history", [])) > 1:
        yield "Its weights are the best of several evaluations on the validation data, whose figures flatter it."
    leaks = (
        _leak(data["near_duplicates"], "validation", "training data"),
        _leak(data["test_duplicates"], "test", "training or validation data"),
    )
    yield from filter(None, leaks)
    calibration = training.get("calibration")
    if isinstance(calibration, dict) and isinstance(calibration.get("after"), int | float):
        yield f"Its probabilities were calibrated: expected calibration error {calibration['after']:.3f}."
    elif manifest["task"]["name"] in ("classify", "multilabel", "tag"):
        yield "Its probabilities were not calibrated: compare them, and do not read them as frequencies."
    yield "It answers every input, also one of another kind than its training data, with one of its labels or numbers."


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Return strategy and seed, and what else a reader asks for first."""
    named = [name for name in SHOWN_FIELDS if recipe.get(name) is not None]
    if recipe["strategy"] == "probe":
        named = [name for name in named if name not in TRAINING_FIELDS]
    return ", ".join(f"{name} {_plain(str(recipe[name]))}" for name in named)


def _python(text: str) -> str:
    """Return a Python literal of a text."""
    return json.dumps(printable(text))


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
    return f"{counted(count, f'{kind} example')} {have} a near-duplicate in the {where}." if count else ""
