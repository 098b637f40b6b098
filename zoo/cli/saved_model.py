"""A saved model as the commands show it: its scores with their intervals, and its details."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import console
from zoo.model import artefact
from zoo.model.model_card import intervals

if TYPE_CHECKING:
    from zoo.tasks.intervals import Interval

MAIN_METRICS = {"multilabel": "map", "regress": "r2", "causal-lm": "perplexity", "masked-lm": "perplexity"}
"""Metric that is shown first, by task; accuracy for classes, F1 for tags."""
LABELS = 10
"""Labels that are shown."""
Manifest = Mapping[str, Any]


def folder_of(name: str) -> Path | None:
    """Return the folder of a saved model if a name stands for one, as in `zoo.load`."""
    path = Path(os.path.expanduser(name))
    return path if name.startswith((".", "/", "~")) or artefact.is_saved(path) else None


def saved_at(folder: Path) -> float:
    """Return when a model was saved, in seconds since 1970."""
    return (folder / artefact.MANIFEST).stat().st_mtime


def facts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what `zoo runs --json` and `zoo info --json` say of a saved model."""
    data = {key: manifest["data"][key] for key in ("origin", "train", "valid", "test", "fingerprint")}
    return {
        "folder": str(folder),
        "task": manifest["task"].get("name"),
        "labels": manifest["task"].get("labels"),
        "backbone": manifest["entry"].get("name"),
        "metrics": manifest["metrics"],
        "tested": manifest["tested"],
        "intervals": {part: intervals(manifest, part) for part in ("valid", "test")},
        "data": data,
        "recipe": manifest["recipe"],
        "seconds": manifest["training"].get("seconds"),
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(saved_at(folder))),
    }


def score(manifest: Manifest, part: str) -> str:
    """Return the main metric on a part of the data with its interval, "" if it was not measured."""
    metrics = manifest["metrics" if part == "valid" else "tested"]
    task = manifest["task"].get("name")
    name = MAIN_METRICS.get(str(task), "accuracy")
    if task == "tag":
        name = "entity_f1" if "entity_f1" in metrics else "macro_f1"
    if part == "valid" and not metrics and "folds" in manifest["training"]:
        folds = manifest["training"]["folds"]
        low_high = {name: tuple(folds["intervals"][name])}
        return f"{_with_interval(name, folds['mean'][name], low_high)}, {len(folds['scores'])} folds"
    return _with_interval(name, metrics[name], intervals(manifest, part)) if name in metrics else ""


def _with_interval(name: str, value: float, known: Mapping[str, Interval]) -> str:
    low_high = f" [{known[name][0]:.3f}, {known[name][1]:.3f}]" if name in known else ""
    return f"{name.replace('_f1', '-F1')} {value:.3f}{low_high}"


def show(folder: Path, *, as_json: bool) -> None:
    """Print the details of a saved model."""
    manifest = artefact.read(folder)
    if as_json:
        console.document(facts(folder, manifest))
        return
    with artefact.understanding(folder):
        details = list(_details(folder, manifest))
    for topic, text in details:
        console.line(f"{topic:<14} {console.printable(text)}")


def _details(folder: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    data, recipe, labels = manifest["data"], manifest["recipe"], manifest["task"].get("labels") or []
    more = f" and {len(labels) - LABELS:,} more" if len(labels) > LABELS else ""
    yield "saved model", str(folder)
    yield "task", f"{manifest['task'].get('name')}: {', '.join(map(str, labels[:LABELS]))}{more}".removesuffix(": ")
    yield "backbone", str(manifest["entry"].get("name"))
    for topic, part, key in (("validation", "valid", "metrics"), ("test", "test", "tested")):
        known = intervals(manifest, part)
        scores = ", ".join(_with_interval(name, value, known) for name, value in manifest[key].items())
        count = console.counted(data[part], "example")
        yield topic, f"{scores}   ({count})" if scores else score(manifest, part) or "not measured"
    count = console.counted(data["train"], "training example")
    yield "data", f"{data['origin']}: {count}, SHA-256 {data['fingerprint']}"
    yield "recipe", ", ".join(f"{name}={value}" for name, value in recipe.items() if value is not None)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(saved_at(folder)))
    yield "saved", f"{when}, after {console.duration(manifest['training']['seconds'])} of training"
    size = sum(file["bytes"] for file in manifest["files"].values())
    yield "size", f"{size / 1e6:.1f} MB"
    yield "licence", str(manifest["entry"].get("license") or "?")
    yield "use", f"zoo predict {shlex.quote(str(folder))} INPUT"
